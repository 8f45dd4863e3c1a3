//! `mqueue wakeup`: watches the queues, and pokes the sockets of consumers that sleep while their group has messages.
//!
//! ```text
//!  /stats, every second ─▶ decide ─▶ poke GROUP.sock ─▶ systemd starts the consumer
//!  a message, at once   ─▶ arrived ──┘
//! ```

mod decide;
mod edge;
mod observe;
mod sockets;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{MissedTickBehavior, interval};

use self::decide::{Memory, Observed, Wake};
use self::edge::Edges;
use self::observe::{Brokers, Poll};
use self::sockets::Sockets;
use super::{Exit, Failure};
use crate::cli::wakeup::Args;
use crate::shutdown::Shutdown;
use crate::systemd::Notifier;

/// Runs the command to its end.
pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(Duration::from_secs(1))?;
    let notifier = Notifier;
    let (heard, mut hearing) = unbounded_channel();
    let mut edges = Edges::new(heard);
    let mut watch = Watch::new(&args);
    let mut brokers = Brokers::new(args.broker.clone());
    let mut ticks = interval(args.poll_interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.draining.cancelled() => break,
            Some(stream) = hearing.recv() => watch.heard(&stream),
            _ = ticks.tick() => {
                match brokers.poll().await {
                    Ok(poll) => {
                        let wanted = watch.polled(poll);
                        edges.set(if args.no_edge || args.once || args.dry_run { BTreeSet::new() } else { wanted });
                    }
                    Err(error) if args.once => return Err(Failure::new(Exit::Unavailable, error).into()),
                    // each nsqd's trouble has been said, once
                    Err(_) => {}
                }
                if args.once {
                    break;
                }
                notifier.ready();
                notifier.watchdog();
                notifier.status(&watch.status());
            }
        }
    }
    notifier.stopping();
    Ok(Exit::Success)
}

/// What is known, and what was done.
struct Watch {
    seen: Observed,
    memory: Memory,
    sockets: Sockets,
    per_consumer: u64,
    dry_run: bool,
    woken: u64,
    /// Sockets that could not be poked, and why; said when it changes.
    broken: HashMap<PathBuf, String>,
    /// Groups that are left alone because they are paused; said once.
    paused: BTreeSet<(String, String)>,
}

impl Watch {
    fn new(args: &Args) -> Self {
        Self {
            seen: Observed::default(),
            memory: Memory::default(),
            sockets: Sockets::new(args.socket_dir.clone()),
            per_consumer: args.per_consumer,
            dry_run: args.dry_run,
            woken: 0,
            broken: HashMap::new(),
            paused: BTreeSet::new(),
        }
    }

    /// Takes in a poll, and wakes whom it shows. Returns the streams that should be listened to.
    fn polled(&mut self, poll: Poll) -> BTreeSet<(crate::client::Address, String)> {
        let sockets = self.sockets.of(poll.groups.keys().map(|(_, group)| group.as_str()));
        self.seen = Observed { groups: poll.groups, sockets };
        let paused = self.seen.groups.iter().filter(|(_, group)| group.paused && group.depth > 0);
        let paused: BTreeSet<_> = paused.map(|(name, _)| name.clone()).collect();
        for (stream, group) in paused.difference(&self.paused) {
            tracing::info!(%stream, %group, "has messages, but is paused: left alone");
        }
        self.paused = paused;
        for wake in decide::decide(&self.seen, self.per_consumer, &mut self.memory, Instant::now()) {
            self.wake(&wake);
        }
        poll.streams.into_iter().filter(|(_, stream)| self.seen.asleep(stream).next().is_some()).collect()
    }

    /// A message came to this stream.
    fn heard(&mut self, stream: &str) {
        for wake in decide::arrived(stream, &self.seen, &mut self.memory, Instant::now()) {
            self.wake(&wake);
        }
    }

    #[allow(clippy::print_stdout, reason = "what --dry-run prints is its data")]
    fn wake(&mut self, wake: &Wake) {
        let Wake { stream, group, socket, reason } = wake;
        if self.dry_run {
            println!("would wake group {group} of stream {stream} by {}: {reason}", socket.display());
            return;
        }
        match sockets::poke(socket) {
            Ok(()) => {
                self.woken += 1;
                self.broken.remove(socket);
                tracing::info!(%stream, %group, socket = %socket.display(), "woken: {reason}");
            }
            Err(error) => {
                let remedy = sockets::remedy(socket, &error);
                if self.broken.insert(socket.clone(), remedy.clone()).as_ref() != Some(&remedy) {
                    tracing::error!(%stream, %group, "cannot poke {}: {remedy}", socket.display());
                }
            }
        }
    }

    fn status(&self) -> String {
        let streams: BTreeSet<&str> = self.seen.groups.keys().map(|(stream, _)| stream.as_str()).collect();
        let asleep: usize = streams.iter().map(|stream| self.seen.asleep(stream).count()).sum();
        let (groups, streams) = (self.seen.groups.len(), streams.len());
        format!("woke {}, watching {groups} groups on {streams} streams, {asleep} asleep", self.woken)
    }
}
