//! `mqueue broker`: the embedded broker, until a signal.

use std::sync::Arc;
use std::time::Duration;

use super::{Exit, Failure};
use crate::broker::log::MemoryLog;
use crate::broker::{Broker, BrokerConfig, server};
use crate::cli::embedded::Args;
use crate::shutdown::Shutdown;

/// Runs the command to its end.
pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(Duration::from_secs(5))?;
    let mut tcp = Vec::new();
    for address in &args.tcp_address {
        let bound = address.bind().await;
        let bound = bound.map_err(|e| Failure::new(Exit::Failure, format!("cannot listen on {address}: {e}")))?;
        tracing::info!("TCP: listening on {bound}");
        tcp.push(bound);
    }
    let broker = Arc::new(Broker::new(args.config(), Box::new(MemoryLog)));
    server::run(broker, tcp, shutdown.draining.clone()).await;
    Ok(Exit::Success)
}
