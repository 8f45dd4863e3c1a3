//! Brokers that are named by their HTTP address alone: their TCP addresses, for every command that
//! connects to them.

use super::cli::CliCommand;
use super::common::broker_args::{Args, tcp_address};
use super::common::exit::Failure;
use super::simulate::args::Via;

/// Adds the TCP addresses of nsqds that the command line names by HTTP address alone; without them a
/// command would connect to the default address, another nsqd.
///
/// # Errors
/// Fails if an nsqd does not tell its TCP address.
pub(crate) async fn complete(command: &mut CliCommand) -> Result<(), Failure> {
    if let CliCommand::Node(args) = command
        && let (None, Some(http)) = (&args.token.token_nsqd_tcp_address, &args.token.token_nsqd_http_address)
    {
        args.token.token_nsqd_tcp_address = Some(tcp_address(http, "--token-nsqd-tcp-address").await?);
    }
    if let CliCommand::Consumer(args) = command {
        args.broker.load_security()?;
    }
    if let CliCommand::Wakeup(args) = command {
        args.broker.load_security()?;
    }
    if let CliCommand::Doctor(args) = command {
        args.broker.load_security()?;
    }
    match broker(command) {
        Some(args) => {
            args.load_security()?;
            args.complete().await
        }
        None => Ok(()),
    }
}

/// Returns the brokers of a command that connects to them.
fn broker(command: &mut CliCommand) -> Option<&mut Args> {
    match command {
        CliCommand::Producer(args) => Some(&mut args.broker),
        // --create asks at each of its tries
        CliCommand::Consumer(args) => args.create.is_none().then_some(&mut args.broker),
        CliCommand::Ingest(args) => Some(&mut args.broker),
        CliCommand::Stage(args) => Some(&mut args.broker),
        CliCommand::Pipeline(args) => Some(&mut args.broker),
        CliCommand::Simulate(args) => matches!(args.via, Via::Broker).then_some(&mut args.broker),
        CliCommand::Gateway(args) => Some(&mut args.broker),
        CliCommand::Node(args) => Some(&mut args.broker),
        CliCommand::Bench(args) => Some(&mut args.broker),
        CliCommand::Errors(args) => Some(&mut args.broker),
        // these two use the HTTP APIs, and ask for TCP addresses themselves
        CliCommand::Wakeup(_) | CliCommand::Doctor(_) => None,
        CliCommand::Demo(_) | CliCommand::Broker(_) | CliCommand::Send(_) | CliCommand::Worker(_) => None,
    }
}
