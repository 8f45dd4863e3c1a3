//! `mqueue broker`: runs the embedded broker until a signal.

pub(crate) mod args;

use std::time::Duration;

use super::common::exit::{Exit, Failure};
use super::common::open_files;
use crate::commands::broker::args::Args;
use mqueue::broker::Broker;
use mqueue::broker::log::{DiskLog, LogOptions, SyncMode};
use mqueue::broker::server::{BoundAddresses, BrokerServer};
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// Connections that are still open this long after the first signal are closed.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(GRACE)?;
    open_files::raise_limit();
    // bind before opening the folder: a broker that cannot listen leaves nothing behind
    let listening = BoundAddresses::bind(&args.tcp_address, &args.http_addresses()).await;
    let listening = listening.map_err(|e| Failure::new(Exit::Failure, e))?;
    let broker = open(&args)?;
    broker.register_with(args.discovery.lookupd_tcp_address.clone());
    let broadcast = args.discovery.broadcast_address.clone();
    let server = BrokerServer::new(broker, listening, broadcast);
    server.tcp.iter().for_each(|bound| tracing::info!("TCP: listening on {bound}"));
    server.http.iter().for_each(|bound| tracing::info!("HTTP: listening on {bound}"));
    let notifier = Notifier;
    notifier.ready();
    server.run(shutdown.draining.clone()).await;
    notifier.stopping();
    Ok(Exit::Success)
}

/// Opens the broker with its log, or in memory.
fn open(args: &Args) -> Result<Broker, Failure> {
    let (config, storage) = (args.config(), &args.storage);
    if storage.memory {
        return Ok(Broker::in_memory(config));
    }
    let mut options = LogOptions::new(&storage.data_path);
    options.sync = storage.sync.into();
    let (log, recovered, report) = DiskLog::open(&options).map_err(|e| Failure::new(Exit::Failure, e))?;
    tracing::info!("{report}");
    report.warnings().for_each(|warning| tracing::warn!("{warning}"));
    report.torn.iter().for_each(|torn| tracing::error!("{torn}"));
    report.damage.iter().for_each(|damage| tracing::error!("{damage}"));
    let synced = (options.sync == SyncMode::Always).then(|| log.synced());
    Ok(Broker::on_disk(config, log, recovered, synced))
}
