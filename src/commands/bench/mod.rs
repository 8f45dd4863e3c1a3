//! `mqueue bench`: rates, latencies, processor time and memory, of publishing and consuming.
//!
//! ```text
//!  BenchPlan ─▶ BenchBroker (with a stream) ─▶ BenchRun ─▶ BenchStats ─▶ BenchReport ─▶ table, JSON, Markdown, plot,
//!                                                              ▲                        comparison
//!               BenchPublisher ─▶ Publishers ─▶ nsqd ─▶ Consumers
//!               UsageMeter (/proc: this program, the broker) during the measured time
//! ```
//!
//! One task publishes, consumes and reads the meters, as in `mqueue producer` and `mqueue
//! consumer`.

pub(crate) mod args;
mod body;
mod broker;
mod compare;
mod consume;
mod meter;
mod plan;
mod plot;
mod process;
mod publish;
mod report;
mod run;
mod series;
mod stats;

use std::io;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use self::body::BodyPool;
use self::broker::BenchBroker;
use self::compare::EarlierReport;
use self::meter::UsageMeter;
use self::plan::BenchPlan;
use self::process::Process;
use self::publish::BenchPublisher;
use self::report::BenchReport;
use self::run::BenchRun;
use super::common::exit::{Exit, Failure};
use super::common::plot_file::PlotFile;
use crate::commands::bench::args::{Args, BenchMode, BenchOutput};
use mqueue::client::{ClientBackend, Publisher, PublisherConfig};
use mqueue::shutdown::Shutdown;

/// Grace period for messages in flight after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let plan = BenchPlan::checked(&args)?;
    let earlier = args.showing.compare.as_deref().map(EarlierReport::read).transpose()?;
    let picture = args.showing.plot.as_deref().map(PlotFile::at).transpose()?;
    let shutdown = Shutdown::on_signals(GRACE)?;
    let broker = tokio::select! {
        broker = BenchBroker::find(&args) => broker?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    let described = broker.describe().await;
    tracing::info!("{}, on {described}", plan.describe());
    let measured = measure(plan, args.client.backend(), &broker, &shutdown).await;
    broker.clear().await;
    let Some(run) = measured? else { return Ok(Exit::Success) };
    let mut report = BenchReport::of(&run, described);
    report.compared = earlier.map(|earlier| earlier.compare(&report));
    print(&report, args.showing.output())?;
    picture.map(|file| file.write(&plot::draw(&run, &report))).transpose()?;
    match run.failure() {
        Some(line) => Err(Failure::new(Exit::Failure, line).into()),
        None if shutdown.now.is_cancelled() => Ok(Exit::Interrupted),
        None => Ok(Exit::Success),
    }
}

/// Connects and runs the load; returns `None` if a stop was requested before it began.
async fn measure(
    plan: BenchPlan,
    backend: ClientBackend,
    broker: &BenchBroker,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<BenchRun>> {
    let publishers = connect(&plan, backend, broker).await?;
    let bodies = BodyPool::of(plan.size);
    let sender = BenchPublisher { publishers: &publishers, topic: &broker.topic, bodies: &bodies };
    if let (BenchMode::Consume, Some(messages)) = (plan.what, plan.messages) {
        tracing::info!("filling the stream with {messages} messages");
        tokio::select! {
            filled = sender.fill(messages) => filled.map_err(|line| Failure::new(Exit::Failure, line))?,
            () = shutdown.draining.cancelled() => return Ok(None),
        }
    }
    let mut consumers = if plan.consumes() { consume::connect(&plan, backend, broker).await? } else { Vec::new() };
    let client = UsageMeter::of(Process::find(std::process::id()).into_iter().collect());
    let run = BenchRun::begin(plan, client, UsageMeter::of(broker.processes.clone()));
    tokio::select! {
        // publishing above capacity is always ready: poll the others first
        biased;
        never = consume::consume(&run, &mut consumers) => match never {},
        never = run.watch(&shutdown.draining) => match never {},
        () = shutdown.now.cancelled() => run.close(Instant::now()),
        played = play(&run, &sender, shutdown) => played?,
    }
    consume::close_all(consumers).await;
    join_all(publishers.into_iter().map(Publisher::close)).await;
    Ok(Some(run))
}

/// Connects as many publishers as the plan has connections, and at least one per nsqd, spread over
/// the nsqds.
async fn connect(plan: &BenchPlan, backend: ClientBackend, broker: &BenchBroker) -> Result<Vec<Publisher>, Failure> {
    let mut publishers = Vec::new();
    let config = PublisherConfig::default().with_connect(broker.connect()).with_backend(backend);
    for address in broker.tcp().iter().cycle().take(broker.tcp().len().max(plan.connections as usize)) {
        let publisher = Publisher::connect(std::slice::from_ref(address), config.clone()).await;
        publishers.push(publisher.map_err(|e| Failure::unavailable(&e))?);
    }
    Ok(publishers)
}

/// Runs the load to its end, then closes the run.
async fn play(run: &BenchRun, sender: &BenchPublisher<'_>, shutdown: &Shutdown) -> io::Result<()> {
    let last = match run.plan.what {
        BenchMode::Publish => {
            sender.publish(run).await?;
            run.stats.borrow().published.last
        }
        BenchMode::Consume => {
            consume::wait_until_handled(run, run.plan.messages.unwrap_or(u64::MAX), &shutdown.draining).await;
            run.stats.borrow().handled.last
        }
        BenchMode::Both => {
            sender.publish(run).await?;
            let published = run.stats.borrow().published.total;
            consume::wait_until_handled(run, published, &shutdown.draining).await;
            run.stats.borrow().handled.last
        }
    };
    run.close(last.unwrap_or_else(Instant::now));
    Ok(())
}

/// Prints the report. A closed pipe is no error.
fn print(report: &BenchReport, output: BenchOutput) -> anyhow::Result<()> {
    let text = match output {
        BenchOutput::Table => report.text(),
        BenchOutput::Markdown => report.markdown(),
        BenchOutput::Json => serde_json::to_string(report)? + "\n",
    };
    Ok(super::common::stdout::print(&text)?)
}
