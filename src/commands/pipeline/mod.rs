//! `mqueue pipeline`: a sender, ingest, stages and a final consumer, for demonstration and
//! measurement.
//!
//! ```text
//!  send ─unix─▶ ingest ─▶ stage-1 ─▶ stage 1 ─▶ stage-2 ─▶ stage 2 ─▶ … ─▶ final ─▶ counted here
//! ```
//!
//! Every hop is a child process of this program; its figures come from the lines of its `--report
//! json`.

pub(crate) mod args;
mod arrivals;
mod broker;
mod hops;
mod output;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::arrivals::{Arrivals, FinalHandler};
use self::broker::PipelineBroker;
use self::hops::{HopEvent, Hops};
use self::output::{HopTable, PipelineOutput};
use super::common::exit::{Exit, Failure};
use crate::commands::pipeline::args::Args;
use crate::commands::send::args::Rate;
use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::plural;
use mqueue::proto::{ChannelName, TopicName};
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

/// Longest time that the hops may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Time without an arrival after which missing messages count as lost.
const LOSS_TIMEOUT: Duration = Duration::from_secs(30);
const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// The group of every hop.
const GROUP: &str = "pipeline";

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(Duration::from_secs(10))?;
    let broker = PipelineBroker::find(&args).await?;
    let streams = broker.streams(args.stages);
    let arrivals = Arc::new(Mutex::new(Arrivals::new(args.count)));
    let ending = Shutdown::new();
    let counting = count(&broker, streams.last().expect("there is a stage"), arrivals.clone(), &ending).await?;
    let (event_sender, events) = unbounded_channel();
    let mut nsqd = vec!["--nsqd-tcp-address".to_owned(), broker.tcp().to_string()];
    nsqd.extend(args.broker.security.flags());
    let hops = Hops::start(&args, &nsqd, broker.folder(), &streams, event_sender)?;
    let output = PipelineOutput::begin();
    let mut run = PipelineRun {
        table: HopTable::new(args.stages),
        output,
        arrivals,
        events,
        ready: 0,
        finished: None,
        gone: None,
        interrupted: false,
    };
    run.introduce(&args, &broker);
    let result = run.play(hops, &args, &broker, &streams, &shutdown).await;
    ending.draining.cancel();
    let _ = counting.await;
    broker.clear(&streams).await;
    result?;
    let arrivals = run.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    run.output.end(run.table, &arrivals, run.finished.as_ref(), run.interrupted);
    run.output.stdout.end()?;
    let lost = run.finished.is_none_or(|sent| arrivals.lost(sent.sent) > 0);
    Ok(if lost && !run.interrupted { Exit::Failure } else { Exit::Success })
}

/// Counts the messages of the last stream, in a task of its own.
async fn count(
    broker: &PipelineBroker,
    stream: &TopicName,
    arrivals: Arc<Mutex<Arrivals>>,
    ending: &Shutdown,
) -> anyhow::Result<JoinHandle<()>> {
    let mut config = ConsumerConfig::new(stream.clone(), ChannelName::new(GROUP)?);
    config.nsqd = vec![broker.tcp().clone()];
    config.connect = broker.connect();
    config.flow.max_in_flight = 2000;
    let consumer = Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?;
    let worker = Worker::new(consumer, Arc::new(FinalHandler(arrivals)), WorkerConfig::default())?;
    let ending = ending.clone();
    Ok(tokio::spawn(async move {
        worker.run(&ending).await;
    }))
}

/// State of a run.
struct PipelineRun {
    table: HopTable,
    output: PipelineOutput,
    arrivals: Arc<Mutex<Arrivals>>,
    events: UnboundedReceiver<HopEvent>,
    /// Number of hops that are ready.
    ready: usize,
    /// The sender's final report.
    finished: Option<hops::SenderReport>,
    /// Name of the last hop that ended.
    gone: Option<String>,
    /// True if Ctrl-C came before all messages had arrived.
    interrupted: bool,
}

impl PipelineRun {
    fn introduce(&self, args: &Args, broker: &PipelineBroker) {
        let name = if broker.is_embedded() { "a broker in this program" } else { "nsqd" };
        let pace = match args.rate {
            Rate::Fixed(rate) => format!("{rate} a second"),
            Rate::Max => "as fast as they are taken".to_owned(),
        };
        let work = |n| match hops::work(args, n) {
            Duration::ZERO => "no work".to_owned(),
            work => format!("{work:?}"),
        };
        let (count, stages, tcp) = (args.count, args.stages, broker.tcp());
        let works = (0..stages).map(work).collect::<Vec<_>>().join(", ");
        self.output.note(&format!(
            "{}, {pace}, over a Unix socket to ingest, then {} ({works}), on {name} at {tcp}",
            plural::count(count, "message"),
            plural::count(stages, "stage"),
        ));
    }

    /// Runs the load, from the hops' start to their end.
    async fn play(
        &mut self,
        mut hops: Hops,
        args: &Args,
        broker: &PipelineBroker,
        streams: &[TopicName],
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        if timeout(START_TIMEOUT, self.wait_until_ready(hops.count())).await.is_err() {
            anyhow::bail!("the hops did not start within {} s: is the machine busy?", START_TIMEOUT.as_secs());
        }
        if let Some(name) = &self.gone {
            anyhow::bail!("mqueue {name} did not start");
        }
        hops.send(args)?;
        let begun = Instant::now();
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => self.note(event),
                _ = ticks.tick() => {
                    self.table.queues = broker.queues(streams).await;
                    let arrivals = &mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                    self.table.arrived(arrivals);
                    self.output.progress(begun.elapsed(), &self.table);
                }
                () = shutdown.draining.cancelled() => {
                    self.interrupted = true;
                    break;
                }
                // for the last arrivals: checked often, but not after each
                () = sleep(CHECK_INTERVAL), if self.finished.is_some() => {}
            }
            if self.is_over() || self.output.stdout.is_closed() {
                break;
            }
            if let Some(name) = self.gone.take_if(|name| self.finished.is_none() || name != "send") {
                self.output.note(&format!("mqueue {name} ended unexpectedly"));
                break;
            }
        }
        hops.end().await;
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
        self.table.queues = broker.queues(streams).await;
        Ok(())
    }

    async fn wait_until_ready(&mut self, count: usize) {
        while self.ready < count && self.gone.is_none() {
            if let Some(event) = self.events.recv().await {
                self.note(event);
            }
        }
    }

    fn sent(&self) -> u64 {
        self.finished.as_ref().map_or(0, |sent| sent.sent)
    }

    /// Returns true if all messages have arrived, or none has arrived for `LOSS_TIMEOUT`.
    fn is_over(&self) -> bool {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        self.finished.is_some() && (arrivals.lost(self.sent()) == 0 || arrivals.since_last() > LOSS_TIMEOUT)
    }

    fn note(&mut self, event: HopEvent) {
        match event {
            HopEvent::Ready => self.ready += 1,
            HopEvent::Ingested(line) => self.table.ingested(line),
            HopEvent::Passed(stage, line) => self.table.passed(stage, line),
            HopEvent::Sent(sent) => self.finished = Some(sent),
            HopEvent::Gone(name) => self.gone = Some(name),
            HopEvent::Said(line) => self.output.note(&line),
        }
    }
}
