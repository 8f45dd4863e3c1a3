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

pub(crate) mod args;
mod clock;
mod consume;
mod event;
mod expvar;
mod generator;
mod lease;
mod metrics;
mod node_loop;
mod reconnecting;
mod repeated_warning;
mod token_topics;

use std::ffi::OsString;
use std::sync::Arc;

use tokio::sync::watch;

use self::consume::{ConsumePlan, EventHandler};
use self::expvar::NodeVars;
use self::node_loop::NodeLoop;
use self::token_topics::TokenTopics;
use super::common::exit::{Exit, Failure};
use crate::commands::common::metrics::group_meter::GroupMeter;
use crate::commands::common::worker_flags;
use crate::commands::node::args::{Args, Mode};
use mqueue::http::BrowserGuard;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let topics = TokenTopics::new(&args)?;
    warn_of_unused_variables(std::env::vars_os().map(|(name, _)| name));
    let vars = Arc::new(NodeVars { only_generates: args.mode == Mode::Generator, ..NodeVars::default() });
    let handler = Arc::new(event_handler(&args, &shutdown, vars.clone())?);
    let meter = args.metrics.wanted(|| GroupMeter::new(&args.stream, &args.group));
    let _server = args.metrics.serve(meter.as_ref(), |meter| metrics::pages(meter, &vars, &args.stream)).await?;
    let plan = ConsumePlan::new(&args, meter)?;
    let (leading, leads) = watch::channel(false);
    let node_loop = tokio::select! {
        node_loop = NodeLoop::connect(&args, topics, vars.clone(), leading) => node_loop?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    expvar::serve(vars, args.mport, args.metrics.http_guard.extend(BrowserGuard::default())).await;
    Notifier.ready();
    let consuming = async {
        match args.mode {
            Mode::Consumer => consume::run(plan, handler, leads, shutdown.clone()).await,
            Mode::Generator => Ok(()),
        }
    };
    let stands = async {
        node_loop.run(&shutdown).await;
        // events being handled are finished
        shutdown.draining.cancel();
    };
    let ((), consumed) = tokio::join!(stands, consuming);
    Notifier.stopping();
    consumed?;
    Ok(if shutdown.now.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

/// Warns about environment variables for Redis, which this program does not read.
fn warn_of_unused_variables(set: impl Iterator<Item = OsString>) {
    const UNUSED: [&str; 4] = ["REDIS_URL", "REDIS_QUEUE", "REDIS_ERROR_QUEUE", "REDIS_POOL_SIZE"];
    let set: Vec<OsString> = set.collect();
    let unused: Vec<&str> = UNUSED.into_iter().filter(|unused| set.iter().any(|name| name == unused)).collect();
    if !unused.is_empty() {
        tracing::warn!(
            "not used: {}: the queue is in NSQ; use NSQD_TCP_ADDRESS, NSQD_HTTP_ADDRESS, STREAM and MQUEUE_DEAD_LETTER",
            unused.join(", ")
        );
    }
}

fn event_handler(args: &Args, shutdown: &Shutdown, vars: Arc<NodeVars>) -> Result<EventHandler, Failure> {
    let (timeout, nsqd) = (args.failing.handler_timeout, args.broker.nsqd());
    let options =
        worker_flags::handler_options(&args.stream, &args.group, timeout, nsqd, args.broker.connect(), shutdown);
    let handler = args.handler.build(&options).map_err(|e| Failure::new(Exit::Usage, e))?;
    Ok(EventHandler::new(handler, args.invalid, vars))
}
