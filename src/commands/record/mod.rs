//! `mqueue record`: a consumer that writes messages to segments.
//!
//! ```text
//!  Consumer ─▶ Worker ─▶ RecordHandler ─▶ RecordingThread: gathers, compresses, writes, syncs
//!     ▲                        ▲                  │
//!     └───────── FIN ──────────┴──── synced ──────┘
//! ```

pub(crate) mod args;
mod recording_thread;

use std::sync::Arc;
use std::time::Instant;

use self::recording_thread::{RecordingLimits, RecordingThread};
use super::common::exit::{Exit, Failure};
use super::common::recording::{FoundBlocks, RecordingFolder};
use super::common::service::{notify, notify_interval};
use super::common::worker_flags;
use crate::commands::common::metrics::group_meter::{self, GroupMeter};
use crate::commands::record::args::{Args, KeepLimit};
use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use mqueue::worker::{Worker, WorkerConfig};

/// Default of max-in-flight.
const MAX_IN_FLIGHT: u32 = 2000;
/// Default size of a segment.
const SEGMENT_BYTES: u64 = 128 << 20;
/// The number of segments that make up `--keep` at least.
const KEPT_SEGMENTS: u64 = 8;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let (folder, found) = RecordingFolder::open(&args.to, &args.stream).map_err(|e| Failure::new(Exit::Failure, e))?;
    log_completed(&args, found.as_ref());
    let handler = Arc::new(RecordingThread::start(folder, limits(&args), &shutdown.draining)?);
    let meter = args.metrics.wanted(|| GroupMeter::new(&args.stream, &args.group));
    let _server = args.metrics.serve(meter.as_ref(), GroupMeter::pages).await?;
    let started = Instant::now();
    let consumer = tokio::select! {
        connected = Consumer::connect(consumer_config(&args)) => connected.map_err(|e| Failure::unavailable(&e))?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    tracing::info!(stream = %args.stream, group = %args.group, "recording to {}", args.to.display());
    let notifier = Notifier;
    notifier.ready();
    let (control, shown) = (consumer.control(), handler.clone());
    let worker = Worker::new(consumer, handler.clone(), worker_config(&args))?.with_progress_hook(
        notify_interval(),
        Box::new(move |snapshot| {
            notify(&format!("{} recorded", count(shown.recorded(), "message")), snapshot.stopping)
        }),
    );
    let worker = group_meter::measured(worker, control, meter.as_deref());
    let (ended, stats) = worker.run(&shutdown).await;
    notifier.stopping();
    let finished = handler.finish().await;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(stream = %args.stream, group = %args.group, "{} recorded in {seconds:.1} s", count(stats.done, "message"));
    finished.map_err(|error| Failure::new(Exit::Failure, format!("the last segment has no index: {error}")))?;
    Ok(Exit::of_worker(ended, &stats)?)
}

/// Logs what a killed recorder left.
fn log_completed(args: &Args, found: Option<&FoundBlocks>) {
    let Some(found) = found else { return };
    found.damaged.iter().for_each(|damaged| tracing::warn!("{damaged}"));
    let messages = found.blocks.iter().map(|block| u64::from(block.count)).sum::<u64>();
    tracing::info!(
        "the last segment in {} was not finished: {} completed, {} of an incomplete block removed",
        args.to.display(),
        count(messages, "message"),
        count(found.torn, "byte"),
    );
}

fn limits(args: &Args) -> RecordingLimits {
    let (mut age, mut bytes) = (None, None);
    for limit in &args.keep {
        match limit {
            KeepLimit::Age(limit) => age = Some(age.unwrap_or(*limit).min(*limit)),
            KeepLimit::Bytes(limit) => bytes = Some(bytes.unwrap_or(*limit).min(*limit)),
        }
    }
    let segment_bytes = bytes.map_or(SEGMENT_BYTES, |bytes| SEGMENT_BYTES.min(bytes / KEPT_SEGMENTS));
    RecordingLimits {
        keep_age: age,
        keep_bytes: bytes,
        segment_bytes: args.rotate_size.unwrap_or(segment_bytes).max(1),
        segment_age: args.rotate_interval,
        sync_interval: args.sync_interval,
        // the other half arrives while these are written
        block_messages: (max_in_flight(args) as usize / 2).max(1),
    }
}

fn max_in_flight(args: &Args) -> u32 {
    args.max_in_flight.unwrap_or(MAX_IN_FLIGHT)
}

fn consumer_config(args: &Args) -> ConsumerConfig {
    let config = worker_flags::consumer_config(&args.stream, &args.group, &args.broker, &args.tuning);
    config.with_max_in_flight(max_in_flight(args))
}

fn worker_config(args: &Args) -> WorkerConfig {
    // a message that cannot be written is tried again forever: it never becomes a dead letter
    let config = WorkerConfig::default().with_max_attempts(0).with_dead_letters(args.stream.clone());
    let config = config.with_concurrency(max_in_flight(args) as usize);
    config.with_idle_timeout(args.exit.timeout).with_count(args.exit.count)
}
