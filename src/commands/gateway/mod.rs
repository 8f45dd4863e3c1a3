//! `mqueue gateway`: a job queue over HTTP.
//!
//! ```text
//!  counter ───▶ Publisher                               --counter
//!  routes ─┬─ take ────▶ a Stay, its Outbox, a Feed        GET  /streams/S/groups/G/jobs
//!          ├─ answer ──▶ a Task's Delivery                 POST /jobs/TOKEN/done …
//!          └─ publish ─▶ Publisher                         POST /streams/S
//!                exchange: Jobs (pure) between supply (a consumer a group) and outboxes (a response a worker)
//! ```

mod answer;
pub(crate) mod args;
mod counter;
mod counters;
mod exchange;
mod jobs;
mod opening;
mod outbox;
mod params;
mod publish;
mod read;
mod refusal;
mod routes;
mod server;
mod stay;
mod supply;
mod take;
mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::counter::Counter;
use self::exchange::Exchange;
use self::opening::Opening;
use self::refusal::Refusal;
use self::server::Server;
use self::token::Mint;
use super::common::embedded_broker::Embedded;
use super::common::exit::{Exit, Failure};
use super::common::open_files::{self, Files};
use super::common::run_broker::Brokers;
use crate::commands::gateway::args::Args;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::http::ConnectionSlots;
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// How long publishing may take before a client is asked to come again.
const PUBLISH_TIME: Duration = Duration::from_secs(5);
/// How long one nsqd may take before another is asked.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Files that are kept for the log, nsqlookupds and connections that make way.
const KEPT: usize = 32;
/// Below so many connections the gateway would be of no use.
const LEAST: usize = 8;
/// How long giving jobs back and the last answers may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What requests are answered from.
#[derive(Debug)]
struct Gateway {
    settings: Args,
    exchange: Arc<Exchange>,
    opening: Opening,
    publisher: OnceCell<Publisher>,
    /// Bytes that bodies may still take.
    room: Arc<Semaphore>,
    bearer: Option<Vec<u8>>,
    shutdown: Shutdown,
}

/// Runs the command to its end.
pub(crate) async fn run(mut args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.grace)?;
    let bearer = args.bearer_token_file.as_deref().map(bearer).transpose()?;
    open_files::raise_limit();
    let (listen, heartbeat) = (args.listen.clone(), args.workers.heartbeat);
    let listener = mqueue::http::listen(&listen).await;
    let listener = listener.map_err(|e| Failure::new(Exit::Failure, format!("cannot listen on {listen}: {e}")))?;
    let mint = Mint::new().context("no randomness for tokens")?;
    let counts = args.counter;
    let embedded = if counts && !args.broker.is_named() { Some(start_broker(&mut args).await?) } else { None };
    let counter = counts.then(|| Counter::new(Instant::now()));
    let exchange = Exchange::new(mint, args.limits.max_in_flight, counter);
    let places = places(args.limits.max_connections as usize, Files::of_this_process());
    let gateway = Arc::new(Gateway {
        settings: args,
        exchange: exchange.clone(),
        opening: Opening::default(),
        publisher: OnceCell::new(),
        room: Arc::new(Semaphore::new(read::ROOM)),
        bearer,
        shutdown: shutdown.clone(),
    });
    tracing::info!("listening on http://{}", listener.local_addr()?);
    if let Err(error) = gateway.publisher().await {
        tracing::warn!("{}; requests are answered with 503 until it can be reached", error.error());
    }
    let router = routes::router(gateway.clone());
    let server = Server { listener, router, heartbeat, places, count: exchange.counters.connections.clone() };
    let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
    connections.spawn(server.run(stop.clone(), connections.clone()));
    let looking = tokio::spawn(look_for_the_silent(exchange.clone()));
    let counting = counts.then(|| tokio::spawn(counter::run(gateway.clone())));
    Notifier.ready();
    shutdown.draining.cancelled().await;
    Notifier.stopping();
    end(&exchange, &shutdown).await;
    looking.abort();
    stop.cancel();
    connections.close();
    if timeout(LAST_WORDS, connections.wait()).await.is_err() {
        tracing::debug!("connections that were still open are closed");
    }
    let left = &exchange.counters;
    tracing::info!(
        "ended: {} handed out, {} done, {} retried, {} given back",
        count(left.handed_out.get(), "job"),
        left.done.get(),
        left.retried.get(),
        left.released.get()
    );
    if let Some(counting) = counting {
        let _ = counting.await;
    }
    if let Some(embedded) = embedded {
        embedded.end().await;
    }
    Ok(if shutdown.now.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

/// Places for so many connections, or as many as there are files for. A quarter of the files is kept for connections to nsqds, and some for all else.
fn places(wanted: usize, files: Files) -> ConnectionSlots {
    let room = (files.free - files.free / 4).saturating_sub(KEPT).max(LEAST);
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

/// Starts a broker in this process, and names it in the flags.
async fn start_broker(args: &mut Args) -> anyhow::Result<Embedded> {
    let embedded = Embedded::start("mqueue-gateway").await?;
    args.broker.nsqd_tcp_address = vec![embedded.tcp.parse()?];
    args.broker.nsqd_http_address = vec![embedded.http.parse()?];
    tracing::info!("a broker in this process: NSQ's protocol on {}, HTTP on http://{}", embedded.tcp, embedded.http);
    Ok(embedded)
}

/// The token in a file. Fails if there is none.
fn bearer(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let text = std::fs::read(path).map_err(|e| Failure::new(Exit::Usage, format!("cannot read {path:?}: {e}")))?;
    match text.trim_ascii() {
        [] => Err(Failure::new(Exit::Usage, format!("no token in {path:?}: write one into it"))),
        token => Ok(token.to_vec()),
    }
}

/// Takes the jobs of silent workers back, when their time is up.
async fn look_for_the_silent(exchange: Arc<Exchange>) {
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

/// Nobody gets a job any more; who has one may finish it; then all goes back.
async fn end(exchange: &Arc<Exchange>, shutdown: &Shutdown) {
    exchange.retire_all();
    let held = exchange.held();
    if held > 0 {
        tracing::info!("ending: waiting for {} that workers have", count(held, "job"));
    }
    while exchange.held() > 0 {
        tokio::select! {
            () = exchange.all_answered.notified() => {}
            () = shutdown.now.cancelled() => break,
        }
    }
    exchange.leave_all();
    for (supply, _) in exchange.groups() {
        supply.control.stop();
    }
    exchange.tasks.close();
    if timeout(LAST_WORDS, exchange.tasks.wait()).await.is_err() {
        tracing::warn!("not all jobs could be given back: nsqd requeues them when their time is up");
    }
}

impl Gateway {
    /// The publisher, which connects when it is first wanted.
    async fn publisher(&self) -> Result<&Publisher, Refusal> {
        let connect = async || {
            let brokers = Brokers::find(&self.settings.broker).await.map_err(Refusal::unavailable)?;
            let config =
                PublisherConfig { timeout: PUBLISH_TIME, answer_within: ANSWER_TIME, ..PublisherConfig::default() };
            let connected = Publisher::connect(&brokers.tcp, config).await;
            connected.map_err(|error| Refusal::unavailable(Failure::unavailable(&error).line))
        };
        self.publisher.get_or_try_init(connect).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_connections_than_files() {
        for limit in [100, 256, 1024, 4096] {
            let files = Files { limit, free: limit - 20 };
            let capped = places(10_000, files).count();
            assert!(capped + files.free / 4 + KEPT <= files.free && capped > files.free / 4, "{limit}: {capped}");
        }
        let plenty = Files { limit: 1 << 20, free: 1 << 20 };
        assert_eq!(places(10_000, plenty).count(), 10_000 + ConnectionSlots::reserve(10_000));
        assert_eq!(places(10_000, Files { limit: 20, free: 0 }).count(), LEAST);
    }
}
