//! `mqueue node`: one of a fleet generates, the others consume, and one of them takes over when it dies.
//!
//! ```text
//!            ┌── token ◀──▶ nsqd: STREAM.token / token      one message: who has it in flight may lead
//!  Lease ◀───┤
//!  (pure)    └── ears  ◀─── nsqd: STREAM.token.beats        what holders say of themselves, to all nodes
//!    │
//!    ├─ leads ──▶ events ──▶ STREAM, over the token's connection
//!    └─ else ───▶ Consumer ─▶ Worker ─▶ Work ─▶ done, or dead letter
//! ```

pub(crate) mod args;
mod clock;
mod episode;
mod event;
mod generator;
mod lease;
mod line;
mod places;
mod post;
mod vars;
mod work;

use std::ffi::OsString;
use std::sync::Arc;

use tokio::sync::watch;

use self::places::Places;
use self::post::Post;
use self::vars::Vars;
use self::work::{Plan, Work};
use super::common::exit::{Exit, Failure};
use crate::commands::common::worker_flags;
use crate::commands::node::args::{Args, Mode};
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let places = Places::new(&args)?;
    warn_of_unused(std::env::vars_os().map(|(name, _)| name));
    let vars = Arc::new(Vars { only_generates: args.mode == Mode::Generator, ..Vars::default() });
    let work = Arc::new(work(&args, &shutdown, vars.clone())?);
    let plan = Plan::new(&args)?;
    let (leading, leads) = watch::channel(false);
    let post = tokio::select! {
        post = Post::take(&args, places, vars.clone(), leading) => post?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    vars::serve(vars, args.mport).await;
    Notifier.ready();
    let consuming = async {
        match args.mode {
            Mode::Consumer => work::run(plan, work, leads, shutdown.clone()).await,
            Mode::Generator => Ok(()),
        }
    };
    let stands = async {
        post.stand(&shutdown).await;
        // what is being handled is finished
        shutdown.draining.cancel();
    };
    let ((), consumed) = tokio::join!(stands, consuming);
    Notifier.stopping();
    consumed?;
    Ok(if shutdown.now.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

/// Names settings of Redis that this program does not read: whoever set them expects something of them.
fn warn_of_unused(set: impl Iterator<Item = OsString>) {
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

fn work(args: &Args, shutdown: &Shutdown, vars: Arc<Vars>) -> Result<Work, Failure> {
    let (timeout, nsqd) = (args.failing.handler_timeout, args.broker.nsqd());
    let options = worker_flags::handler_options(&args.stream, &args.group, timeout, nsqd, shutdown);
    let handler = args.handler.build(&options).map_err(|e| Failure::new(Exit::Usage, e))?;
    Ok(Work::new(handler, args.invalid, vars))
}
