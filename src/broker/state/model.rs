//! Random operations on a fake clock, with a check of the invariants after each. A failure names
//! its seed: `SEED=… cargo test model`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use std::path::Path;
use std::time::Duration;

use super::super::log::{DiskLog, LogOptions, MemoryLog, SyncMode};
use super::message_store::MessageRun;
use super::wire_id::to_wire;
use super::*;
use crate::proto::{ChannelName, Frame, MessageId};

const BEGIN: Now = Now { at: 0, unix_nanos: 1_700_000_000_000_000_000 };

/// Operations of one run.
const STEPS: usize = 2_000;
const RUNS: u64 = 40;

fn limits() -> StateLimits {
    StateLimits { mem_queue_size: 20, max_msg_timeout: 5_000, ..StateLimits::default() }
}

fn settings(msg_timeout: u64) -> SessionSettings {
    SessionSettings { msg_timeout, ..SessionSettings::default() }
}

/// A client, with the messages that it has not answered.
struct Client {
    id: SessionId,
    channel: Option<(TopicName, ChannelName)>,
    has: Vec<(MessageId, Bytes)>,
}

/// The state, and a simpler model of the expected results.
struct Model {
    state: BrokerState,
    random: fastrand::Rng,
    now: Now,
    clients: Vec<Client>,
    topics: Vec<TopicName>,
    channels: Vec<ChannelName>,
    published: u64,
    /// By channel: bodies that it must still deliver, and bodies that it may deliver.
    owed: HashMap<(TopicName, ChannelName), HashSet<Bytes>>,
    delivered: u64,
}

impl Model {
    fn new(seed: u64, state: BrokerState) -> Self {
        Self {
            state,
            random: fastrand::Rng::with_seed(seed),
            now: BEGIN,
            clients: Vec::new(),
            topics: ["a", "b", "c#ephemeral"].map(|name| TopicName::new(name).unwrap()).into(),
            channels: ["x", "y", "z#ephemeral"].map(|name| ChannelName::new(name).unwrap()).into(),
            published: 0,
            owed: HashMap::new(),
            delivered: 0,
        }
    }

    fn topic(&mut self) -> TopicName {
        self.topics[self.random.usize(..self.topics.len())].clone()
    }

    fn channel(&mut self) -> ChannelName {
        self.channels[self.random.usize(..self.channels.len())].clone()
    }

    fn client(&mut self) -> Option<usize> {
        (!self.clients.is_empty()).then(|| self.random.usize(..self.clients.len()))
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..25 => self.publish(),
            25..30 => self.connect(),
            30..42 => self.ready(),
            42..75 => self.answer(),
            75..79 => self.leave(),
            79..93 => self.pass_time(),
            _ => self.administer(),
        }
        self.read();
        self.check();
    }

    fn publish(&mut self) {
        let topic = self.topic();
        let bodies: Vec<Bytes> = (0..self.random.u64(1..5)).map(|n| (self.published + n).to_string().into()).collect();
        self.published += bodies.len() as u64;
        let delay = self.random.bool().then(|| self.random.u64(..3_000));
        match self.state.publish(&topic, bodies.iter().cloned().collect(), delay, self.now) {
            // ephemeral topics and channels are not logged
            Err(BrokerPublishError::Full { .. }) => return,
            published => published.unwrap(),
        }
        // an ephemeral queue may drop messages; messages held by a topic go to its first channel
        if !topic.is_ephemeral() && !self.state.topics[&topic].holds() {
            for name in self.state.topics[&topic].channels.keys().filter(|name| !name.is_ephemeral()) {
                self.owed.entry((topic.clone(), name.clone())).or_default().extend(bodies.iter().cloned());
            }
        }
    }

    fn connect(&mut self) {
        let timeout = self.random.u64(100..2_000);
        let id = self.state.connect(settings(timeout), String::new(), 0, self.now);
        let (topic, channel) = (self.topic(), self.channel());
        let held = self.state.topics.get(&topic).map_or(Vec::new(), |topic| topic.held.iter().map(|h| h.run).collect());
        let bodies: Vec<Bytes> = held.into_iter().flat_map(|run| self.bodies(run)).collect();
        self.state.subscribe(id, &topic, &channel, self.now).unwrap();
        if self.state.topics[&topic].held.is_empty() && !topic.is_ephemeral() && !channel.is_ephemeral() {
            self.owed.entry((topic.clone(), channel.clone())).or_default().extend(bodies);
        }
        self.clients.push(Client { id, channel: Some((topic, channel)), has: Vec::new() });
    }

    fn bodies(&mut self, mut run: MessageRun) -> Vec<Bytes> {
        let Store { batches, log, .. } = &mut self.state.store;
        let mut bodies = Vec::new();
        while run.count > 0 {
            let next = batches.next(&mut run, &mut **log).unwrap();
            let (bytes, body) = batches.body(&next);
            bodies.push(bytes.slice(body));
        }
        bodies
    }

    fn ready(&mut self) {
        let Some(at) = self.client() else { return };
        let id = self.clients[at].id;
        match self.random.u32(..20) {
            0 => self.state.close(id),
            _ => self.state.ready(id, self.random.u64(..10), self.now),
        }
    }

    fn answer(&mut self) {
        let Some(at) = self.client().filter(|at| !self.clients[*at].has.is_empty()) else { return };
        let which = self.random.usize(..self.clients[at].has.len());
        let (message, body) = self.clients[at].has[which].clone();
        let (id, now) = (self.clients[at].id, self.now);
        match self.random.u32(..10) {
            0 => drop(self.state.touch(id, &message, now)),
            1..4 => {
                let delay = self.random.u64(..3) * 700;
                self.clients[at].has.remove(which);
                let _ = self.state.requeue(id, &message, delay, now);
            }
            4 => assert_eq!(self.state.finish(id, &to_wire(7), now), Err(NotOwned::NotInFlight)),
            _ => {
                self.clients[at].has.remove(which);
                if self.state.finish(id, &message, now).is_ok() {
                    let channel = self.clients[at].channel.clone().expect("it has messages");
                    if !channel.0.is_ephemeral() && !channel.1.is_ephemeral() {
                        let owed = self.owed.get_mut(&channel).is_some_and(|owed| owed.remove(&body));
                        assert!(owed, "{body:?} was finished before");
                    }
                }
            }
        }
    }

    fn leave(&mut self) {
        let Some(at) = self.client() else { return };
        let client = self.clients.swap_remove(at);
        self.state.disconnect(client.id);
    }

    fn pass_time(&mut self) {
        let micros = self.random.u64(..2_000_000);
        self.now = Now { at: self.now.at + micros, unix_nanos: self.now.unix_nanos + micros as i64 * 1000 };
        let next = self.state.advance(self.now);
        assert!(next.is_none_or(|next| next > self.now.at), "due messages were requeued");
    }

    fn administer(&mut self) {
        let (topic, channel, now) = (self.topic(), self.channel(), self.now);
        let pause = self.random.bool();
        match self.random.u32(..12) {
            0 if self.state.delete_topic(&topic).is_ok() => self.owed.retain(|(name, _), _| *name != topic),
            1 if self.state.delete_channel(&topic, &channel).is_ok() => drop(self.owed.remove(&(topic, channel))),
            2 => drop(self.state.empty_topic(&topic)),
            3 if self.state.empty_channel(&topic, &channel).is_ok() => drop(self.owed.remove(&(topic, channel))),
            4..8 => drop(self.state.pause_channel(&topic, &channel, pause, now)),
            // the model does not follow what a paused topic holds, so it is unpaused at once
            8 => {
                let _ = self.state.pause_topic(&topic, true, now);
                let _ = self.state.pause_topic(&topic, false, now);
            }
            _ => {}
        }
    }

    /// Clients read their output; those whose channel was deleted disconnect.
    fn read(&mut self) {
        let woken: Vec<SessionId> = self.state.woken().collect();
        for id in woken {
            let Some(at) = self.clients.iter().position(|client| client.id == id) else { continue };
            let mut out = WriteBuffer::new();
            let goes_on = self.state.take_output(id, &mut out, self.now);
            let mut bytes = BytesMut::from(&out.copy_to_bytes(out.remaining())[..]);
            while let Some(Frame::Message(message)) = Frame::decode(&mut bytes, 1 << 20).unwrap() {
                self.delivered += 1;
                self.clients[at].has.push((message.id, message.body));
            }
            if !goes_on {
                self.clients.swap_remove(at);
                self.state.disconnect(id);
            }
        }
    }

    fn check(&mut self) {
        self.state.flush().unwrap();
        // in steps, between which operations change the messages being moved
        let steps = self.random.u32(..4);
        let time = Duration::from_secs(60 * self.random.u64(..2));
        for _ in 0..steps {
            self.state.compact(Instant::now() + time).unwrap();
        }
        self.state.assert_sound();
    }

    /// Ids of the messages that durable topics and channels hold.
    fn held(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let batches = &self.state.store.batches;
        let ids = |run: &MessageRun| batches.id(run)..batches.id(run) + u64::from(run.count);
        let mut all: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for (name, topic) in self.state.topics.iter().filter(|(name, _)| !name.is_ephemeral()) {
            all.entry(name.to_string()).or_default().extend(topic.held.iter().flat_map(|held| ids(&held.run)));
        }
        for channel in self.state.channels.values().filter(|channel| channel.is_logged()) {
            let runs = channel.queue.iter().map(|it| &it.run).chain(channel.in_flight.values().map(|it| &it.run));
            let runs = runs.chain(channel.deferred.values().map(|it| &it.run));
            all.entry(format!("{}/{}", channel.topic, channel.name)).or_default().extend(runs.flat_map(ids));
        }
        all
    }

    /// Asserts that all expected messages are delivered, to one client per channel that finishes
    /// everything.
    fn settle(&mut self) {
        for client in std::mem::take(&mut self.clients) {
            self.state.disconnect(client.id);
        }
        for ((topic, channel), owed) in std::mem::take(&mut self.owed) {
            self.state.pause_topic(&topic, false, self.now).unwrap();
            self.state.pause_channel(&topic, &channel, false, self.now).unwrap();
            let id = self.state.connect(settings(60_000), String::new(), 0, self.now);
            self.state.subscribe(id, &topic, &channel, self.now).unwrap();
            self.state.ready(id, 2_500, self.now);
            self.clients.push(Client { id, channel: Some((topic.clone(), channel.clone())), has: Vec::new() });
            let mut got = HashSet::new();
            while self.state.channels.values().any(|c| (&c.topic, &c.name) == (&topic, &channel) && !c.is_spent()) {
                self.pass_time();
                self.read();
                for (message, body) in std::mem::take(&mut self.clients[0].has) {
                    self.state.finish(id, &message, self.now).unwrap();
                    got.insert(body);
                }
                self.check();
            }
            assert!(owed.is_subset(&got), "{topic}/{channel} never delivered {:?}", owed.difference(&got));
            self.clients.clear();
            self.state.disconnect(id);
        }
    }
}

impl Channel {
    fn is_spent(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty() && self.deferred.is_empty()
    }
}

/// Runs all seeds, or the one in `SEED`.
fn play(run: impl Fn(u64) -> u64 + std::panic::RefUnwindSafe) {
    let one = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = one.map_or(0..RUNS, |seed: u64| seed..seed + 1);
    let run = |seed| std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("with SEED={seed}"));
    let delivered: u64 = seeds.map(run).sum();
    assert!(one.is_some() || delivered > 10_000, "only {delivered} messages were delivered: is the model at work?");
}

#[test]
fn random_operations_keep_each_copy_in_one_place_and_deliver_it() {
    play(|seed| {
        let mut model = Model::new(seed, BrokerState::new(limits(), Box::new(MemoryLog)));
        (0..STEPS).for_each(|_| model.step());
        model.settle();
        model.delivered
    });
}

/// A state with so little memory that most bodies are read back, and with segments so small that
/// many messages are relocated.
fn on_disk(path: &Path) -> BrokerState {
    let options = LogOptions { sync: SyncMode::Never, segment_bytes: 500, reserve_bytes: 0, ..LogOptions::new(path) };
    let (log, recovered, report) = DiskLog::open(&options).unwrap();
    assert_eq!((report.damage, report.torn), (vec![], vec![]));
    BrokerState::recover(StateLimits { max_memory: 30, ..limits() }, Box::new(log), recovered, BEGIN)
}

#[test]
fn messages_in_a_log_are_delivered_before_and_after_reopening() {
    play(|seed| {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut model = Model::new(seed, on_disk(directory.path()));
        for _ in 0..STEPS / 400 {
            (0..400).for_each(|_| model.step());
            // the old log must be closed first, because of its lock
            model.clients.clear();
            let before = model.held();
            model.state = BrokerState::new(limits(), Box::new(MemoryLog));
            model.state = on_disk(directory.path());
            assert_eq!(model.held(), before, "the log says what was held");
            model.check();
        }
        model.settle();
        model.delivered
    });
}

#[test]
fn deferred_messages_wait_at_most_the_maximum_after_the_clock_was_set_back() {
    let directory = tempfile::tempdir().unwrap();
    let later = Now { at: 0, unix_nanos: BEGIN.unix_nanos + 86_400_000_000_000 };
    let (topic, channel) = (TopicName::new("a").unwrap(), ChannelName::new("x").unwrap());
    let mut state = on_disk(directory.path());
    state.create_channel(&topic, &channel, later);
    state.publish(&topic, ["deferred"].into_iter().collect(), Some(1000), later).unwrap();
    state.flush().unwrap();
    drop(state);
    let mut state = on_disk(directory.path());
    assert_eq!(state.next_timer(), Some(limits().max_req_timeout * 1000), "a day is set back");
    state.advance(Now { at: limits().max_req_timeout * 1000, ..BEGIN });
    assert_eq!(state.channels.values().map(|channel| channel.depth).sum::<usize>(), 1);
}
