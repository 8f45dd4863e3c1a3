//! `mqueue bench`: rates, latencies, processor time and memory, of publishing and consuming.
//!
//! ```text
//!  Plan ─▶ Ground (the broker, a stream) ─▶ Run ──▶ Tally ──▶ Report ─▶ table, JSON, Markdown, picture, comparison
//!                                            │        ▲
//!             Sender ─▶ Publishers ─▶ nsqd ─▶ Consumers
//!             Meters (/proc: this program, the broker) while it is measured
//! ```
//!
//! One task publishes, consumes and reads the meters, as in `mqueue producer` and `mqueue consumer`.

pub(crate) mod args;
mod body;
mod compare;
mod consume;
mod drawing;
mod ground;
mod meter;
mod plan;
mod process;
mod publish;
mod report;
mod run;
mod series;
mod table;
mod tally;

use std::io;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use self::body::Bodies;
use self::compare::Earlier;
use self::ground::Ground;
use self::meter::Meter;
use self::plan::Plan;
use self::process::Process;
use self::publish::Sender;
use self::report::Report;
use self::run::Run;
use super::common::exit::{Exit, Failure};
use super::common::picture::Picture;
use crate::commands::bench::args::{Args, Output, What};
use mqueue::client::{ClientBackend, Publisher, PublisherConfig};
use mqueue::shutdown::Shutdown;

/// Grace period for messages in flight after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let plan = Plan::checked(&args)?;
    let earlier = args.showing.compare.as_deref().map(Earlier::read).transpose()?;
    let picture = args.showing.plot.as_deref().map(Picture::at).transpose()?;
    let shutdown = Shutdown::on_signals(GRACE)?;
    let ground = tokio::select! {
        ground = Ground::find(&args) => ground?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    let told = ground.told().await;
    tracing::info!("{}, on {told}", plan.told());
    let measured = measure(plan, args.client.backend(), &ground, &shutdown).await;
    ground.clear().await;
    let Some(run) = measured? else { return Ok(Exit::Success) };
    let mut report = Report::of(&run, told);
    report.compared = earlier.map(|earlier| earlier.beside(&report));
    print(&report, args.showing.output())?;
    picture.map(|file| file.write(&drawing::draw(&run, &report))).transpose()?;
    match run.trouble() {
        Some(trouble) => Err(Failure::new(Exit::Failure, trouble).into()),
        None if shutdown.now.is_cancelled() => Ok(Exit::Interrupted),
        None => Ok(Exit::Success),
    }
}

/// Connects and runs the load; returns `None` if a stop was requested before it began.
async fn measure(
    plan: Plan,
    backend: ClientBackend,
    ground: &Ground,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Run>> {
    let publishers = connect(&plan, backend, ground).await?;
    let bodies = Bodies::of(plan.size);
    let sender = Sender { publishers: &publishers, topic: &ground.topic, bodies: &bodies };
    if let (What::Consume, Some(messages)) = (plan.what, plan.messages) {
        tracing::info!("filling the stream with {messages} messages");
        tokio::select! {
            filled = sender.fill(messages) => filled.map_err(|line| Failure::new(Exit::Failure, line))?,
            () = shutdown.draining.cancelled() => return Ok(None),
        }
    }
    let mut consumers = if plan.consumes() { consume::connect(&plan, backend, ground).await? } else { Vec::new() };
    let client = Meter::of(Process::find(std::process::id()).into_iter().collect());
    let run = Run::begin(plan, client, Meter::of(ground.processes.clone()));
    tokio::select! {
        // publishing above capacity is always ready: poll the others first
        biased;
        never = consume::consume(&run, &mut consumers) => match never {},
        never = run.watch(&shutdown.draining) => match never {},
        () = shutdown.now.cancelled() => run.close(Instant::now()),
        played = play(&run, &sender, shutdown) => played?,
    }
    consume::leave(consumers).await;
    join_all(publishers.into_iter().map(Publisher::close)).await;
    Ok(Some(run))
}

/// Connects as many publishers as the plan has connections, and at least one per nsqd, spread over the nsqds.
async fn connect(plan: &Plan, backend: ClientBackend, ground: &Ground) -> Result<Vec<Publisher>, Failure> {
    let mut publishers = Vec::new();
    let config = PublisherConfig::default().with_backend(backend);
    for address in ground.tcp.iter().cycle().take(ground.tcp.len().max(plan.connections as usize)) {
        let publisher = Publisher::connect(std::slice::from_ref(address), config.clone()).await;
        publishers.push(publisher.map_err(|e| Failure::unavailable(&e))?);
    }
    Ok(publishers)
}

/// Runs the load to its end, then closes the run.
async fn play(run: &Run, sender: &Sender<'_>, shutdown: &Shutdown) -> io::Result<()> {
    let last = match run.plan.what {
        What::Publish => {
            sender.publish(run).await?;
            run.tally.borrow().published.last
        }
        What::Consume => {
            consume::arrive(run, run.plan.messages.unwrap_or(u64::MAX), &shutdown.draining).await;
            run.tally.borrow().handled.last
        }
        What::Both => {
            sender.publish(run).await?;
            let published = run.tally.borrow().published.total;
            consume::arrive(run, published, &shutdown.draining).await;
            run.tally.borrow().handled.last
        }
    };
    run.close(last.unwrap_or_else(Instant::now));
    Ok(())
}

/// Prints the report. A closed pipe is no error.
fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => report.text(),
        Output::Markdown => report.markdown(),
        Output::Json => serde_json::to_string(report)? + "\n",
    };
    Ok(super::common::stdout::print(&text)?)
}
