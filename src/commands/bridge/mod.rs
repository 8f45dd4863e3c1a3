//! `mqueue bridge`: from a list in Redis to a stream, or from a stream to a list or to another
//! cluster.
//!
//! ```text
//!  redis:// ─▶ FromRedis: batches set aside, published, deleted ─▶ Publisher ─▶ stream
//!  stream ─▶ Consumer ─▶ Worker ─▶ BridgeHandler ─▶ NextHop ─┬─▶ RedisPusher ─▶ redis://
//!                                                            └─▶ ForwardHandler ─▶ stream elsewhere
//! ```

pub(crate) mod args;
mod forwarding;
mod from_redis;
mod json_filter;
mod pacer;
mod redis_pusher;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use self::forwarding::BridgeHandler;
use self::from_redis::{FromRedis, TakeLimits, entries};
use self::json_filter::JsonFilter;
use self::pacer::Pacer;
use self::redis_pusher::RedisPusher;
use super::common::exit::{Exit, Failure};
use super::common::next_hop::{NextHop, PassOn};
use super::common::run_broker::BrokerAddresses;
use super::common::service::{notify, notify_interval};
use super::common::worker_flags;
use crate::commands::bridge::args::{Args, BridgeEnd, ListEnd};
use crate::commands::common::metrics::group_meter::{self, GroupMeter};
use crate::commands::common::metrics::publish_meter::PublishMeter;
use crate::commands::common::redis::{RedisList, RedisServer};
use mqueue::client::{Consumer, Publisher, PublisherConfig};
use mqueue::handler::{BuiltinHandler, ForwardHandler};
use mqueue::plural::count;
use mqueue::proto::{ChannelName, TopicName};
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use mqueue::worker::{Worker, WorkerConfig};

/// Max-in-flight in batches: one is passed on while the next arrives.
const BATCHES_IN_FLIGHT: u32 = 2;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    match (&args.from, &args.to) {
        (BridgeEnd::Redis(from), BridgeEnd::Stream(to)) => take(&args, from, to, &shutdown).await,
        (BridgeEnd::Stream(from), BridgeEnd::Redis(to)) => {
            let group = group(&args)?;
            let server = server(&args, to)?;
            let first = server.connect_first().await?;
            let command = match args.redis_push {
                ListEnd::Left => "LPUSH",
                ListEnd::Right => "RPUSH",
            };
            forward(&args, from, &group, RedisPusher::new(server, command, first), &shutdown).await
        }
        (BridgeEnd::Stream(from), BridgeEnd::Stream(to)) => {
            let group = group(&args)?;
            let elsewhere = elsewhere(&args, from, to).await?;
            forward(&args, from, &group, BuiltinHandler::Forward(elsewhere), &shutdown).await
        }
        (BridgeEnd::Redis(_), BridgeEnd::Redis(_)) => {
            let line = "one end has to be a stream: Redis itself copies lists (`redis-cli COPY`, REPLICAOF)";
            Err(Failure::new(Exit::Usage, line).into())
        }
    }
}

/// From Redis to a stream.
async fn take(args: &Args, from: &RedisList, to: &TopicName, shutdown: &Shutdown) -> anyhow::Result<Exit> {
    if args.group.is_some() || !filter(args).is_empty() {
        let line = "--group and the selection by JSON fields are for messages of a stream: this source is a list";
        return Err(Failure::new(Exit::Usage, line).into());
    }
    let server = server(args, from)?;
    let meter = args.metrics.wanted(|| PublishMeter::new(to));
    let _server = args.metrics.serve(meter.as_ref(), |meter| meter.pages(|_| ())).await?;
    let first = server.connect_first().await?;
    let brokers = BrokerAddresses::find(&args.broker).await?;
    let config = PublisherConfig::default().with_connect(args.broker.connect());
    let publisher = Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?;
    meter.iter().for_each(|meter| meter.follow(publisher.clone()));
    tracing::info!("bridging {from} to stream {to}");
    Notifier.ready();
    let limits = TakeLimits {
        batch: args.batch_size.into(),
        rate: args.rate,
        idle: args.exit.timeout,
        count: args.exit.count,
        end: match args.redis_push {
            ListEnd::Left => "RIGHT",
            ListEnd::Right => "LEFT",
        },
    };
    let started = Instant::now();
    let mut work = FromRedis::new(server, to.clone(), publisher, meter, limits);
    let published = work.published();
    let ended = tokio::select! {
        ended = work.run(first, &shutdown.draining) => ended,
        () = shutdown.now.cancelled() => Ok(Exit::Interrupted),
        never = notify_systemd(&published, shutdown) => match never {},
    };
    Notifier.stopping();
    let (totals, seconds) = (work.totals(), started.elapsed().as_secs_f64());
    let mut text = format!("{} published to {to}", entries(totals.published));
    if totals.taken_over > 0 {
        text += &format!(" ({} of dead bridges)", totals.taken_over);
    }
    if totals.refused > 0 {
        text += &format!(", {} kept in list {}", totals.refused, from.key_of("refused"));
    }
    tracing::info!("{text}, in {seconds:.1} s");
    Ok(ended?)
}

/// Notifies systemd, also while Redis is away.
async fn notify_systemd(published: &AtomicU64, shutdown: &Shutdown) -> Infallible {
    loop {
        let published = entries(published.load(Ordering::Relaxed));
        notify(&format!("{published} published"), shutdown.draining.is_cancelled());
        tokio::time::sleep(notify_interval()).await;
    }
}

/// From a stream to `target`.
async fn forward<W: PassOn + Send + Sync + 'static>(
    args: &Args,
    from: &TopicName,
    group: &ChannelName,
    target: W,
    shutdown: &Shutdown,
) -> anyhow::Result<Exit> {
    let handler = Arc::new(BridgeHandler {
        target: NextHop::new(target, args.to.to_string(), shutdown.draining.clone()),
        filter: filter(args),
        batch: args.batch_size as usize,
        pacer: args.rate.map(|rate| Mutex::new(Pacer::new(rate, Instant::now()))),
        passed: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
    });
    let meter = args.metrics.wanted(|| GroupMeter::new(from, group));
    let _server = args.metrics.serve(meter.as_ref(), GroupMeter::pages).await?;
    let config = worker_flags::consumer_config(from, group, &args.broker, &args.tuning)
        .with_max_in_flight(args.batch_size * BATCHES_IN_FLIGHT);
    let started = Instant::now();
    let consumer = tokio::select! {
        connected = Consumer::connect(config) => connected.map_err(|e| Failure::unavailable(&e))?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    tracing::info!(group = %group, "bridging stream {from} to {}", args.to);
    Notifier.ready();
    let (control, shown) = (consumer.control(), handler.clone());
    // deliveries to bridges that were killed are no reason to give a message up
    let mut config = WorkerConfig::default().with_max_attempts(0);
    config = config
        .with_dead_letters(worker_flags::dead_letters(from, None)?)
        .with_idle_timeout(args.exit.timeout)
        .with_count(args.exit.count);
    config.publisher.connect = args.broker.connect();
    let worker = Worker::new(consumer, handler.clone(), config)?.with_progress_hook(
        notify_interval(),
        Box::new(move |snapshot| {
            let passed = shown.passed.load(Ordering::Relaxed);
            notify(&format!("{} passed on", count(passed, "message")), snapshot.stopping);
        }),
    );
    let worker = group_meter::measured(worker, control, meter.as_deref());
    let (ended, stats) = worker.run(shutdown).await;
    Notifier.stopping();
    let (passed, skipped) = (handler.passed.load(Ordering::Relaxed), handler.skipped.load(Ordering::Relaxed));
    let mut text = format!("{} passed on to {}", count(passed, "message"), args.to);
    for (number, what) in [(skipped, "not selected"), (stats.dead, "dead letters"), (stats.released, "given back")] {
        if number > 0 {
            text += &format!(", {number} {what}");
        }
    }
    tracing::info!("{text}, in {:.1} s", started.elapsed().as_secs_f64());
    Ok(Exit::of_worker(ended, &stats)?)
}

fn group(args: &Args) -> Result<ChannelName, Failure> {
    let line = "the source is a stream: name the group to consume it as with --group";
    args.group.clone().ok_or_else(|| Failure::new(Exit::Usage, line))
}

fn filter(args: &Args) -> JsonFilter {
    let required = args.require_json_field.clone().map(|field| (field, args.require_json_value.clone()));
    JsonFilter { required, kept: args.whitelist_json_field.clone() }
}

fn server(args: &Args, list: &RedisList) -> Result<RedisServer, Failure> {
    if !args.to_nsqd_tcp_address.is_empty() || !args.to_lookupd_http_address.is_empty() {
        let line = "--to-nsqd-tcp-address and --to-lookupd-http-address are for two streams: one end is a list";
        return Err(Failure::new(Exit::Usage, line));
    }
    RedisServer::new(list, args.redis_auth_file.as_deref(), args.broker.tls_client())
}

/// Makes the handler that publishes to the other cluster.
async fn elsewhere(args: &Args, from: &TopicName, to: &TopicName) -> Result<ForwardHandler, Failure> {
    let usage = |line: &str| Failure::new(Exit::Usage, line);
    if args.to_nsqd_tcp_address.is_empty() && args.to_lookupd_http_address.is_empty() {
        return Err(usage(
            "name the target's cluster with --to-nsqd-tcp-address (within one cluster: mqueue stage --to STREAM)",
        ));
    }
    let mut target = args.broker.clone();
    target.nsqd_tcp_address = args.to_nsqd_tcp_address.clone();
    target.lookupd_http_address = args.to_lookupd_http_address.clone();
    target.nsqd_http_address.clear();
    let brokers = BrokerAddresses::find(&target).await?;
    let own = args.broker.nsqd();
    if from == to && brokers.tcp.iter().any(|address| own.contains(address)) {
        return Err(usage(
            "an nsqd is in both clusters, and the stream would feed itself: name others, or another --to",
        ));
    }
    ForwardHandler::elsewhere(to.clone(), brokers.tcp, brokers.connect)
        .map_err(|error| Failure::new(Exit::Usage, error))
}
