//! State shared by a consumer's links: the flow, and how to wake them when it changes.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::{Delivery, HeldOfNsqd, ReplyQueue};
use super::other_topics::OtherTopics;
use super::{ConsumerConfig, Health};
use crate::backoff::Backoff;
use crate::client::{Address, ConnectionId, Flow};

/// State shared by a consumer, its discovery and its links. The lock is held for the flow's
/// arithmetic only.
#[derive(Debug)]
pub(super) struct ConsumerShared {
    pub(super) config: ConsumerConfig,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Wakes discovery: a connection was lost.
    pub(super) discover_soon: Notify,
    /// Wakes links without a connection: nsqlookupd has answered, so they may retry at once.
    pub(super) lookup_done: Notify,
    /// Links to other topics.
    pub(super) other_topics: OtherTopics,
    /// The channel for deliveries; open as long as a link of the consumer's own topic exists.
    pub(super) sender: WeakUnboundedSender<Vec<Delivery>>,
    /// Bytes of unanswered messages on all connections.
    bytes: Arc<AtomicUsize>,
    state: Mutex<ConsumerState>,
}

#[derive(Debug)]
struct ConsumerState {
    flow: Flow,
    reply_queues: BTreeMap<ConnectionId, Arc<ReplyQueue>>,
    /// All addresses with a link; true if the link is to reconnect when its connection ends.
    links: BTreeMap<Address, bool>,
    next_id: u64,
}

impl ConsumerShared {
    pub(super) fn new(config: ConsumerConfig, sender: WeakUnboundedSender<Vec<Delivery>>) -> Self {
        let flow = Flow::new(&config.flow, fastrand::Rng::new());
        let state = ConsumerState { flow, reply_queues: BTreeMap::new(), links: BTreeMap::new(), next_id: 0 };
        Self {
            config,
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            discover_soon: Notify::new(),
            lookup_done: Notify::new(),
            other_topics: OtherTopics::default(),
            sender,
            bytes: Arc::default(),
            state: Mutex::new(state),
        }
    }

    /// Changes the flow and wakes the links whose RDY changed.
    pub(super) fn update(&self, change: impl FnOnce(&mut Flow, Instant)) {
        let mut state = self.state();
        change(&mut state.flow, Instant::now());
        for id in state.flow.take_changed() {
            if let Some(replies) = state.reply_queues.get(&id) {
                replies.wake.notify_one();
            }
        }
    }

    /// Registers replies for messages of connection `id`, and logs the beginning of a backoff
    /// pause.
    pub(super) fn answered(&self, id: ConnectionId, done: u32, failed: u32, released: u32) {
        let mut pause = None;
        self.update(|flow, now| {
            let was_paused = flow.is_paused();
            flow.answered(id, done, failed, released, now);
            pause = flow.pause(now).filter(|_| !was_paused);
        });
        if let Some(pause) = pause {
            let pause = Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
            let (stream, group) = (&self.config.topic, &self.config.channel);
            tracing::warn!(%stream, %group, "messages fail one after the other; consuming pauses for {}", humantime::format_duration(pause));
        }
    }

    /// The RDY for connection `id`, and the flow's next deadline.
    pub(super) fn rdy_and_deadline(&self, id: ConnectionId) -> (u32, Option<Instant>) {
        let state = self.state();
        (state.flow.rdy(id), state.flow.due())
    }

    /// Adds a subscribed connection. `nsqd` counts this nsqd's unanswered messages.
    pub(super) fn join(
        &self,
        address: &Address,
        max_rdy: u32,
        round_trip: Duration,
        nsqd: Arc<HeldOfNsqd>,
    ) -> Arc<ReplyQueue> {
        let mut state = self.state();
        let id = ConnectionId(state.next_id);
        state.next_id += 1;
        let replies = Arc::new(ReplyQueue::new(id, address.clone(), self.bytes.clone(), nsqd));
        state.reply_queues.insert(id, replies.clone());
        drop(state);
        self.update(|flow, now| flow.joined(id, max_rdy, round_trip, now));
        replies
    }

    /// Removes an ended connection.
    pub(super) fn leave(&self, id: ConnectionId) {
        self.state().reply_queues.remove(&id);
        self.update(|flow, now| flow.left(id, now));
    }

    pub(super) fn stop(&self) {
        if !self.stopping.is_cancelled() {
            self.update(Flow::stop);
            self.stopping.cancel();
        }
    }

    /// Marks `address` as wanted. True if the caller has to start its link.
    pub(super) fn ensure_link(&self, address: &Address) -> bool {
        self.state().links.insert(address.clone(), true).is_none()
    }

    /// Lets only the links to `addresses` and to the configured nsqds reconnect.
    #[cfg(feature = "lookup")]
    pub(super) fn keep_only(&self, addresses: &std::collections::BTreeSet<Address>) {
        for (address, wanted) in &mut self.state().links {
            *wanted = addresses.contains(address) || self.config.nsqd.contains(address);
        }
    }

    /// Waits before reconnecting to `address`. False if the link is to end: the consumer stops, or
    /// the address is no longer wanted.
    pub(super) async fn wait_to_connect(&self, address: &Address, backoff: &mut Backoff) -> bool {
        let pause = backoff.next().unwrap_or_default();
        tokio::select! {
            () = self.stopping.cancelled() => return false,
            () = sleep(pause) => {}
            () = self.lookup_done.notified() => {}
        }
        !self.remove_if_unwanted(address)
    }

    /// Removes the link of an address that is no longer wanted; true if it was removed.
    fn remove_if_unwanted(&self, address: &Address) -> bool {
        let mut state = self.state();
        let unwanted = state.links.get(address) == Some(&false);
        if unwanted {
            state.links.remove(address);
        }
        unwanted
    }

    pub(super) fn health(&self) -> Health {
        let state = self.state();
        Health {
            connected: state.flow.connections(),
            known: state.links.values().filter(|wanted| **wanted).count(),
            in_flight: state.flow.in_flight(),
            backing_off: state.flow.is_backing_off(),
            paused: state.flow.is_paused(),
        }
    }

    fn state(&self) -> MutexGuard<'_, ConsumerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
