//! Parses, runs, ends with an exit code.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mqueue::app::{self, Exit, Failure};
use mqueue::cli::{Cli, Command};
use tracing_subscriber::EnvFilter;

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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    // one thread: all work here is waiting, and a message never has to change threads
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let exit = runtime.block_on(async {
        match cli.command {
            Command::Producer(args) => app::producer::run(args).await,
            Command::Consumer(args) => app::consumer::run(args).await,
        }
    })?;
    // a blocked write or read of a pipe must not keep the program
    runtime.shutdown_background();
    Ok(exit)
}

#[allow(clippy::print_stderr, reason = "the one place that talks to people in plain text")]
fn report(error: &anyhow::Error) {
    eprintln!("mqueue: {error:#}");
}
