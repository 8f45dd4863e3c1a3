//! The `mqueue` program: parses the arguments, runs the subcommand, ends with an exit code.

mod commands;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use self::commands::broker::command_line;
use self::commands::cli::{self, Cli, CliCommand};
use self::commands::common::exit::{Exit, Failure};
use self::commands::common::journal::FieldsInText;
use self::commands::common::log_filter;
use self::commands::common::stdout;
use self::commands::refusal;
use mqueue::cluster::QueueAction;
use mqueue::io_error::without_numbers;

/// Notes a closed stdout. Runs before `main`, because std replaces a closed stdout with /dev/null.
#[ctor::ctor(unsafe)]
fn note_closed_stdout() {
    if nix::fcntl::fcntl(io::stdout(), nix::fcntl::FcntlArg::F_GETFD) == Err(nix::errno::Errno::EBADF) {
        stdout::was_closed_at_start();
    }
}

fn main() -> ExitCode {
    let words = command_line::in_our_spelling(std::env::args_os().collect());
    if let Some(exit) = commands::completions::answer(&words) {
        return exit;
    }
    let cli = match cli::parse(&words) {
        Ok(cli) => cli,
        Err(error) => return print_clap_error(&error, &words),
    };
    match command_line::with_config_file(cli, &words).map_err(anyhow::Error::from).and_then(start) {
        Ok(exit) => exit.into(),
        Err(error) => {
            print_error(&error);
            error.downcast_ref::<Failure>().map_or(Exit::Failure, |failure| failure.exit).into()
        }
    }
}

fn start(mut cli: Cli) -> anyhow::Result<Exit> {
    let filter = EnvFilter::try_new(&cli.log).map_err(|e| {
        Failure::new(Exit::Usage, format!("invalid --log {:?}: {e}: use error, warn, info, debug or trace", cli.log))
    })?;
    log_to_journal_or_stderr(filter);
    if std::env::var_os("MQUEUE_ENDS_WITH_PARENT").is_some() {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).context("cannot end with the parent")?;
    }
    // one thread: the work is waiting for I/O, and a message never changes threads
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let exit = runtime.block_on(async {
        commands::named_brokers::complete(&mut cli.command, cli.context.as_ref()).await?;
        match cli.command {
            CliCommand::Demo(args) => commands::demo::run(args.0).await,
            CliCommand::Broker(args) => commands::broker::run(args.0).await,
            CliCommand::Producer(args) => commands::producer::run(args.0).await,
            CliCommand::Consumer(args) => commands::consumer::run(args.0).await,
            CliCommand::Ingest(args) => commands::ingest::run(args.0).await,
            CliCommand::Send(args) => commands::send::run(args.0).await,
            CliCommand::Stage(args) => commands::stage::run(args.0).await,
            CliCommand::Bridge(args) => commands::bridge::run(args.0).await,
            CliCommand::Pipeline(args) => commands::pipeline::run(args.0).await,
            CliCommand::Simulate(args) => commands::simulate::run(args.0).await,
            CliCommand::Prove(args) => commands::prove::run(args.0).await,
            CliCommand::Node(args) => commands::node::run(args.0).await,
            CliCommand::Bench(args) => commands::bench::run(args.0).await,
            CliCommand::Errors(args) => commands::errors::run(args.0).await,
            CliCommand::Gateway(args) => commands::gateway::run(args.0).await,
            CliCommand::Worker(args) => commands::worker::run(args.0).await,
            CliCommand::Wakeup(args) => commands::wakeup::run(args.0).await,
            CliCommand::Doctor(args) => commands::doctor::run(args.0).await,
            CliCommand::Context(args) => commands::context::run(args.0),
            CliCommand::Completions(args) => commands::completions::run(&args.0),
            CliCommand::Man(args) => commands::man::run(&args.0),
            CliCommand::Web(args) => commands::web::run(args.0).await,
            CliCommand::Peek(args) => commands::peek::run(args.0).await,
            CliCommand::Tail(args) => commands::tail::run(args.0).await,
            CliCommand::Record(args) => commands::record::run(args.0).await,
            CliCommand::Replay(args) => commands::replay::run(args.0).await,
            CliCommand::Ls(args) => commands::ls::run(args.0).await,
            CliCommand::Top(args) => commands::top::run(args.0).await,
            CliCommand::Create(args) => commands::admin::run(QueueAction::Create, args.0.action).await,
            CliCommand::Pause(args) => commands::admin::run(QueueAction::Pause, args.0.action).await,
            CliCommand::Unpause(args) => commands::admin::run(QueueAction::Unpause, args.0.action).await,
            CliCommand::Empty(args) => commands::admin::run(QueueAction::Empty, args.0.action).await,
            CliCommand::Delete(args) => commands::admin::run(QueueAction::Delete, args.0.action).await,
        }
    });
    // a pipe read or write that blocks must not delay the exit, however the command ends
    runtime.shutdown_background();
    exit
}

/// Logs to the journal with fields if stderr is the journal (a service under systemd), otherwise as
/// text to stderr.
fn log_to_journal_or_stderr(filter: EnvFilter) {
    let registry = tracing_subscriber::registry().with(log_filter::layer(filter));
    let journal = stderr_is_the_journal().then(tracing_journald::layer).and_then(Result::ok);
    match journal {
        Some(journal) => registry.with(FieldsInText(journal.with_field_prefix(None))).init(),
        None => {
            let colours = stdout::wants_colours(io::stderr().is_terminal());
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false)).init();
        }
    }
}

/// Returns true if stderr is the stream that systemd's `JOURNAL_STREAM` names (`device:inode`), and
/// was not redirected.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| format!("{}:{}", stderr.dev(), stderr.ino()) == stream)
}

/// Prints clap's output, help and version to stdout and an error to stderr; returns the exit code.
fn print_clap_error(error: &clap::Error, typed: &[OsString]) -> ExitCode {
    if error.use_stderr() {
        let _ = write!(io::stderr(), "{}", refusal::text(error, typed));
        return Exit::Usage.into();
    }
    match stdout::ended(error.print().and_then(|()| io::stdout().flush())) {
        Ok(()) => Exit::Success.into(),
        Err(failure) => {
            let exit = failure.exit;
            print_error(&failure.into());
            exit.into()
        }
    }
}

#[allow(clippy::print_stderr, reason = "the one place that prints plain text to stderr")]
fn print_error(error: &anyhow::Error) {
    eprintln!("mqueue: {}", without_numbers(&format!("{error:#}")));
}
