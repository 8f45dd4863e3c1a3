//! `mqueue broker`: the embedded broker, until a signal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Exit, Failure};
use crate::broker::Broker;
use crate::broker::http::Identity;
use crate::broker::log::{DiskLog, Options, SyncMode};
use crate::broker::server::{Bound, ListenAddress, Server, port};
use crate::cli::embedded::Args;
use crate::shutdown::Shutdown;
use crate::systemd::Notifier;

/// Connections that are still open this long after the first signal are closed.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the command to its end.
pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(GRACE)?;
    let broker = Arc::new(open(&args)?);
    broker.register_with(args.discovery.lookupd_tcp_address.clone());
    let (tcp, http) = (bind(&args.tcp_address).await?, bind(&args.http_address).await?);
    tcp.iter().for_each(|bound| tracing::info!("TCP: listening on {bound}"));
    http.iter().for_each(|bound| tracing::info!("HTTP: listening on {bound}"));
    let identity = identity(&args, &tcp, &http);
    let notifier = Notifier;
    notifier.ready();
    Server { broker, identity, tcp, http }.run(shutdown.draining.clone()).await;
    notifier.stopping();
    Ok(Exit::Success)
}

async fn bind(addresses: &[ListenAddress]) -> Result<Vec<Bound>, Failure> {
    let mut all = Vec::new();
    for address in addresses {
        let bound = address.bind().await;
        all.push(bound.map_err(|e| Failure::new(Exit::Failure, format!("cannot listen on {address}: {e}")))?);
    }
    Ok(all)
}

fn identity(args: &Args, tcp: &[Bound], http: &[Bound]) -> Identity {
    let hostname = nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |n| n.to_string_lossy().into_owned());
    Identity {
        broadcast_address: args.discovery.broadcast_address.clone().unwrap_or_else(|| hostname.clone()),
        hostname,
        tcp_port: port(tcp),
        http_port: port(http),
        started: SystemTime::now(),
    }
}

/// The broker with its log, or without one.
fn open(args: &Args) -> Result<Broker, Failure> {
    let (config, storage) = (args.config(), &args.storage);
    if storage.memory {
        return Ok(Broker::in_memory(config));
    }
    let mut options = Options::new(&storage.data_path);
    options.sync = storage.sync;
    let (log, recovered, report) = DiskLog::open(&options).map_err(|e| Failure::new(Exit::Failure, e))?;
    tracing::info!("{report}");
    report.problems().for_each(|problem| tracing::warn!("{problem}"));
    let synced = (storage.sync == SyncMode::Always).then(|| log.synced());
    Ok(Broker::on_disk(config, log, recovered, synced))
}
