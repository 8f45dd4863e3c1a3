//! `mqueue simulate`: many streams, a buffer, a pool of workers; latency from a chunk's creation to
//! the end of its work.
//!
//! ```text
//!  Workload (pure: chunks, due times) ─▶ generate ─┬─▶ buffer ──▶ workers ─┬─▶ SimulationStats ─▶ view, report, plot
//!                                                  └─▶ NSQ ─▶ the workers ─┘
//!  plan: the same Workload against many pools, without a clock
//! ```

pub(crate) mod args;
mod broker;
mod buffer;
mod generate;
mod plan;
mod plot;
mod queueing;
mod report;
mod series;
mod settings;
mod stats;
mod view;
mod workload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use self::broker::SimulationBroker;
use self::report::{FinalReport, SecondReport};
use self::settings::SimulationSettings;
use self::stats::SimulationStats;
use self::view::ProgressView;
use self::workload::Workload;
use super::common::exit::Exit;
use super::common::plot_file::PlotFile;
use super::common::stdout_thread::{OnWriteError, StdoutLines, StdoutThread, json_line};
use crate::commands::common::values::ReportFormat;
use crate::commands::simulate::args::{Args, Via};
use mqueue::shutdown::Shutdown;

/// Grace period for chunks in progress after Ctrl-C.
const GRACE: Duration = Duration::from_secs(60);

/// Limit on the lines that wait to be written. Lines about chunks are never dropped: a slow reader
/// slows the run.
const QUEUE_LEN: usize = 10_000;

/// State that all parts of a run share.
struct Simulation {
    settings: SimulationSettings,
    start: Instant,
    /// Time at which the streams end by themselves.
    until: Option<Duration>,
    shutdown: Shutdown,
    stats: Mutex<SimulationStats>,
    /// Output for a line per chunk, if requested.
    chunk_lines: Option<StdoutLines>,
}

impl Simulation {
    fn stats(&self) -> MutexGuard<'_, SimulationStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints the line for a chunk that a worker has processed.
    async fn print_chunk(&self, worker: u32, number: u64, stream: u32, length: usize) {
        if let Some(lines) = &self.chunk_lines {
            let line = format!(
                "Worker {worker} processed chunk {number} from stream {stream}, length of chunk's data is {length}"
            );
            lines.line(line).await;
        }
    }
}

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let settings = SimulationSettings::checked(&args)?;
    if args.plan {
        let text = plan::plan(&settings, args.duration) + "\n";
        super::common::stdout::print(&text)?;
        return Ok(Exit::Success);
    }
    let plot = args.plot.as_deref().map(PlotFile::at).transpose()?;
    let shutdown = Shutdown::on_signals(GRACE)?;
    let output = StdoutThread::start(QUEUE_LEN, OnWriteError::Cancel(shutdown.draining.clone()))?;
    let broker = match args.via {
        Via::Memory => None,
        Via::Broker => Some(SimulationBroker::find(&args.broker).await?),
    };
    let is_text = args.report() == ReportFormat::Text;
    if is_text {
        let via = broker.as_ref().map_or_else(|| "a buffer".to_owned(), SimulationBroker::describe);
        output.lines().line(report::configuration(&settings, &via)).await;
    }
    let run = Arc::new(Simulation {
        settings,
        start: Instant::now(),
        until: args.duration,
        shutdown,
        stats: Mutex::new(SimulationStats::new()),
        chunk_lines: (args.verbose && is_text).then(|| output.lines()),
    });
    let mut workload = Workload::new(&settings);
    let played = play(&run, broker.as_ref(), &mut workload, &output.lines(), is_text && !args.verbose).await;
    if let Some(broker) = broker {
        broker.clear().await;
    }
    let concluded = conclude(&run, &workload, played.is_ok());
    let drawn = plot.map(|file| file.write(&plot::draw(&run.settings, args.via, &run.stats().series))).transpose();
    let shutdown = run.shutdown.clone();
    drop(run);
    // the reader may be gone; a second Ctrl-C ends this wait, too
    tokio::select! {
        written = output.end(if is_text { concluded.text() } else { concluded.json() }) => super::common::stdout::ended(written)?,
        () = shutdown.now.cancelled() => {}
    }
    drawn?;
    played.map(|()| concluded.exit())
}

/// Runs streams and workers, and shows the progress.
async fn play(
    run: &Arc<Simulation>,
    broker: Option<&SimulationBroker>,
    workload: &mut Workload,
    lines: &StdoutLines,
    shows: bool,
) -> anyhow::Result<()> {
    let mut view = shows.then(|| ProgressView::begin(&run.settings, broker.is_none()));
    let json = !shows && run.chunk_lines.is_none();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.reset();
    let mut playing = std::pin::pin!(async {
        match broker {
            None => buffer::run(run, workload).await,
            Some(broker) => broker::run(run, broker, workload).await,
        }
    });
    let result = loop {
        tokio::select! {
            result = playing.as_mut() => break result,
            _ = seconds.tick() => {
                let (elapsed, mut stats) = (run.start.elapsed(), run.stats());
                match &mut view {
                    Some(view) => view.second(elapsed, &stats),
                    None if json => lines.line_if_room(json_line(&SecondReport::new(&stats, elapsed))),
                    None => {}
                }
                stats.turn(Instant::now());
            }
        }
    };
    run.stats().turn(Instant::now());
    view.into_iter().for_each(ProgressView::end);
    result
}

/// The outcome of a run.
struct SimulationOutcome {
    report: FinalReport,
    /// True if a signal ended the run.
    is_interrupted: bool,
}

fn conclude(run: &Simulation, workload: &Workload, is_well: bool) -> SimulationOutcome {
    let stats = run.stats();
    let report = FinalReport::new(run.settings, &stats, run.start.elapsed(), workload.digest());
    SimulationOutcome { report, is_interrupted: is_well && run.shutdown.draining.is_cancelled() }
}

impl SimulationOutcome {
    fn text(&self) -> String {
        let signal = if self.is_interrupted { "\nShutdown signal received...\n" } else { "" };
        format!("{signal}{}", self.report.text())
    }

    fn json(&self) -> String {
        json_line(&self.report)
    }

    fn exit(&self) -> Exit {
        if self.report.given_up > 0 { Exit::Interrupted } else { Exit::Success }
    }
}
