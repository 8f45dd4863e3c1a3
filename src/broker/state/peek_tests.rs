//! Peeking tells the truth, and leaves no trace: any operations end in the same state and deliver
//! the same messages, with and without peeks in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes};
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::log::{DiskLog, LogOptions, MemoryLog, SyncMode};
use super::check::FuzzRun;
use super::peek::MAX_SCANNED;
use super::*;
use crate::proto::{ChannelName, Frame, MessageId, PeekState};

const BEGIN: Now = Now { at: 0, unix_nanos: 1_700_000_000_000_000_000 };

/// A message as a peek shows it: its id, its attempts, its body.
type Seen = (MessageId, u16, Bytes);

/// Peeks at all messages, in pages of at most `wanted` messages and a run.
fn pages(state: &BrokerState, selection: &PeekSelection, wanted: usize, now: Now) -> Vec<Seen> {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let step = state.peek(selection, after, wanted, now).unwrap();
        seen.extend(messages(state, &step));
        match step.next {
            // as a client gives it back
            Some(next) => after = Some(next.to_string().parse().unwrap()),
            None => return seen,
        }
    }
}

/// The messages of a step, with their bodies from memory or from the log.
fn messages(state: &BrokerState, step: &PeekStep) -> Vec<Seen> {
    let mut reader = state.detached_reader();
    let mut seen = Vec::new();
    for run in &step.runs {
        let bodies = run.bodies.read(run.skip, reader.as_mut()).unwrap();
        seen.extend((run.skip..run.count).zip(bodies).map(|(index, body)| (run.id(index), run.attempts, body)));
    }
    seen
}

/// Every selection that has messages now or could have.
fn selections(state: &BrokerState) -> Vec<PeekSelection> {
    let mut all = Vec::new();
    for (topic, channels) in state.catalog() {
        all.push(PeekSelection { topic: topic.clone(), channel: None, state: PeekState::Held });
        for channel in channels {
            let of = |state| PeekSelection { topic: topic.clone(), channel: Some(channel.clone()), state };
            all.extend([PeekState::Waiting, PeekState::InFlight, PeekState::Deferred].map(of));
        }
    }
    all.sort_by_key(|selection| format!("{selection:?}"));
    all
}

/// The ids and attempts of a selection, from the state itself: in order, except those of messages in
/// flight and deferred.
fn expected(state: &BrokerState, selection: &PeekSelection) -> Vec<(MessageId, u16)> {
    let topic = &state.topics[&selection.topic];
    let channel = selection.channel.as_ref().map(|name| &state.channels[&topic.channels[name]]);
    let runs: Vec<_> = match (selection.state, channel) {
        (PeekState::Held, _) => topic.held.iter().map(|it| (it.run, 0)).collect(),
        (PeekState::Waiting, Some(channel)) => channel.queue.iter().map(|it| (it.run, it.attempts)).collect(),
        (PeekState::InFlight, Some(channel)) => channel.in_flight.values().map(|it| (it.run, it.attempts)).collect(),
        (PeekState::Deferred, Some(channel)) => channel.deferred.values().map(|it| (it.run, it.attempts)).collect(),
        (_, None) => vec![],
    };
    let ids = runs.into_iter().flat_map(|(run, attempts)| {
        let first = state.store.batches.id(&run);
        (0..u64::from(run.count)).map(move |index| (first + index, attempts))
    });
    ids.map(|(id, attempts)| (state.store.wire_id(id), attempts)).collect()
}

/// Peeks at everything, and compares it with the state.
fn check_peeks(run: &FuzzRun, random: &mut fastrand::Rng, bodies: &mut HashMap<MessageId, Bytes>) {
    for selection in selections(&run.state) {
        let seen = pages(&run.state, &selection, random.usize(1..9), run.now);
        let mut ids: Vec<_> = seen.iter().map(|(id, attempts, _)| (*id, *attempts)).collect();
        let mut expected = expected(&run.state, &selection);
        if matches!(selection.state, PeekState::InFlight | PeekState::Deferred) {
            ids.sort_by_key(|(id, _)| id.0);
            expected.sort_by_key(|(id, _)| id.0);
        }
        assert_eq!(ids, expected, "{selection:?}");
        for (id, _, body) in seen {
            assert_eq!(bodies.entry(id).or_insert_with(|| body.clone()), &body, "a body does not change");
        }
    }
}

/// The result of some operations: everything that was sent, and what is left.
#[derive(Debug, PartialEq)]
struct Outcome {
    output: Bytes,
    left: Vec<(String, Vec<Seen>)>,
    /// The whole state, if it does not depend on the pace of the thread that tidies the log.
    state: Option<String>,
    is_compared: bool,
}

/// Plays operations; with a seed, peeks in between.
fn play(input: &[u8], state: BrokerState, is_in_memory: bool, peeks: Option<u64>) -> Outcome {
    let mut run = FuzzRun::with(state);
    let mut random = fastrand::Rng::with_seed(peeks.unwrap_or(0));
    let mut bodies = HashMap::new();
    for step in input.chunks_exact(3) {
        run.step(step[0], usize::from(step[1]), u64::from(step[2]));
        run.state.flush().unwrap();
        run.state.compact(Instant::now() + Duration::from_secs(60)).unwrap();
        if peeks.is_some() {
            check_peeks(&run, &mut random, &mut bodies);
            run.state.assert_sound();
        }
    }
    let output = run.output.clone().freeze();
    // bodies that were seen are those that were sent
    let mut sent = run.output.clone();
    let mut common = 0;
    while let Some(Frame::Message(message)) = Frame::decode(&mut sent, 1 << 20).unwrap() {
        if let Some(body) = bodies.get(&message.id) {
            assert_eq!(body, &message.body, "{}", message.id);
            common += 1;
        }
    }
    let left = selections(&run.state).into_iter().map(|it| (format!("{it:?}"), pages(&run.state, &it, 100, run.now)));
    let state = is_in_memory.then(|| described(&run.state));
    Outcome { output, left: left.collect(), state, is_compared: peeks.is_none() || common > 0 }
}

/// Everything in the state except the log.
fn described(state: &BrokerState) -> String {
    let topics: BTreeMap<_, _> = state.topics.iter().collect();
    let channels: BTreeMap<_, _> = state.channels.iter().map(|(id, channel)| (id.0, channel)).collect();
    let store = &state.store;
    let numbers = (state.catalog_version, state.next_number, &state.awaiting_channels);
    let kept = (&store.batches, &store.timers, &store.rest, &state.index, &state.compaction);
    format!("{topics:?} {channels:?} {:?} {numbers:?} {kept:?}", state.sessions)
}

/// A state with so little memory that most bodies are only in the log, and with small segments.
fn on_disk(path: &Path) -> BrokerState {
    let options = LogOptions { sync: SyncMode::Never, segment_bytes: 500, reserve_bytes: 0, ..LogOptions::new(path) };
    let (log, recovered, _) = DiskLog::open(&options).unwrap();
    BrokerState::recover(StateLimits { max_memory: 30, ..FuzzRun::limits() }, Box::new(log), recovered, BEGIN)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn peeks_leave_no_trace_in_memory(input in proptest::collection::vec(any::<u8>(), 0..1200), seed in any::<u64>()) {
        let memory = || BrokerState::new(FuzzRun::limits(), Box::new(MemoryLog));
        let (with, without) = (play(&input, memory(), true, Some(seed)), play(&input, memory(), true, None));
        prop_assert_eq!(Outcome { is_compared: true, ..with }, without);
    }

    #[test]
    fn peeks_leave_no_trace_with_a_log(input in proptest::collection::vec(any::<u8>(), 0..900), seed in any::<u64>()) {
        let play_on_disk = |peeks| {
            let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            play(&input, on_disk(directory.path()), false, peeks)
        };
        let (with, without) = (play_on_disk(Some(seed)), play_on_disk(None));
        prop_assert_eq!(Outcome { is_compared: true, ..with }, without);
    }
}

/// The properties above would hold of operations that never deliver what was seen.
#[test]
fn random_operations_deliver_messages_that_were_seen() {
    let mut random = fastrand::Rng::with_seed(7);
    let input: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3_000).collect();
    let outcome = play(&input, BrokerState::new(FuzzRun::limits(), Box::new(MemoryLog)), true, Some(7));
    assert!(outcome.is_compared && outcome.output.len() > 1_000, "{}", outcome.output.len());
}

struct OneChannel {
    state: BrokerState,
    topic: TopicName,
    channel: ChannelName,
}

impl OneChannel {
    fn new() -> Self {
        let mut state = BrokerState::new(StateLimits::default(), Box::new(MemoryLog));
        let (topic, channel) = (TopicName::new("a").unwrap(), ChannelName::new("x").unwrap());
        state.create_channel(&topic, &channel, BEGIN);
        Self { state, topic, channel }
    }

    fn publish(&mut self, topic: &TopicName, numbers: std::ops::Range<u32>, delay: Option<u64>) {
        let bodies = numbers.map(|number| Bytes::from(number.to_string())).collect();
        self.state.publish(topic, bodies, delay, BEGIN).unwrap();
    }

    fn at(&self, state: PeekState) -> PeekSelection {
        PeekSelection { topic: self.topic.clone(), channel: Some(self.channel.clone()), state }
    }

    /// The first run; the timers before it may take several steps.
    fn first(&self, selection: &PeekSelection) -> PeekedRun {
        let mut step = self.state.peek(selection, None, 1, BEGIN).unwrap();
        while step.runs.is_empty() {
            step = self.state.peek(selection, Some(step.next.unwrap()), 1, BEGIN).unwrap();
        }
        step.runs.swap_remove(0)
    }

    /// A consumer that may have this many messages in flight.
    fn consumer(&mut self, ready: u64) -> SessionId {
        let settings = SessionSettings { hostname: "host".to_owned(), ..SessionSettings::default() };
        let id = self.state.connect(settings, "1.2.3.4:5".to_owned(), 0, BEGIN);
        self.state.subscribe(id, &self.topic, &self.channel, BEGIN).unwrap();
        self.state.ready(id, ready, BEGIN);
        id
    }

    /// Takes what was sent to a consumer.
    fn taken(&mut self, id: SessionId) -> Vec<crate::proto::Message> {
        let mut out = WriteBuffer::new();
        self.state.take_output(id, &mut out, BEGIN);
        let mut bytes = bytes::BytesMut::from(&out.copy_to_bytes(out.remaining())[..]);
        let mut all = Vec::new();
        while let Some(Frame::Message(message)) = Frame::decode(&mut bytes, 1 << 20).unwrap() {
            all.push(message);
        }
        all
    }
}

fn numbers(seen: &[Seen]) -> Vec<u32> {
    seen.iter().map(|(_, _, body)| std::str::from_utf8(body).unwrap().parse().unwrap()).collect()
}

#[test]
fn many_timers_are_scanned_in_parts_beside_those_of_another_channel() {
    const COUNT: u32 = 3 * MAX_SCANNED as u32;
    let mut one = OneChannel::new();
    let (topic, other) = (one.topic.clone(), TopicName::new("b").unwrap());
    one.state.create_channel(&other, &ChannelName::new("x").unwrap(), BEGIN);
    for number in 0..COUNT {
        // due in the order of publishing, or in the reverse order
        for topic in [&other, &topic, &other] {
            one.publish(topic, number..number + 1, Some(u64::from(1_000 + COUNT - number)));
        }
    }
    let deferred = one.at(PeekState::Deferred);
    let seen = numbers(&pages(&one.state, &deferred, 700, BEGIN));
    assert_eq!(seen, (0..COUNT).rev().collect::<Vec<_>>());
    assert_eq!(one.first(&deferred).due_in_ms, Some(1_001));

    one.publish(&topic, 0..COUNT, None);
    for _ in 0..5 {
        let id = one.consumer(2_500);
        while !one.taken(id).is_empty() {}
    }
    let in_flight = one.at(PeekState::InFlight);
    let seen = pages(&one.state, &in_flight, 700, BEGIN);
    assert!(seen.iter().all(|(_, attempts, _)| *attempts == 1));
    let all: HashSet<_> = numbers(&seen).into_iter().collect();
    assert_eq!((seen.len(), all.len()), (COUNT as usize, COUNT as usize));
    let run = one.first(&in_flight);
    assert_eq!(
        run.client.as_ref().map(|it| (it.hostname.as_str(), it.remote_address.as_str())),
        Some(("host", "1.2.3.4:5"))
    );
    assert_eq!(run.due_in_ms, Some(60_000));
}

#[test]
fn pages_skip_nothing_and_repeat_nothing_while_messages_leave() {
    for batch in [1, 7, 50] {
        let mut one = OneChannel::new();
        let topic = one.topic.clone();
        (0..200 / batch).for_each(|n| one.publish(&topic, n * batch..(n + 1) * batch, None));
        let id = one.consumer(2);
        let (mut seen, mut after, mut sent) = (Vec::new(), None, Vec::new());
        let waiting = one.at(PeekState::Waiting);
        loop {
            let step = one.state.peek(&waiting, after, 1, BEGIN).unwrap();
            // the messages of a run are shown three at a time
            let shown = messages(&one.state, &step).into_iter().take(3);
            let Some(run) = step.runs.first() else { break };
            let shown: Vec<_> = shown.collect();
            after = Some(run.position_after(run.skip + shown.len() as u32 - 1));
            seen.extend(shown);
            if seen.len() % 2 == 1 {
                sent.extend(one.taken(id));
                let message: crate::proto::Message = sent.remove(0);
                one.state.finish(id, &message.id, BEGIN).unwrap();
            }
        }
        let seen = numbers(&seen);
        assert!(seen.is_sorted_by(|a, b| a < b), "{batch}: {seen:?}");
        let left = numbers(&pages(&one.state, &waiting, 9, BEGIN));
        assert!(!left.is_empty() && left.iter().all(|number| seen.contains(number)), "{batch}: {left:?} of {seen:?}");
    }
}

#[test]
fn a_position_is_refused_elsewhere_and_harmless_after_the_queue_was_emptied() {
    let mut one = OneChannel::new();
    let (topic, channel) = (one.topic.clone(), one.channel.clone());
    one.publish(&topic, 0..10, None);
    let waiting = one.at(PeekState::Waiting);
    let after = one.state.peek(&waiting, None, 1, BEGIN).unwrap().next;
    assert!(after.is_some());
    let elsewhere = |one: &OneChannel, selection| one.state.peek(&selection, after, 1, BEGIN).err();
    assert_eq!(elsewhere(&one, one.at(PeekState::Deferred)), Some(PeekError::Elsewhere));
    one.state.empty_channel(&topic, &channel).unwrap();
    one.publish(&topic, 10..12, None);
    let step = one.state.peek(&waiting, after, 9, BEGIN).unwrap();
    assert_eq!(numbers(&messages(&one.state, &step)), [10, 11]);
    one.state.delete_channel(&topic, &channel).unwrap();
    assert_eq!(elsewhere(&one, waiting.clone()), Some(PeekError::Missing(Missing::Channel)));
    one.state.create_channel(&topic, &channel, BEGIN);
    assert_eq!(elsewhere(&one, waiting.clone()), Some(PeekError::Elsewhere), "another channel of this name");
    one.state.delete_topic(&topic).unwrap();
    assert_eq!(elsewhere(&one, waiting), Some(PeekError::Missing(Missing::Topic)));
}

#[test]
fn the_age_of_the_oldest_message_is_known_wherever_it_is() {
    let at =
        |seconds: u64| Now { at: seconds * 1_000_000, unix_nanos: BEGIN.unix_nanos + seconds as i64 * 1_000_000_000 };
    let mut one = OneChannel::new();
    let (topic, channel) = (one.topic.clone(), one.channel.clone());
    let age = |one: &OneChannel, now: Now| {
        let stats = one.state.topic_stats(&StatsSelection::default(), now);
        (stats[0].oldest_ms, stats[0].channels.first().and_then(|channel| channel.oldest_ms))
    };
    assert_eq!(age(&one, at(5)), (None, None));
    one.publish(&topic, 0..2, None);
    assert_eq!(age(&one, at(5)), (None, Some(5_000)), "in the queue");
    let id = one.consumer(1);
    one.state.publish(&topic, ["later"].into_iter().collect(), None, at(3)).unwrap();
    assert_eq!(age(&one, at(5)), (None, Some(5_000)), "in flight");
    let sent = one.taken(id);
    one.state.requeue(id, &sent[0].id, 60_000, at(4)).unwrap();
    assert_eq!(age(&one, at(5)), (None, Some(5_000)), "deferred");
    one.state.empty_channel(&topic, &channel).unwrap();
    assert_eq!(age(&one, at(5)), (None, None));
    one.state.pause_topic(&topic, true, at(6)).unwrap();
    one.state.publish(&topic, ["held"].into_iter().collect(), None, at(6)).unwrap();
    assert_eq!(age(&one, at(8)), (Some(2_000), None), "held by the topic");
    assert_eq!(age(&one, at(1)), (Some(0), None), "the clock was set back");
}
