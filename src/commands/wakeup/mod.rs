//! `mqueue wakeup`: watches the queues, and pokes the sockets of sleeping consumers whose group has
//! messages.
//!
//! ```text
//!  /stats, every second ─▶ aggregate ─▶ decide ─▶ poke GROUP.sock ─▶ systemd starts the consumer
//!  a message, at once   ─▶ arrivals  ─▶ decide_arrival ─┘
//!  GET /state           ─▶ listen    ─▶ state
//! ```
//!
//! One loop owns the state. Everything that waits (nsqds, subscriptions, readers of `/state`) runs
//! in tasks of its own.

pub(crate) mod args;
mod brokers;
mod listen;
mod other_hosts;
#[cfg(test)]
mod simulation;
mod state;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use self::brokers::{PollNews, PolledBrokers};
use self::listen::{StatusPage, StatusQuestion};
use self::other_hosts::OtherHosts;
use self::state::WakeupState;
use super::common::exit::{Exit, Failure};
use crate::commands::common::metrics::Metrics;
use crate::commands::common::metrics::status_server::{self, StatusServer};
use crate::commands::common::waker::{SocketWaker, WakerSettings, sockets};
use crate::commands::wakeup::args::Args;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use mqueue::wake::arrivals::{ArrivalNews, ArrivalSubscriptions};
use mqueue::wake::hosts::WakeHosts;

/// The keep-alive interval without a watchdog: as good as never.
const NO_WATCHDOG: Duration = Duration::from_secs(3600);

/// The minimum interval of periodic work.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

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
    let (arrival, mut arrivals) = unbounded_channel();
    let mut wakeup = Wakeup::new(args, arrival);
    let mut ticks = interval(wakeup.args.poll_interval.max(MIN_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watchdog_ticks =
        interval(wakeup.notifier.watchdog_interval().map_or(NO_WATCHDOG, |within| within / 3).max(MIN_INTERVAL));
    loop {
        tokio::select! {
            biased;
            () = shutdown.draining.cancelled() => break,
            Some(arrival) = arrivals.recv() => wakeup.waker.take_arrival(arrival),
            Some(news) = wakeup.brokers.answer() => {
                wakeup.take_news(news);
                if !wakeup.brokers.is_asking() && wakeup.round_finished()? {
                    break;
                }
            }
            _ = ticks.tick() => wakeup.ask(),
            () = at(wakeup.due) => {
                wakeup.due = None;
                wakeup.ask();
            }
            _ = watchdog_ticks.tick() => wakeup.notifier.watchdog(),
            Some(question) = questions.recv() => wakeup.answer_question(question),
        }
    }
    drop(server);
    wakeup.notifier.stopping();
    Ok(Exit::Success)
}

/// Waits until then, or forever.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Starts the HTTP server, if `--listen` is given.
async fn serve(args: &Args) -> Result<(Option<StatusServer>, mpsc::Receiver<StatusQuestion>), Failure> {
    let (router, questions) = listen::router();
    let Some(address) = &args.listen else { return Ok((None, questions)) };
    let paths = "/healthz, /state, /metrics";
    let server = status_server::serve("--listen", address, &args.http_guard, paths, router).await?;
    Ok((Some(server), questions))
}

/// The state of the main loop.
struct Wakeup {
    args: Args,
    waker: SocketWaker,
    brokers: PolledBrokers,
    subscriptions: ArrivalSubscriptions,
    other_hosts: OtherHosts,
    metrics: Metrics,
    notifier: Notifier,
    /// The time of an extra poll before the next regular one.
    due: Option<Instant>,
    /// The last status sent to systemd; `None` until every broker was asked once.
    status: Option<String>,
}

impl Wakeup {
    fn new(args: Args, arrival: mpsc::UnboundedSender<ArrivalNews>) -> Self {
        let subscriptions = ArrivalSubscriptions::new(arrival, args.broker.connect());
        let other_hosts = OtherHosts::new(&args, subscriptions.id());
        let waker = SocketWaker::new(WakerSettings {
            sockets: &args.sockets,
            commands: args.broker.security.api_commands(),
            per_consumer: args.per_consumer,
            max_consumers: args.max_consumers.unwrap_or(usize::MAX),
            hosts: WakeHosts::new(subscriptions.id().to_owned(), args.poll_interval.max(MIN_INTERVAL)),
            is_once: args.once,
            dry_run: args.dry_run,
        });
        let metrics = Metrics::new(|registry| waker.metrics.register(registry));
        let brokers = PolledBrokers::new(&args.broker, args.once);
        let (notifier, due, status) = (Notifier, None, None);
        Self { args, waker, brokers, subscriptions, other_hosts, metrics, notifier, due, status }
    }

    fn ask(&mut self) {
        self.brokers.ask(self.other_hosts.asks());
    }

    fn take_news(&mut self, news: PollNews) {
        if news == PollNews::Nodes {
            return;
        }
        let mut poll = self.brokers.poll();
        let streams = std::mem::take(&mut poll.streams);
        match news {
            PollNews::Stats { took } => {
                self.waker.metrics.polls.inc();
                self.waker.metrics.poll_duration.observe(took.as_secs_f64());
                self.other_hosts.polled(&poll, self.brokers.hosts(), &mut self.waker);
                self.waker.polled(poll, &self.brokers.flags());
                self.due = self.waker.due();
                self.other_hosts.list(self.brokers.tcp_addresses(), &self.waker);
            }
            PollNews::Failed | PollNews::Nodes => {
                self.waker.metrics.poll_errors.inc();
            }
        }
        let is_quiet = self.args.no_edge || self.args.once || self.args.dry_run;
        let wanted = if is_quiet { BTreeSet::new() } else { self.waker.streams_to_subscribe(streams) };
        self.subscriptions.set(wanted, |nsqd| self.brokers.http(nsqd));
    }

    /// Handles the end of a polling round: every request has succeeded or failed. Returns true if
    /// one round was all.
    fn round_finished(&mut self) -> Result<bool, Failure> {
        let trouble = self.brokers.trouble();
        if self.args.once {
            // without any nsqd this is the only line; other outages are logged beside the result
            trouble.map_or(Ok(()), |trouble| Err(Failure::new(Exit::Unavailable, trouble)))?;
            self.brokers.health(Instant::now()).filter_map(|h| h.trouble).for_each(|line| tracing::warn!("{line}"));
            return Ok(true);
        }
        let status = trouble.unwrap_or_else(|| self.waker.status());
        if self.status.as_ref() != Some(&status) {
            self.notifier.status(&status);
        }
        // ready even without any nsqd: it may start later
        if self.status.replace(status).is_none() {
            self.notifier.ready();
        }
        Ok(false)
    }

    fn answer_question(&mut self, StatusQuestion { page, answer }: StatusQuestion) {
        let told = match page {
            StatusPage::Health => self.brokers.trouble().map_or(Ok(String::new()), Err),
            StatusPage::State => {
                Ok(WakeupState::new(&self.waker, &self.brokers, self.other_hosts.own(), Instant::now()).json())
            }
            StatusPage::Metrics => {
                self.waker.metrics.look(&self.waker, self.subscriptions.established());
                Ok(self.metrics.text())
            }
        };
        // the client may have disconnected
        let _ = answer.send(told);
    }
}
