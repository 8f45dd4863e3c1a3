//! `mqueue broker`: runs the embedded broker until a signal, or with `--idle-exit` until it is idle.

pub(crate) mod args;
mod arm_timer;
mod background;
pub(crate) mod command_line;
mod config_file;
mod folder_watch;
mod go_flags;
mod group_waker;
mod idle_exit;
mod ignored_flags;
mod import;
mod inspect;
mod log_level;
mod next_start;
mod nsqd_args;
mod page;
mod passed_sockets;
mod security_args;
#[cfg(test)]
mod sleep_tests;
mod statistics_args;

use std::sync::Arc;
use std::time::Duration;

use self::background::Background;
use self::group_waker::GroupWaker;
use self::idle_exit::IdleExit;
use super::common::exit::{Exit, Failure};
use super::common::open_files;
use super::common::server_tls_args::reload;
use crate::commands::broker::args::{Args, BrokerCommand};
use mqueue::broker::log::{DiskLog, LogOptions, SyncMode};
use mqueue::broker::server::{BoundAddresses, BrokerServer};
use mqueue::broker::{Broker, BrokerConfig};
use mqueue::net::tls::TlsServer;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Connections that are still open this long after the first signal are closed.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    match &args.command {
        Some(BrokerCommand::Import(args)) => return import::run(args).await,
        Some(BrokerCommand::Verify(args)) => return inspect::verify(args),
        Some(BrokerCommand::Backup(args)) => return inspect::backup(args),
        Some(BrokerCommand::ArmTimer(args)) => return Ok(arm_timer::run(args)?),
        None => {}
    }
    let shutdown = Shutdown::on_signals(GRACE)?;
    args.warnings().for_each(|warning| tracing::warn!("{warning}"));
    open_files::raise_limit();
    // bind before opening the folder: a broker that cannot listen leaves nothing behind
    let config = args.config().map_err(|e| Failure::new(Exit::Usage, e))?;
    let tls = config.tls.clone();
    let (listening, is_passed) = listen(&args).await?;
    let broker = open(&args, config)?;
    broker.register_with(args.discovery.lookupd_tcp_address.clone());
    let broadcast = args.discovery.broadcast_address.clone().filter(|host| !host.is_empty());
    let mut server = BrokerServer::new(broker, listening, broadcast);
    server.threads = args.threads();
    server.guard = args.http_guard.extend(server.guard);
    args.broadcast_ports.apply(&mut server.identity);
    tokio::spawn(log_level::follow(server.broker.log_level()));
    server.tcp.iter().for_each(|bound| tracing::info!("TCP: listening on {bound}"));
    server.http.iter().for_each(|bound| tracing::info!("HTTP: listening on {bound}"));
    server.https.iter().for_each(|bound| tracing::info!("HTTPS: listening on {bound}"));
    if let Some(page) = page::bind(&args, &server).await? {
        tracing::info!("page: listening on {}", page.url()?);
        tokio::spawn(page.run(shutdown.clone()));
    }
    if let Some(tls) = tls {
        tokio::spawn(reload_certificates(tls, signal(SignalKind::hangup())?));
    }
    serve(&args, server, is_passed, &shutdown).await;
    Ok(Exit::Success)
}

/// Serves until a signal, or until the broker is idle.
async fn serve(args: &Args, server: BrokerServer, is_passed: bool, shutdown: &Shutdown) {
    let (broker, gate, stop) = (server.broker.clone(), server.gate.clone(), shutdown.draining.child_token());
    let idle = args.sleep.idle_exit().filter(|_| is_passed);
    if args.sleep.idle_exit().is_some() && !is_passed {
        tracing::info!("--idle-exit has no effect: without a socket of systemd's nothing would start the broker again");
    }
    let idle = idle.map(|limit| IdleExit::begin(limit, args.storage.data_path.clone(), broker.clone(), gate.clone()));
    let [tcp, http] = [&server.tcp, &server.http].map(|all| all.first().map_or_else(String::new, ToString::to_string));
    let waker = GroupWaker::new(&args.sleep, broker, &tcp, &http);
    let background = tokio::spawn(Background { idle, waker, gate }.run(stop.clone()));
    Notifier.ready();
    server.run(stop).await;
    let _ = background.await;
    Notifier.stopping();
}

/// Listens on the sockets that systemd passed, or else on the addresses of the flags.
/// Returns true for those of systemd.
async fn listen(args: &Args) -> Result<(BoundAddresses, bool), Failure> {
    let (http, https) = (args.http_addresses(), args.security.https_addresses());
    if let Some(passed) = passed_sockets::take(&[&args.tcp_address, &http, &https])? {
        return Ok((passed, true));
    }
    let bound = BoundAddresses::bind(&args.tcp_address, &http, &https).await;
    Ok((bound.map_err(|e| Failure::new(Exit::Failure, e))?, false))
}

/// Reads the certificate and its key again on each SIGHUP.
async fn reload_certificates(tls: Arc<TlsServer>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        reload(&tls);
    }
}

/// Opens the broker with its log, or in memory.
fn open(args: &Args, config: BrokerConfig) -> Result<Broker, Failure> {
    let storage = &args.storage;
    if storage.memory {
        return Ok(Broker::in_memory(config));
    }
    import::check_data_path(&storage.data_path)?;
    let mut options = LogOptions::new(&storage.data_path);
    options.sync = storage.sync.into();
    options.interval = storage.sync_timeout;
    options.sync_every = storage.sync_every;
    options.segment_bytes = storage.max_bytes_per_file;
    let (log, recovered, report) = DiskLog::open(&options).map_err(|e| Failure::new(Exit::Failure, e))?;
    tracing::info!("{report}");
    report.warnings().for_each(|warning| tracing::warn!("{warning}"));
    report.torn.iter().for_each(|torn| tracing::error!("{torn}"));
    report.damage.iter().for_each(|damage| tracing::error!("{damage}"));
    let synced = (options.sync == SyncMode::Always).then(|| log.synced());
    Ok(Broker::on_disk(config, log, recovered, synced))
}
