//! `mqueue wakeup`: watches the queues, and pokes the sockets of consumers that sleep while their group has messages.
//!
//! ```text
//!  /stats, every second ─▶ observe ─▶ decide ─▶ poke GROUP.sock ─▶ systemd starts the consumer
//!  a message, at once   ─▶ edge    ─▶ arrived ─┘
//!  GET /state           ─▶ listen  ─▶ state
//! ```
//!
//! One loop owns all of it. Whatever waits (nsqds, subscriptions, readers of `/state`) does so in tasks of its own.

pub(crate) mod args;
mod brokers;
mod counters;
mod listen;
mod once;
#[cfg(test)]
mod simulation;
mod sockets;
mod state;
mod ungrouped;
mod watch;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use self::brokers::{Brokers, News};
use self::listen::{Question, Topic};
use self::state::State;
use self::watch::Watch;
use super::common::exit::{Exit, Failure};
use crate::commands::common::metrics::Metrics;
use crate::commands::wakeup::args::Args;
use mqueue::http::Door;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use mqueue::wake::edge::{Edges, Heard};

/// Where nobody asks for a sign of life, this is as good as never.
const SELDOM: Duration = Duration::from_secs(3600);

/// What comes again and again does so after this time at the soonest.
const SOONEST: Duration = Duration::from_millis(10);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    if args.broker.nsqd_http().is_empty() && args.broker.lookupd_http_address.is_empty() {
        let line = "no nsqd to ask: name its HTTP port, too, with --nsqd-http-address (HOST:4151 by default)";
        return Err(Failure::new(Exit::Usage, line).into());
    }
    if args.once {
        sockets::check(&args.sockets).map_err(|line| Failure::new(Exit::Failure, line))?;
    }
    let shutdown = Shutdown::on_signals(Duration::from_secs(1))?;
    let (server, mut questions) = serve(&args).await?;
    let (heard, mut hearing) = unbounded_channel();
    let mut wakeup = Wakeup::new(args, heard);
    let mut ticks = interval(wakeup.args.poll_interval.max(SOONEST));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beats = interval(wakeup.notifier.watchdog_interval().map_or(SELDOM, |within| within / 3).max(SOONEST));
    loop {
        tokio::select! {
            biased;
            () = shutdown.draining.cancelled() => break,
            Some(heard) = hearing.recv() => wakeup.watch.heard(heard),
            Some(news) = wakeup.brokers.answer() => {
                wakeup.answered(news);
                if !wakeup.brokers.is_asking() && wakeup.went_round()? {
                    break;
                }
            }
            _ = ticks.tick() => wakeup.brokers.ask(),
            () = at(wakeup.due) => {
                wakeup.due = None;
                wakeup.brokers.ask();
            }
            _ = beats.tick() => wakeup.notifier.watchdog(),
            Some(question) = questions.recv() => wakeup.tell(question),
        }
    }
    drop(server);
    wakeup.notifier.stopping();
    Ok(Exit::Success)
}

/// Waits until then, or for ever.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Starts the server, if there is to be one.
async fn serve(args: &Args) -> anyhow::Result<(Option<AbortOnDropHandle<Infallible>>, mpsc::Receiver<Question>)> {
    let (router, questions) = listen::router();
    let Some(address) = &args.listen else { return Ok((None, questions)) };
    let cannot = |e| Failure::new(Exit::Failure, format!("cannot listen on {address}: {e}: choose another --listen"));
    let door = Door::bind(address).await.map_err(cannot)?;
    tracing::info!("listening on http://{} (/healthz, /state, /metrics)", door.address().map_err(cannot)?);
    Ok((Some(AbortOnDropHandle::new(tokio::spawn(door.serve(router)))), questions))
}

/// All that the loop owns.
struct Wakeup {
    args: Args,
    watch: Watch,
    brokers: Brokers,
    edges: Edges,
    metrics: Metrics,
    notifier: Notifier,
    /// When to look again, before the next poll.
    due: Option<Instant>,
    /// What systemd was told last; nothing before all were asked once.
    status: Option<String>,
}

impl Wakeup {
    fn new(args: Args, heard: mpsc::UnboundedSender<Heard>) -> Self {
        let watch = Watch::new(&args);
        let metrics = Metrics::new(|registry| watch.counters.register(registry));
        let brokers = Brokers::new(&args.broker, args.once);
        Self { args, watch, brokers, edges: Edges::new(heard), metrics, notifier: Notifier, due: None, status: None }
    }

    fn answered(&mut self, news: News) {
        if news == News::Nodes {
            return;
        }
        let mut poll = self.brokers.poll();
        let streams = std::mem::take(&mut poll.streams);
        match news {
            News::Stats { took } => {
                self.watch.counters.polls.inc();
                self.watch.counters.poll_duration.observe(took.as_secs_f64());
                self.watch.polled(poll, &self.brokers.flags());
                self.due = self.watch.due();
            }
            News::Failed | News::Nodes => {
                self.watch.counters.poll_errors.inc();
            }
        }
        let is_quiet = self.args.no_edge || self.args.once || self.args.dry_run;
        let wanted = if is_quiet { BTreeSet::new() } else { self.watch.worth_hearing(streams) };
        self.edges.set(wanted, |nsqd| self.brokers.http(nsqd));
    }

    /// All have answered, or failed to. True if that is all that was wanted.
    fn went_round(&mut self) -> Result<bool, Failure> {
        let trouble = self.brokers.trouble();
        if self.args.once {
            // no nsqd at all is the one line that ends it; what else is wrong is said beside what was done
            trouble.map_or(Ok(()), |trouble| Err(Failure::new(Exit::Unavailable, trouble)))?;
            self.brokers.health(Instant::now()).filter_map(|h| h.trouble).for_each(|line| tracing::warn!("{line}"));
            return Ok(true);
        }
        let status = trouble.unwrap_or_else(|| self.watch.status());
        if self.status.as_ref() != Some(&status) {
            self.notifier.status(&status);
        }
        // also where no nsqd answers: it may come later
        if self.status.replace(status).is_none() {
            self.notifier.ready();
        }
        Ok(false)
    }

    fn tell(&mut self, Question { topic, answer }: Question) {
        let told = match topic {
            Topic::Health => self.brokers.trouble().map_or(Ok("ok\n".to_owned()), Err),
            Topic::State => Ok(State::new(&self.watch, &self.brokers, Instant::now()).json()),
            Topic::Metrics => {
                self.watch.counters.look(&self.watch, self.edges.standing());
                Ok(self.metrics.text())
            }
        };
        // who asked may have gone
        let _ = answer.send(told);
    }
}
