//! What an old segment of the log still holds is written anew, so that the segment can go.
//!
//! A message that is carried leaves the batch that it was published in, wherever it is held, for one of its own.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::super::log::{Carried, Copy, TopicId, UnixMillis};
use super::State;
use super::batches::Run;
use super::channel::{Channel, Deferred, Waiting};
use super::store::Store;
use super::topic::{Held, Topic};
use crate::proto::Bodies;

/// Messages of the segment, by id: a message that is in two batches, for one of its copies went its own way, is written once.
type AllKept = BTreeMap<u64, Kept>;

/// Who holds a message.
struct Kept {
    /// It, alone.
    run: Run,
    topic: TopicId,
    /// The topic itself holds it; until it is due, if it is deferred.
    held: Option<Option<UnixMillis>>,
    copies: Vec<Copy>,
}

impl State {
    /// Writes anew what keeps the oldest segment of the log, if little does. What could not be written stays where it is.
    pub fn carry(&mut self) -> io::Result<()> {
        let Some(segment) = self.store.log.wants_carried() else { return Ok(()) };
        let kept = self.kept_in(segment)?;
        let mut moved = BTreeMap::new();
        let written = kept.into_iter().try_for_each(|(id, kept)| {
            moved.insert(id, self.store.carry(id, &kept)?);
            Ok(())
        });
        let moves = Moves { segment, moved };
        self.topics.values_mut().for_each(|topic| topic.follow(&moves, &mut self.store));
        self.channels.values_mut().for_each(|channel| channel.follow(&moves, &mut self.store));
        moves.moved.into_values().for_each(|run| self.store.release(run));
        written
    }

    fn kept_in(&mut self, segment: u32) -> io::Result<AllKept> {
        let Self { store, topics, channels, .. } = self;
        let mut all = AllKept::new();
        for topic in topics.values() {
            let held: Vec<_> = topic.held.iter().filter(|held| store.is_in(&held.run, segment)).collect();
            for Held { run, due } in held {
                for (id, run) in store.singles(*run)? {
                    all.insert(id, Kept { run, topic: topic.id, held: Some(*due), copies: Vec::new() });
                }
            }
        }
        for channel in channels.values() {
            let topic = topics[&channel.topic].id;
            let copies: Vec<_> = channel.copies().filter(|(run, _)| store.is_in(run, segment)).collect();
            for (run, copy) in copies {
                for (id, run) in store.singles(run)? {
                    let kept = all.entry(id).or_insert(Kept { run, topic, held: None, copies: Vec::new() });
                    // an ephemeral channel's copy keeps the message, but not beyond the process
                    kept.copies.extend(channel.is_logged().then_some(copy));
                }
            }
        }
        Ok(all)
    }
}

impl Store {
    fn is_in(&self, run: &Run, segment: u32) -> bool {
        self.batches.place(run.key).is_some_and(|place| place.segment == segment)
    }

    /// The messages of a run one by one, by id.
    fn singles(&mut self, mut run: Run) -> io::Result<Vec<(u64, Run)>> {
        let mut singles = Vec::with_capacity(run.count as usize);
        while run.count > 0 {
            let next = self.batches.next(&mut run, &mut *self.log)?;
            singles.push((next.id, next.run));
        }
        Ok(singles)
    }

    /// Writes a message anew, into a batch of its own that is held once, until all who hold the message have followed.
    fn carry(&mut self, id: u64, kept: &Kept) -> io::Result<Run> {
        let Kept { run, topic, held, copies } = kept;
        let next = self.batches.next(&mut run.clone(), &mut *self.log)?;
        let (bytes, body) = self.batches.body(&next);
        let body = bytes.slice(body);
        let (timestamp, is_backlog) = (next.timestamp, self.batches.is_backlog(next.run.key));
        let place = match held.is_none() && copies.is_empty() {
            true => None,
            false => {
                let (due, body) = (held.flatten(), body.clone());
                self.log.carry(&Carried { topic: *topic, id, timestamp, due, copies, body })?
            }
        };
        Ok(self.batches.replace(id, timestamp, Bodies::one(body).compact(), place, is_backlog))
    }
}

/// Where messages of a segment have gone.
struct Moves {
    segment: u32,
    moved: BTreeMap<u64, Run>,
}

impl Moves {
    /// What holds `run` is to hold these instead.
    fn of(&self, run: Run, store: &mut Store) -> Vec<Run> {
        if !store.is_in(&run, self.segment) {
            return vec![run];
        }
        // it was read a moment ago: should that fail now, the messages stay where they are
        let Ok(singles) = store.singles(run) else { return vec![run] };
        let mut to = Vec::with_capacity(singles.len());
        for (id, single) in singles {
            match self.moved.get(&id) {
                Some(moved) => {
                    store.batches.hold(moved.key, 1);
                    store.release(single);
                    to.push(*moved);
                }
                None => to.push(single),
            }
        }
        to
    }
}

impl Topic {
    fn follow(&mut self, moves: &Moves, store: &mut Store) {
        if self.held.iter().any(|held| store.is_in(&held.run, moves.segment)) {
            let follow = |Held { run, due }: Held| moves.of(run, store).into_iter().map(move |run| Held { run, due });
            self.held = std::mem::take(&mut self.held).into_iter().flat_map(follow).collect();
        }
    }
}

impl Channel {
    /// All copies, as the log knows them: what is in flight waits.
    fn copies(&self) -> impl Iterator<Item = (Run, Copy)> {
        let copy = |run, attempts, due| (run, Copy { channel: self.id, attempts, due });
        let waiting = self.queue.iter().map(move |waiting| copy(waiting.run, waiting.attempts, None));
        let in_flight = self.in_flight.values().map(move |sent| copy(sent.run, sent.attempts, None));
        let deferred = self.deferred.values().map(move |later| copy(later.run, later.attempts, Some(later.due)));
        waiting.chain(in_flight).chain(deferred)
    }

    fn follow(&mut self, moves: &Moves, store: &mut Store) {
        if self.queue.iter().any(|waiting| store.is_in(&waiting.run, moves.segment)) {
            let mut queue = VecDeque::new();
            for Waiting { run, attempts } in std::mem::take(&mut self.queue) {
                queue.extend(moves.of(run, store).into_iter().map(|run| Waiting { run, attempts }));
            }
            self.queue = queue;
        }
        for copy in self.in_flight.values_mut() {
            copy.run = moves.of(copy.run, store)[0];
        }
        let deferred = self.deferred.iter().filter(|(_, copies)| store.is_in(&copies.run, moves.segment));
        for id in deferred.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.follow_deferred(id, moves, store);
        }
    }

    fn follow_deferred(&mut self, id: u64, moves: &Moves, store: &mut Store) {
        let Some(Deferred { run, attempts, due, until }) = self.deferred.remove(&id) else { return };
        store.timers.remove(&(until, self.id, id));
        for run in moves.of(run, store) {
            let id = store.batches.id(&run);
            store.timers.insert((until, self.id, id));
            self.deferred.insert(id, Deferred { run, attempts, due, until });
        }
    }
}
