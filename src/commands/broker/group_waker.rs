//! `--socket-dir`: the broker wakes sleeping groups itself, by the decisions of `mqueue wakeup`.
//!
//! ```text
//!  a message without a consumer ─┐
//!  a consumer came or went      ─┼─▶ look at the state ─▶ decide ─▶ poke GROUP.sock
//!  a new socket, a poke is due  ─┘
//! ```
//!
//! Nothing is polled: each of these is an event. Looks that follow each other are spaced, so that
//! they take at most a tenth of the time, however many messages arrive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mqueue::broker::Broker;
use mqueue::proto::stats::Stats;
use mqueue::wake::aggregate::QueueTotals;
use mqueue::wake::hosts::WakeHosts;
use mqueue::wake::shell_commands::ApiCommands;
use tokio::time::sleep_until;

use super::args::SleepArgs;
use super::folder_watch::FolderWatch;
use crate::commands::common::socket_args;
use crate::commands::common::waker::{SocketWaker, WakerSettings};

/// The shortest time between two looks.
const MIN_PAUSE: Duration = Duration::from_millis(2);

/// The sockets of this broker's groups.
pub(super) struct GroupWaker {
    broker: Arc<Broker>,
    waker: SocketWaker,
    folders: FolderWatch,
    /// The address of the HTTP API, and the flags for a consumer, as log lines name them.
    http: String,
    flags: String,
    /// True if something has happened since the last look.
    is_changed: bool,
    /// The earliest time of the next look.
    next_look: Instant,
}

impl GroupWaker {
    /// Wakes by the sockets in these folders; `None` without any. `tcp` and `http` are the broker's
    /// own addresses.
    pub(super) fn new(args: &SleepArgs, broker: Arc<Broker>, tcp: &str, http: &str) -> Option<Self> {
        if args.socket_dir.is_empty() {
            return None;
        }
        let sockets = socket_args::Args { socket_dir: args.socket_dir.clone(), socket: Vec::new() };
        let per_consumer = args.per_consumer;
        broker.change(|state, _| state.set_messages_per_consumer(usize::try_from(per_consumer).unwrap_or(usize::MAX)));
        let waker = SocketWaker::new(WakerSettings {
            sockets: &sockets,
            commands: ApiCommands::default(),
            per_consumer,
            max_consumers: usize::MAX,
            // alone: no other host pokes for this broker
            hosts: WakeHosts::new(String::new(), Duration::ZERO),
            is_once: false,
            dry_run: false,
        });
        let is_default = tcp == "127.0.0.1:4150";
        let flags = if is_default { String::new() } else { format!(" --nsqd-tcp-address {tcp}") };
        let folders = FolderWatch::new(&args.socket_dir);
        // the first look: messages may have waited since the last run
        Some(Self { broker, waker, folders, http: http.to_owned(), flags, is_changed: true, next_look: Instant::now() })
    }

    /// Waits until a group may have to be woken. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if !self.is_changed {
            let due = self.waker.due();
            let due = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.broker.unserved() => {}
                () = self.folders.changed() => {}
                () = due => {}
            }
            self.is_changed = true;
        }
        sleep_until(self.next_look.into()).await;
    }

    /// Looks at all groups, and pokes the sockets that are called for.
    pub(super) fn look(&mut self) {
        let begun = Instant::now();
        self.is_changed = false;
        self.folders.renew();
        let stats = Stats { topics: self.broker.topic_stats(), ..Stats::default() };
        let mut totals = QueueTotals::default();
        totals.add(&self.http, None, &stats);
        totals.join_retries();
        totals.leave_fleets_alone();
        totals.is_complete = true;
        self.waker.polled(totals, &self.flags);
        let now = Instant::now();
        self.next_look = now + (9 * (now - begun)).max(MIN_PAUSE);
    }

    /// True if the last look found a group that waits for a consumer which a poke can start.
    pub(super) fn is_waking(&self) -> bool {
        self.waker.is_waking()
    }
}
