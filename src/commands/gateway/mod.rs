//! `mqueue gateway`: a job queue over HTTP.
//!
//! ```text
//!  counter ───▶ Publisher                               --counter
//!  routes ─┬─ get_jobs ─────▶ WorkerGuard, Outbox, JobStream    GET  /streams/S/groups/G/jobs
//!          ├─ post_answers ─▶ a GatewayJob's Delivery           POST /jobs/TOKEN/done …
//!          └─ publish ──────▶ Publisher                         POST /streams/S
//!
//!  exchange: Jobs (pure), between group_consumer (one per group) and Outbox (one per worker)
//! ```

mod access;
pub(crate) mod args;
mod counter;
mod counters;
mod exchange;
mod get_jobs;
mod group_consumer;
mod group_lookup;
mod jobs;
mod open_group;
mod outbox;
mod post_answers;
mod publish;
mod reload;
mod request_body;
mod routes;
mod token;
mod worker_guard;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::access::Access;
use self::counter::JobCounter;
use self::exchange::Exchange;
use self::open_group::PendingGroups;
use self::token::TokenGenerator;
use super::common::embedded_broker::EmbeddedBroker;
use super::common::exit::{Exit, Failure};
use super::common::http_server::{self, HttpServer};
use super::common::json_response::RequestError;
use super::common::open_files::{self, OpenFiles};
use super::common::run_broker::BrokerAddresses;
use crate::commands::gateway::args::Args;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::http::{BrowserGuard, ConnectionSlots};
use mqueue::io_error::describe;
use mqueue::net::tls::{ClientAuth, TlsVersion};
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// Timeout of publishing a message; then the request is answered with 503.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of one nsqd's reply; then another nsqd is tried.
const NSQD_REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// File descriptors reserved for the log, nsqlookupds and connections that are being closed.
const RESERVED_FILES: usize = 32;
/// The least number of connections, whatever the limit of open files is.
const MIN_CONNECTIONS: usize = 8;
/// Timeout of requeueing jobs, and of the last responses, at shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state that all requests share.
#[derive(Debug)]
struct Gateway {
    settings: Args,
    exchange: Arc<Exchange>,
    pending_groups: PendingGroups,
    publisher: OnceCell<Publisher>,
    /// The memory left for request bodies, in bytes.
    body_memory: Arc<Semaphore>,
    access: Access,
    shutdown: Shutdown,
}

/// Runs the command to its end.
pub(crate) async fn run(mut args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.grace)?;
    let access = Access::new(args.bearer_token_file.clone())?;
    let tls = args.server.load(ClientAuth::None, None, TlsVersion::default());
    let tls = tls.map_err(|e| Failure::new(Exit::Usage, e))?;
    open_files::raise_limit();
    let (listen, heartbeat) = (args.listen.clone(), args.workers.heartbeat);
    let guard = args.http_guard.extend(BrowserGuard::default().with_host(listen.host()));
    let listener = mqueue::http::listen(&listen).await;
    let listener =
        listener.map_err(|e| Failure::new(Exit::Failure, format!("cannot listen on {listen}: {}", describe(&e))))?;
    access.check_exposure(listener.local_addr()?, args.insecure, tls.is_some())?;
    let tokens = TokenGenerator::new().context("no randomness for tokens")?;
    let counts = args.counter;
    let embedded = if counts && !args.broker.is_named() { Some(start_broker(&mut args).await?) } else { None };
    let counter = counts.then(|| JobCounter::new(Instant::now()));
    let exchange = Exchange::new(tokens, args.limits.max_in_flight, counter);
    let places = places(args.limits.max_connections as usize, OpenFiles::of_this_process());
    let gateway = Arc::new(Gateway {
        settings: args,
        exchange: exchange.clone(),
        pending_groups: PendingGroups::default(),
        publisher: OnceCell::new(),
        body_memory: Arc::new(Semaphore::new(request_body::MAX_BODY_MEMORY)),
        access,
        shutdown: shutdown.clone(),
    });
    reload::on_hangup(&gateway, tls.clone())?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("listening on {scheme}://{}", listener.local_addr()?);
    if let Err(error) = gateway.publisher().await {
        tracing::warn!("{}; requests are answered with 503 until it can be reached", error.message());
    }
    let router = routes::router(gateway.clone());
    let counters = &exchange.counters;
    let (refused, count) = (counters.refused.clone(), counters.connections.clone());
    let settings = http_server::settings(guard, tls, move |line| {
        refused.inc();
        RequestError::new(StatusCode::FORBIDDEN, line).into_response()
    });
    let server = HttpServer { listener, router, settings, heartbeat, places, count };
    let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
    connections.spawn(server.run(stop.clone(), connections.clone()));
    let looking = tokio::spawn(requeue_jobs_of_silent_workers(exchange.clone()));
    let counting = counts.then(|| tokio::spawn(counter::run(gateway.clone())));
    Notifier.ready();
    shutdown.draining.cancelled().await;
    Notifier.stopping();
    drain(&exchange, &shutdown).await;
    looking.abort();
    stop.cancel();
    connections.close();
    if timeout(CLOSE_TIMEOUT, connections.wait()).await.is_err() {
        tracing::debug!("closing connections that are still open");
    }
    exchange.counters.log_totals();
    if let Some(counting) = counting {
        let _ = counting.await;
    }
    if let Some(embedded) = embedded {
        embedded.end().await;
    }
    Ok(if shutdown.now.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

/// Places for so many connections, or as many as there are files for. A quarter of the files is
/// kept for connections to nsqds, and some for all else.
fn places(wanted: usize, files: OpenFiles) -> ConnectionSlots {
    let room = (files.free - files.free / 4).saturating_sub(RESERVED_FILES).max(MIN_CONNECTIONS);
    let most = (1..=room).rev().find(|turns| turns + ConnectionSlots::reserve(*turns) <= room).unwrap_or(1);
    if wanted > most {
        tracing::warn!(
            "connections: {most} at once, not {wanted} (--max-connections): the limit of open files is {}; raise it \
             (LimitNOFILE= in a unit, ulimit -Hn in a shell)",
            files.limit
        );
    }
    ConnectionSlots::new(wanted.min(most))
}

/// Starts a broker in this process, and sets its addresses in the flags.
async fn start_broker(args: &mut Args) -> anyhow::Result<EmbeddedBroker> {
    let embedded = EmbeddedBroker::start("mqueue-gateway").await?;
    args.broker.nsqd_tcp_address = vec![embedded.tcp.parse()?];
    args.broker.nsqd_http_address = vec![embedded.http.parse()?];
    tracing::info!("a broker in this process: NSQ's protocol on {}, HTTP on http://{}", embedded.tcp, embedded.http);
    Ok(embedded)
}

/// Requeues the jobs of workers that are silent past their deadline.
async fn requeue_jobs_of_silent_workers(exchange: Arc<Exchange>) {
    loop {
        let next = exchange.tick();
        let due = async {
            match next {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = exchange.due_changed.notified() => {}
        }
    }
}

/// Stops handing out jobs, waits for those in progress, then requeues the rest.
async fn drain(exchange: &Arc<Exchange>, shutdown: &Shutdown) {
    exchange.retire_all();
    let held = exchange.held();
    if held > 0 {
        tracing::info!("ending: waiting for {} held by workers", count(held, "job"));
    }
    while exchange.held() > 0 {
        tokio::select! {
            () = exchange.all_answered.notified() => {}
            () = shutdown.now.cancelled() => break,
        }
    }
    exchange.leave_all();
    for (group_consumer, _) in exchange.groups() {
        group_consumer.control.stop();
    }
    exchange.tasks.close();
    if timeout(CLOSE_TIMEOUT, exchange.tasks.wait()).await.is_err() {
        tracing::warn!("not all jobs could be requeued; nsqd requeues them after their timeout");
    }
}

impl Gateway {
    /// Returns the publisher; connects at the first call.
    async fn publisher(&self) -> Result<&Publisher, RequestError> {
        let connect = async || {
            let brokers = BrokerAddresses::find(&self.settings.broker).await.map_err(RequestError::unavailable)?;
            let config = PublisherConfig::default()
                .with_connect(self.settings.broker.connect())
                .with_timeout(PUBLISH_TIMEOUT)
                .with_answer_within(NSQD_REPLY_TIMEOUT);
            let connected = Publisher::connect(&brokers.tcp, config).await;
            connected.map_err(|error| RequestError::unavailable(Failure::unavailable(&error).line))
        };
        self.publisher.get_or_try_init(connect).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_capped_by_the_limit_of_open_files() {
        for limit in [100, 256, 1024, 4096] {
            let files = OpenFiles { limit, free: limit - 20 };
            let capped = places(10_000, files).count();
            assert!(
                capped + files.free / 4 + RESERVED_FILES <= files.free && capped > files.free / 4,
                "{limit}: {capped}"
            );
        }
        let plenty = OpenFiles { limit: 1 << 20, free: 1 << 20 };
        assert_eq!(places(10_000, plenty).count(), 10_000 + ConnectionSlots::reserve(10_000));
        assert_eq!(
            places(10_000, OpenFiles { limit: 20, free: 0 }).count(),
            MIN_CONNECTIONS - 1,
            "a slot is for closing"
        );
    }
}
