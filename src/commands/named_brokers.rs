//! Brokers that are named by their HTTP address alone: their TCP addresses, for every command that
//! connects to them.

use super::cli::CliCommand;
use super::common::broker_args::{Args, tcp_address};
use super::common::context::{self, ContextName};
use super::common::exit::Failure;
use super::simulate::args::Via;

/// Applies the context, reads the files for TLS and AUTH, and adds the TCP addresses of nsqds that
/// the command line names by HTTP address alone; without them a command would connect to the
/// default address, another nsqd.
///
/// # Errors
/// Fails if the context or a file cannot be used, or an nsqd does not tell its TCP address.
pub(crate) async fn complete(command: &mut CliCommand, named: Option<&ContextName>) -> Result<(), Failure> {
    let takes_current = !starts_or_loads_a_broker(command);
    match (broker(command), named) {
        (Some(args), _) => context::apply(args, named, takes_current)?,
        (None, Some(name)) => tracing::debug!(%name, "this command connects to no nsqd: its context has no effect"),
        (None, None) => {}
    }
    let asks_itself = asks_itself(command);
    if let CliCommand::Node(args) = command {
        let args = &mut args.0;
        let token = &mut args.token;
        args.broker.tls_elsewhere = args.store.uses_tls();
        args.broker.load_security(token.token_nsqd_http_address.as_mut())?;
        if args.store.is_redis() {
            return Ok(());
        }
        if let (None, Some(http)) = (&token.token_nsqd_tcp_address, &token.token_nsqd_http_address) {
            token.token_nsqd_tcp_address = Some(tcp_address(http, "--token-nsqd-tcp-address").await?);
        }
        return args.broker.complete().await;
    }
    if let CliCommand::Bridge(args) = command {
        args.0.broker.tls_elsewhere = args.0.uses_tls();
    }
    let mut is_on_redis = false;
    if let CliCommand::Errors(args) = command {
        args.0.broker.tls_elsewhere = args.0.store.uses_tls();
        is_on_redis = args.0.store.is_redis();
    }
    let Some(args) = broker(command) else { return Ok(()) };
    args.load_security(None)?;
    if asks_itself || is_on_redis { Ok(()) } else { args.complete().await }
}

/// True for commands that start a broker of their own if none is named, or put load on one: the
/// current context must not lead them to a cluster that others use.
fn starts_or_loads_a_broker(command: &CliCommand) -> bool {
    matches!(command, CliCommand::Pipeline(_) | CliCommand::Simulate(_) | CliCommand::Bench(_))
}

/// True for commands that ask nsqd's HTTP API for its TCP address themselves, or connect to none.
fn asks_itself(command: &CliCommand) -> bool {
    match command {
        // --create asks at each of its tries
        CliCommand::Consumer(args) => args.create.is_some(),
        CliCommand::Simulate(args) => !matches!(args.via, Via::Broker),
        CliCommand::Wakeup(_)
        | CliCommand::Doctor(_)
        | CliCommand::Web(_)
        | CliCommand::Ls(_)
        | CliCommand::Top(_)
        | CliCommand::Peek(_)
        | CliCommand::Tail(_)
        | CliCommand::Create(_)
        | CliCommand::Pause(_)
        | CliCommand::Unpause(_)
        | CliCommand::Empty(_)
        | CliCommand::Delete(_) => true,
        _ => false,
    }
}

/// Returns the brokers of a command that connects to them.
fn broker(command: &mut CliCommand) -> Option<&mut Args> {
    match command {
        CliCommand::Producer(args) => Some(&mut args.broker),
        CliCommand::Consumer(args) => Some(&mut args.broker),
        CliCommand::Ingest(args) => Some(&mut args.broker),
        CliCommand::Stage(args) => Some(&mut args.broker),
        CliCommand::Bridge(args) => Some(&mut args.broker),
        CliCommand::Pipeline(args) => Some(&mut args.broker),
        CliCommand::Simulate(args) => Some(&mut args.broker),
        CliCommand::Gateway(args) => Some(&mut args.broker),
        CliCommand::Node(args) => Some(&mut args.broker),
        CliCommand::Bench(args) => Some(&mut args.broker),
        CliCommand::Errors(args) => Some(&mut args.broker),
        CliCommand::Wakeup(args) => Some(&mut args.broker),
        CliCommand::Doctor(args) => Some(&mut args.broker),
        CliCommand::Web(args) => Some(&mut args.broker),
        CliCommand::Ls(args) => Some(&mut args.broker),
        CliCommand::Top(args) => Some(&mut args.broker),
        CliCommand::Peek(args) => Some(&mut args.broker),
        CliCommand::Tail(args) => Some(&mut args.broker),
        CliCommand::Record(args) => Some(&mut args.broker),
        CliCommand::Replay(args) => Some(&mut args.broker),
        CliCommand::Create(args) => Some(&mut args.action.broker),
        CliCommand::Pause(args) => Some(&mut args.action.broker),
        CliCommand::Unpause(args) => Some(&mut args.action.broker),
        CliCommand::Empty(args) => Some(&mut args.action.broker),
        CliCommand::Delete(args) => Some(&mut args.action.broker),
        CliCommand::Completions(_)
        | CliCommand::Man(_)
        | CliCommand::Context(_)
        | CliCommand::Demo(_)
        | CliCommand::Broker(_)
        | CliCommand::Prove(_)
        | CliCommand::Send(_)
        | CliCommand::Worker(_) => None,
    }
}
