//! Parses, runs, ends with an exit code.

mod journal;

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mqueue::app::{self, Exit, Failure};
use mqueue::cli::{Cli, Command};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use self::journal::FieldsInText;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            report(&error);
            error.downcast_ref::<Failure>().map_or(Exit::Failure, |failure| failure.exit).into()
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<Exit> {
    let filter = EnvFilter::try_new(&cli.log).map_err(|e| {
        Failure::new(Exit::Usage, format!("invalid --log {:?}: {e}: use error, warn, info, debug or trace", cli.log))
    })?;
    log_to_journal_or_stderr(filter);
    if std::env::var_os("MQUEUE_ENDS_WITH_PARENT").is_some() {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).context("cannot end with the parent")?;
    }
    // one thread: all work here is waiting, and a message never has to change threads
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let exit = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => app::demo::run(args).await,
            Command::Broker(args) => app::broker::run(args).await,
            Command::Producer(args) => app::producer::run(args).await,
            Command::Consumer(args) => app::consumer::run(args).await,
            Command::Ingest(args) => app::ingest::run(args).await,
            Command::Send(args) => app::send::run(args).await,
            Command::Stage(args) => app::stage::run(args).await,
            Command::Pipeline(args) => app::pipeline::run(args).await,
            Command::Simulate(args) => app::simulate::run(args).await,
            Command::Node(args) => app::node::run(args).await,
            Command::Bench(args) => app::bench::run(args).await,
            Command::Errors(args) => app::errors::run(args).await,
            Command::Gateway(args) => app::gateway::run(args).await,
            Command::Worker(args) => app::worker::run(args).await,
            Command::Wakeup(args) => app::wakeup::run(args).await,
            Command::Doctor(args) => app::doctor::run(args).await,
        }
    })?;
    // a blocked write or read of a pipe must not keep the program
    runtime.shutdown_background();
    Ok(exit)
}

/// Where stderr is the journal (systemd runs us) events go there with their fields, elsewhere to stderr as text.
fn log_to_journal_or_stderr(filter: EnvFilter) {
    let registry = tracing_subscriber::registry().with(filter);
    let journal = stderr_is_the_journal().then(tracing_journald::layer).and_then(Result::ok);
    match journal {
        Some(journal) => registry.with(FieldsInText(journal.with_field_prefix(None))).init(),
        None => {
            let colours = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false)).init();
        }
    }
}

/// True if stderr is what systemd's `JOURNAL_STREAM` names (`device:inode`), and not somewhere that it was sent to.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| format!("{}:{}", stderr.dev(), stderr.ino()) == stream)
}

#[allow(clippy::print_stderr, reason = "the one place that talks to people in plain text")]
fn report(error: &anyhow::Error) {
    eprintln!("mqueue: {error:#}");
}
