//! `mqueue ingest`: publishes what arrives on sockets to a stream.
//!
//! ```text
//!  unix:, tcp:      a task a connection: read ─▶ lines ─▶ FeedPublisher ─▶ OK of nsqd ─▶ read on … end ─▶ "OK 500"
//!  unixgram:, udp:  receiver ─▶ queue (bounded) ─▶ FeedPublisher
//! ```
//!
//! A reader takes no more input until its last input is published or queued. So a stream's sender
//! is throttled, and memory is bounded.

pub(crate) mod args;
mod datagram;
mod drops;
mod listen;
mod publisher;
mod stats;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::TaskTracker;

use self::datagram::Datagrams;
use self::listen::{FeedSocket, IngestSocket};
use self::publisher::FeedPublisher;
use self::stats::IngestStats;
use super::common::exit::{Exit, Failure};
use super::common::run_broker::BrokerAddresses;
use super::common::service::{notify, notify_interval};
use super::common::stdout_thread::{StdoutLines, StdoutThread, json_line};
use crate::commands::common::metrics::publish_meter::PublishMeter;
use crate::commands::common::metrics::status_server::{self, StatusServer};
use crate::commands::common::values::ReportFormat;
use crate::commands::ingest::args::Args;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// Time without nsqd after which the outage is logged.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the sockets' tasks to count what they give up.
const ENDING: Duration = Duration::from_secs(1);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let sockets = listen::open(&args.listen).await?;
    let shutdown = Shutdown::on_signals(args.grace)?;
    let stats = Arc::<IngestStats>::default();
    let meter = args.metrics_listen.is_some().then(|| PublishMeter::new(&args.to));
    let _server = serve_metrics(&args, meter.as_ref(), stats.clone()).await?;
    let output = (args.report() == ReportFormat::Json).then(StdoutThread::for_reports).transpose()?;
    let brokers = BrokerAddresses::find(&args.broker).await?;
    let config = PublisherConfig::default().with_connect(args.broker.connect()).with_timeout(TIMEOUT);
    let publisher = tokio::select! {
        connected = Publisher::connect(&brokers.tcp, config) => connected.map_err(|e| Failure::unavailable(&e))?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    meter.iter().for_each(|meter| meter.follow(publisher.clone()));
    let publisher = Arc::new(FeedPublisher::new(publisher, args.to.clone(), shutdown.clone(), stats, meter));
    let tasks = TaskTracker::new();
    for socket in sockets {
        tracing::info!(stream = %args.to, "listening on {}", socket.name);
        serve(socket, &args, &publisher, &tasks);
    }
    tasks.close();
    Notifier.ready();
    let started = Instant::now();
    let lines = output.as_ref().map(StdoutThread::lines);
    let exit = tokio::select! {
        biased;
        // polled first, because it also ends the tasks
        () = shutdown.now.cancelled() => Exit::Interrupted,
        () = tasks.wait() => publisher.stats.exit(),
        never = report_progress(&publisher, &shutdown, lines) => match never {},
    };
    if exit == Exit::Interrupted {
        // the tasks count what they give up
        let _ = timeout(ENDING, tasks.wait()).await;
    }
    // usually sent by `report_progress` already
    Notifier.stopping();
    publisher.stats.warn();
    match output {
        Some(output) => super::common::stdout::ended(output.end(json_line(&publisher.stats.line(true))).await)?,
        None => tracing::info!(stream = %args.to, "{}", publisher.stats.summary(started.elapsed())),
    }
    Ok(exit)
}

/// Serves the metrics, if they have an address.
async fn serve_metrics(
    args: &Args,
    meter: Option<&Arc<PublishMeter>>,
    stats: Arc<IngestStats>,
) -> Result<Option<StatusServer>, Failure> {
    let (Some(address), Some(meter)) = (&args.metrics_listen, meter) else { return Ok(None) };
    let router = meter.pages(|registry| stats.register(registry)).router();
    let paths = "/healthz, /metrics";
    status_server::serve("--metrics-listen", address, &args.http_guard, paths, router).await.map(Some)
}

fn serve(
    IngestSocket { socket, name, file }: IngestSocket,
    args: &Args,
    publisher: &Arc<FeedPublisher>,
    tasks: &TaskTracker,
) {
    let max = args.max_line as usize;
    let datagrams = match socket {
        FeedSocket::Unix(listener) => {
            tasks.spawn(stream::serve(listener, file, max, publisher.clone(), tasks.clone()));
            return;
        }
        FeedSocket::Tcp(listener) => {
            tasks.spawn(stream::serve(listener, file, max, publisher.clone(), tasks.clone()));
            return;
        }
        FeedSocket::Unixgram(socket) => Datagrams::Unix(socket),
        FeedSocket::Udp(socket) => Datagrams::Udp(socket),
    };
    datagrams.enlarge_buffer(&name);
    tasks.spawn(datagram::serve(datagrams, file, max, args.max_queued, publisher.clone()));
}

/// Notifies systemd and reports progress; never returns, runs beside the work.
async fn report_progress(
    publisher: &FeedPublisher,
    shutdown: &Shutdown,
    lines: Option<StdoutLines>,
) -> std::convert::Infallible {
    let mut ticks = interval(notify_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.draining.cancelled(), if !stopping => {
                stopping = true;
                Notifier.stopping();
            }
        }
        notify(&publisher.stats.status(), stopping);
        publisher.stats.warn();
        lines.iter().for_each(|lines| lines.line_if_room(json_line(&publisher.stats.line(false))));
    }
}
