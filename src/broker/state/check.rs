//! Invariants of the state after any operations: the body of a fuzz target (`fuzz/`), and the
//! checks of the model test.
//!
//! ```text
//!  input: │ operation (1) │ its numbers (2) │ again …
//! ```

use std::collections::HashMap;

use bytes::{Buf, BytesMut};

use super::super::log::MemoryLog;
use super::message_store::MessageRun;
use super::store::Store;
use super::{BrokerState, Now, SessionId, SessionSettings, StateLimits};
use crate::proto::{ChannelName, Frame, MessageId, TopicName, WriteBuffer};

/// Runs the operations that the bytes encode, and checks the invariants after each. Panics if one
/// is violated.
pub fn operations(input: &[u8]) {
    let mut play = FuzzRun::new();
    for step in input.chunks_exact(3) {
        play.step(step[0], usize::from(step[1]), u64::from(step[2]));
        play.state.assert_sound();
    }
}

pub(super) struct FuzzRun {
    pub(super) state: BrokerState,
    pub(super) now: Now,
    topics: [TopicName; 2],
    channels: [ChannelName; 2],
    /// The sessions, each with the messages sent to it.
    sessions: Vec<(SessionId, Vec<MessageId>)>,
    /// Everything that was sent to them.
    pub(super) output: BytesMut,
}

impl FuzzRun {
    fn new() -> Self {
        Self::with(BrokerState::new(Self::limits(), Box::new(MemoryLog)))
    }

    pub(super) fn limits() -> StateLimits {
        StateLimits { mem_queue_size: 4, max_msg_timeout: 3_000, max_channel_consumers: 3, ..StateLimits::default() }
    }

    pub(super) fn with(state: BrokerState) -> Self {
        Self {
            state,
            output: BytesMut::new(),
            now: Now { at: 0, unix_nanos: 1_700_000_000_000_000_000 },
            topics: ["a", "b#ephemeral"].map(|name| TopicName::new(name).expect("a valid name")),
            channels: ["x", "y#ephemeral"].map(|name| ChannelName::new(name).expect("a valid name")),
            sessions: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, operation: u8, which: usize, number: u64) {
        let (topic, channel) = (self.topics[which % 2].clone(), self.channels[which / 2 % 2].clone());
        let (state, now) = (&mut self.state, self.now);
        match operation % 16 {
            0 if number.is_multiple_of(4) => drop(state.publish_to(&topic, &channel, "for one".into(), now)),
            0 | 1 => {
                let bodies = ["one", "body", "or three"].into_iter().take(which % 3 + 1);
                drop(state.publish(&topic, bodies.collect(), (number > 128).then_some(number * 10), now));
            }
            2 => {
                let settings = SessionSettings {
                    msg_timeout: 100 + number * 10,
                    sample_rate: if number.is_multiple_of(16) { 50 } else { 0 },
                    ..SessionSettings::default()
                };
                let id = state.connect(settings, String::new(), number, now);
                // a refused session is not subscribed
                drop(state.subscribe(id, &topic, &channel, now));
                self.sessions.push((id, Vec::new()));
            }
            3 => drop(state.pause_channel(&topic, &channel, number.is_multiple_of(2), now)),
            4 => drop(state.pause_topic(&topic, number.is_multiple_of(2), now)),
            5 if number < 64 => drop(state.delete_channel(&topic, &channel)),
            5 if number < 96 => drop(state.delete_topic(&topic)),
            5 if number < 160 => drop(state.empty_channel(&topic, &channel)),
            5 if number < 224 => drop(state.empty_topic(&topic)),
            5 => state.await_known_channels(number.is_multiple_of(2)),
            6 | 7 => {
                let micros = number * 10_000;
                self.now = Now { at: now.at + micros, unix_nanos: now.unix_nanos + micros as i64 * 1000 };
                self.state.advance(self.now);
                for topic in self.state.take_topics_awaiting_channels() {
                    self.state.set_known_channels(&topic, &self.channels[..which % 3], self.now);
                }
            }
            of_session => self.of_session(of_session, which, number),
        }
        self.read();
    }

    fn of_session(&mut self, operation: u8, which: usize, number: u64) {
        if self.sessions.is_empty() {
            return;
        }
        let at = which % self.sessions.len();
        let (state, now) = (&mut self.state, self.now);
        let (id, sent) = &mut self.sessions[at];
        // also messages that were answered before, and messages of other sessions
        let message = sent.get(number as usize % sent.len().max(1)).copied().unwrap_or(MessageId(*b"0123456789abcdef"));
        match operation {
            8 | 9 => state.ready(*id, number % 8, now),
            10 | 11 => drop(state.finish(*id, &message, now)),
            12 if number.is_multiple_of(2) => drop(state.give_back(*id, &message, number * 20, now)),
            12 => drop(state.requeue(*id, &message, number * 20, now)),
            13 => drop(state.touch(*id, &message, now)),
            14 if number < 32 => state.close(*id),
            _ if number > 200 => {
                let (id, _) = self.sessions.swap_remove(at);
                self.state.disconnect(id);
            }
            _ => {}
        }
    }

    /// Reads the output of the sessions; disconnects those whose channel was deleted.
    fn read(&mut self) {
        let woken: Vec<SessionId> = self.state.woken().collect();
        for id in woken {
            let Some(at) = self.sessions.iter().position(|(other, _)| *other == id) else { continue };
            let mut out = WriteBuffer::new();
            let goes_on = self.state.take_output(id, &mut out, self.now);
            let mut bytes = BytesMut::from(&out.copy_to_bytes(out.remaining())[..]);
            self.output.extend_from_slice(&bytes);
            while let Ok(Some(Frame::Message(message))) = Frame::decode(&mut bytes, 1 << 20) {
                self.sessions[at].1.push(message.id);
            }
            if !goes_on {
                self.sessions.swap_remove(at);
                self.state.disconnect(id);
            }
        }
    }
}

impl BrokerState {
    /// Panics if an invariant is violated.
    pub(super) fn assert_sound(&self) {
        let Self { store, topics, channels, sessions, .. } = self;
        let mut holders: HashMap<_, u64> = HashMap::new();
        let mut hold = |run: MessageRun| *holders.entry(run.key).or_default() += u64::from(run.count);
        let mut timers = Vec::new();
        let mut in_flight: HashMap<SessionId, u64> = HashMap::new();
        for topic in topics.values() {
            topic.held.iter().for_each(|held| hold(held.run));
            assert_eq!((topic.depth, topic.backlog), store.sums(topic.held.iter().map(|held| held.run)), "held");
        }
        assert_eq!(topics.values().map(|topic| topic.channels.len()).sum::<usize>(), channels.len());
        for (id, channel) in channels {
            assert_eq!(topics[&channel.topic].channels[&channel.name], *id);
            let copies = channel.queue.iter().map(|copy| copy.run);
            assert_eq!((channel.depth, channel.backlog), store.sums(copies.clone()), "waiting");
            let deferred = channel.deferred.values().map(|copy| copy.run);
            assert_eq!(channel.deferred_count, store.sums(deferred.clone()).0, "deferred");
            copies.chain(channel.in_flight.values().map(|copy| copy.run)).chain(deferred).for_each(&mut hold);
            channel
                .in_flight
                .iter()
                .for_each(|(id, copy)| assert_eq!((store.batches.id(&copy.run), copy.run.count), (*id, 1)));
            channel.deferred.iter().for_each(|(id, copy)| assert_eq!(store.batches.id(&copy.run), *id));
            timers.extend(channel.in_flight.iter().map(|(message, copy)| (copy.deadline, *id, *message)));
            timers.extend(channel.deferred.iter().map(|(message, copy)| (copy.until, *id, *message)));
            channel.in_flight.values().for_each(|copy| *in_flight.entry(copy.session).or_default() += 1);
            let may_send = !channel.paused && !channel.rests && !channel.queue.is_empty();
            for (session, who) in sessions.iter().filter(|(session, _)| channel.sessions.contains(session)) {
                assert_eq!(
                    who.in_ready_queue,
                    channel.ready_queue.contains(&session),
                    "{session:?} stands in line or does not"
                );
                assert!(who.in_ready_queue || !who.has_room(), "{session:?} has room, and is not in line");
                assert!(
                    !may_send || !who.has_room(),
                    "{} messages wait, and {session:?} has room",
                    channel.queue.len()
                );
            }
        }
        assert_eq!(store.batches.check(), holders, "each batch is held as often as it counts");
        timers.sort_unstable();
        assert_eq!(store.timers.iter().copied().collect::<Vec<_>>(), timers, "each copy has its timer");
        for (session, who) in sessions.iter() {
            assert_eq!(who.in_flight, in_flight.get(&session).copied().unwrap_or(0), "{session:?} in flight");
        }
    }
}

impl Store {
    /// The number of messages, and the number of those whose bodies were only in the log from the
    /// start.
    fn sums(&self, runs: impl Iterator<Item = MessageRun>) -> (usize, usize) {
        runs.fold((0, 0), |(depth, backlog), run| (depth + run.count as usize, backlog + self.backlog(&run)))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn random_operations_leave_the_state_sound() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..30 {
            let input: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3_000).collect();
            let played = std::panic::catch_unwind(|| super::operations(&input));
            assert!(played.is_ok(), "with SEED={seed}");
        }
    }
}
