//! `mqueue node`: one node of a fleet generates events, the others consume them, and one of those
//! takes over when the generator dies.
//!
//! ```text
//!            ┌── token   ◀──▶ nsqd: STREAM.token / token    one message: its holder may lead
//!  Lease ◀───┤
//!  (pure)    └── monitor ◀─── nsqd: STREAM.token.beats      the holders' heartbeats, to all nodes
//!    │
//!    ├─ leads ──▶ events ──▶ STREAM, over the token's connection
//!    └─ else ───▶ Consumer ─▶ Worker ─▶ EventHandler ─▶ done, or dead letter
//! ```
//!
//! With `--store redis` the same lease works on a key and a channel in Redis ([`redis`]).

pub(crate) mod args;
mod clock;
mod consume;
mod event;
mod expvar;
mod fleet_store;
mod generator;
mod lease;
mod metrics;
mod node_loop;
mod nsq_store;
mod reconnecting;
mod redis;
mod repeated_warning;
mod token_topics;

use std::ffi::OsString;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use self::consume::{ConsumePlan, EventHandler};
use self::expvar::NodeVars;
use self::fleet_store::FleetStore;
use self::lease::FleetConfig;
use self::node_loop::{NodeLoop, node_name};
use self::nsq_store::NsqStore;
use self::redis::{LeaseKeys, ListConsumer, RedisStore};
use self::token_topics::TokenTopics;
use super::common::exit::{Exit, Failure};
use super::common::redis::RedisServer;
use crate::commands::common::metrics::group_meter::GroupMeter;
use crate::commands::common::worker_flags;
use crate::commands::node::args::{Args, Mode};
use mqueue::http::BrowserGuard;
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use mqueue::worker::MaxTries;

/// Connections to Redis of one node: for the lease, for heartbeats and for the consumer.
const REDIS_CONNECTIONS: u32 = 3;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    match args.store.server(args.stream.as_str(), args.broker.tls_client())? {
        Some(server) => on_redis(&args, server, &shutdown).await,
        None => on_nsq(&args, &shutdown).await,
    }
}

async fn on_nsq(args: &Args, shutdown: &Shutdown) -> anyhow::Result<Exit> {
    let topics = TokenTopics::new(args)?;
    warn_of_unused_variables(std::env::vars_os().map(|(name, _)| name));
    let fleet = fleet_config(args, args.stream.clone());
    let vars = vars(args);
    let handler = Arc::new(event_handler(args, shutdown, vars.clone(), false)?);
    let meter = args.metrics.wanted(|| GroupMeter::new(&args.stream, &args.group));
    let _server = args.metrics.serve(meter.as_ref(), |meter| metrics::pages(meter, &vars, &args.stream, false)).await?;
    let plan = ConsumePlan::new(args, meter)?;
    let store = tokio::select! {
        store = NsqStore::connect(topics, fleet.clone()) => store?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    let consume = |leads| consume::run(plan, handler, leads, shutdown.clone());
    stand(args, (store, node_name()), fleet, vars, shutdown, consume).await
}

async fn on_redis(args: &Args, server: RedisServer, shutdown: &Shutdown) -> anyhow::Result<Exit> {
    if args.redis_pool_size < REDIS_CONNECTIONS {
        let line = format!("a node needs {REDIS_CONNECTIONS} connections to Redis: REDIS_POOL_SIZE is too small");
        return Err(Failure::new(Exit::Usage, line).into());
    }
    if args.failing.dead_letter.is_some() {
        tracing::warn!("not used: --dead-letter: in Redis, --redis-error-queue names the list");
    }
    let lock = args.token.token_stream.as_ref().map(TopicName::as_str);
    let keys = LeaseKeys::new(&server, lock, args.ping_interval);
    let fleet = fleet_config(args, stream_of_list(&server.list.key));
    let vars = vars(args);
    let handler = Arc::new(event_handler(args, shutdown, vars.clone(), true)?);
    let meter = args.metrics.wanted(|| GroupMeter::new(&fleet.stream, &args.group));
    let _server = args.metrics.serve(meter.as_ref(), |meter| metrics::pages(meter, &vars, &fleet.stream, true)).await?;
    let consumer = ListConsumer {
        server: server.clone(),
        errors: args.store.redis_error_queue.clone(),
        concurrency: args.concurrency as usize,
        max_tries: MaxTries(args.failing.max_attempts),
        retry_delay: args.failing.retry_delay,
        handler,
        meter,
        vars: vars.clone(),
    };
    let node = node_name();
    let store = tokio::select! {
        store = RedisStore::connect(server, keys, node.clone(), fleet.clone()) => store?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    let consume = |leads| redis::run(consumer, leads, shutdown.clone());
    stand(args, (store, node), fleet, vars, shutdown, consume).await
}

/// Generates and consumes until shutdown.
async fn stand<S: FleetStore, C: Future<Output = Result<(), Failure>>>(
    args: &Args,
    (store, node): (S, String),
    fleet: FleetConfig,
    vars: Arc<NodeVars>,
    shutdown: &Shutdown,
    consume: impl FnOnce(watch::Receiver<bool>) -> C,
) -> anyhow::Result<Exit> {
    let (leading, leads) = watch::channel(false);
    let node_loop = NodeLoop::new(store, node, fleet, args.interval(), vars.clone(), leading)?;
    expvar::serve(vars, args.mport, args.metrics.http_guard.extend(BrowserGuard::default())).await;
    Notifier.ready();
    let consuming = async {
        let consumed = match args.mode {
            Mode::Consumer => consume(leads).await,
            Mode::Generator => Ok(()),
        };
        if consumed.is_err() {
            shutdown.draining.cancel();
        }
        consumed
    };
    let standing = async {
        node_loop.run(shutdown).await;
        // events being handled are finished
        shutdown.draining.cancel();
    };
    let ((), consumed) = tokio::join!(standing, consuming);
    Notifier.stopping();
    consumed?;
    Ok(if shutdown.now.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

fn fleet_config(args: &Args, stream: TopicName) -> FleetConfig {
    FleetConfig { stream, lease_ms: u64::try_from(args.ping_interval.as_millis()).unwrap_or(u64::MAX) }
}

fn vars(args: &Args) -> Arc<NodeVars> {
    Arc::new(NodeVars { only_generates: args.mode == Mode::Generator, ..NodeVars::default() })
}

/// Returns a stream's name for a list, which may have any name: another for each list.
fn stream_of_list(key: &str) -> TopicName {
    let hash = || {
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        let mut half = [0; 8];
        half.copy_from_slice(&digest.as_ref()[..8]);
        format!("list-{:016x}", u64::from_be_bytes(half))
    };
    TopicName::new(key).unwrap_or_else(|_| TopicName::new(&hash()).expect("a valid name"))
}

/// Warns about environment variables for Redis, which a node on NSQ does not use.
fn warn_of_unused_variables(set: impl Iterator<Item = OsString>) {
    const UNUSED: [&str; 4] = ["REDIS_URL", "REDIS_QUEUE", "REDIS_ERROR_QUEUE", "REDIS_POOL_SIZE"];
    let set: Vec<OsString> = set.collect();
    let unused: Vec<&str> = UNUSED.into_iter().filter(|unused| set.iter().any(|name| name == unused)).collect();
    if !unused.is_empty() {
        tracing::warn!("not used: {}: the queue is in NSQ; `--store redis` uses Redis", unused.join(", "));
    }
}

fn event_handler(
    args: &Args,
    shutdown: &Shutdown,
    vars: Arc<NodeVars>,
    takes_others: bool,
) -> Result<EventHandler, Failure> {
    let (timeout, nsqd) = (args.failing.handler_timeout, args.broker.nsqd());
    let options =
        worker_flags::handler_options(&args.stream, &args.group, timeout, nsqd, args.broker.connect(), shutdown);
    let handler = args.handler.build(&options).map_err(|e| Failure::new(Exit::Usage, e))?;
    Ok(EventHandler::new(handler, args.invalid, vars, takes_others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_with_names_that_no_stream_can_have_are_told_apart() {
        assert_eq!(stream_of_list("a").as_str(), "a");
        assert!(stream_of_list("a:b").as_str().starts_with("list-") && stream_of_list("a:b") != stream_of_list("a:c"));
    }
}
