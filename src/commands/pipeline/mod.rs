//! `mqueue pipeline`: a sender, ingest, stages and a final consumer, for demonstration and measurement.
//!
//! ```text
//!  send ─unix─▶ ingest ─▶ stage-1 ─▶ stage 1 ─▶ stage-2 ─▶ stage 2 ─▶ … ─▶ final ─▶ counted here
//! ```
//!
//! Every hop is a child process of this program; its figures come from the lines of its `--report json`.

pub(crate) mod args;
mod ground;
mod hops;
mod ledger;
mod show;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::ground::Ground;
use self::hops::{Event, Hops};
use self::ledger::{Final, Ledger};
use self::show::{Show, Table};
use super::common::exit::{Exit, Failure};
use super::common::stdout;
use crate::commands::pipeline::args::Args;
use crate::commands::send::args::Rate;
use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::plural;
use mqueue::proto::{ChannelName, TopicName};
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

/// Longest time that the hops may take to start.
const START: Duration = Duration::from_secs(20);
/// Time without an arrival after which missing messages count as lost.
const PATIENCE: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(5);
/// The group of every hop.
const GROUP: &str = "pipeline";

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(Duration::from_secs(10))?;
    let ground = Ground::find(&args).await?;
    let streams = ground.streams(args.stages);
    let ledger = Arc::new(Mutex::new(Ledger::new(args.count)));
    let ending = Shutdown::new();
    let counting = count(&ground, streams.last().expect("there is a stage"), ledger.clone(), &ending).await?;
    let (told, events) = unbounded_channel();
    let hops = Hops::start(&args, &ground.tcp, &ground.folder, &streams, told)?;
    let show = Show::begin();
    let mut run = Run {
        table: Table::new(args.stages),
        show,
        ledger,
        events,
        ready: 0,
        finished: None,
        gone: None,
        interrupted: false,
    };
    run.introduce(&args, &ground);
    let result = run.play(hops, &args, &ground, &streams, &shutdown).await;
    ending.draining.cancel();
    let _ = counting.await;
    ground.clear(&streams).await;
    result?;
    let ledger = run.ledger.lock().unwrap_or_else(PoisonError::into_inner);
    run.show.end(run.table, &ledger, run.finished.as_ref(), run.interrupted);
    stdout::ended(run.show.shown())?;
    let lost = run.finished.is_none_or(|sent| ledger.lost(sent.sent) > 0);
    Ok(if lost && !run.interrupted { Exit::Failure } else { Exit::Success })
}

/// Counts the messages of the last stream, in a task of its own.
async fn count(
    ground: &Ground,
    stream: &TopicName,
    ledger: Arc<Mutex<Ledger>>,
    ending: &Shutdown,
) -> anyhow::Result<JoinHandle<()>> {
    let mut config = ConsumerConfig::new(stream.clone(), ChannelName::new(GROUP)?);
    config.nsqd = vec![ground.tcp.parse()?];
    config.flow.max_in_flight = 2000;
    let consumer = Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?;
    let worker = Worker::new(consumer, Arc::new(Final(ledger)), WorkerConfig::default())?;
    let ending = ending.clone();
    Ok(tokio::spawn(async move {
        worker.run(&ending).await;
    }))
}

/// State of a run.
struct Run {
    table: Table,
    show: Show,
    ledger: Arc<Mutex<Ledger>>,
    events: UnboundedReceiver<Event>,
    /// Number of hops that are ready.
    ready: usize,
    /// The sender's final report.
    finished: Option<hops::Sent>,
    /// Name of the last hop that ended.
    gone: Option<String>,
    /// True if Ctrl-C came before all messages had arrived.
    interrupted: bool,
}

impl Run {
    fn introduce(&self, args: &Args, ground: &Ground) {
        let broker = if ground.is_embedded() { "a broker in this program" } else { "nsqd" };
        let pace = match args.rate {
            Rate::Fixed(rate) => format!("{rate} a second"),
            Rate::Max => "as fast as they are taken".to_owned(),
        };
        let work = |n| match hops::work(args, n) {
            Duration::ZERO => "no work".to_owned(),
            work => format!("{work:?}"),
        };
        let (count, stages, tcp) = (args.count, args.stages, &ground.tcp);
        let works = (0..stages).map(work).collect::<Vec<_>>().join(", ");
        self.show.note(&format!(
            "{}, {pace}, over a Unix socket to ingest, then {} ({works}), on {broker} at {tcp}",
            plural::count(count, "message"),
            plural::count(stages, "stage"),
        ));
    }

    /// Runs the load, from the hops' start to their end.
    async fn play(
        &mut self,
        mut hops: Hops,
        args: &Args,
        ground: &Ground,
        streams: &[TopicName],
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        if timeout(START, self.wait_until_ready(hops.count())).await.is_err() {
            anyhow::bail!("the hops did not start within {} s: is the machine busy?", START.as_secs());
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
                    self.table.queues = ground.queues(streams).await;
                    let ledger = &mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
                    self.table.arrived(ledger);
                    self.show.progress(begun.elapsed(), &self.table);
                }
                () = shutdown.draining.cancelled() => {
                    self.interrupted = true;
                    break;
                }
                // for the last arrivals: checked often, but not after each
                () = sleep(MOMENT), if self.finished.is_some() => {}
            }
            if self.is_over() || self.show.is_closed() {
                break;
            }
            if let Some(name) = self.gone.take_if(|name| self.finished.is_none() || name != "send") {
                self.show.note(&format!("mqueue {name} has ended, which it should not"));
                break;
            }
        }
        hops.end().await;
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
        self.table.queues = ground.queues(streams).await;
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

    /// Returns true if all messages have arrived, or none has arrived for `PATIENCE`.
    fn is_over(&self) -> bool {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        self.finished.is_some() && (ledger.lost(self.sent()) == 0 || ledger.quiet() > PATIENCE)
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ready => self.ready += 1,
            Event::Ingested(line) => self.table.ingested(line),
            Event::Passed(stage, line) => self.table.passed(stage, line),
            Event::Sent(sent) => self.finished = Some(sent),
            Event::Gone(name) => self.gone = Some(name),
            Event::Said(line) => self.show.note(&line),
        }
    }
}
