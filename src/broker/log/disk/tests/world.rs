//! A log beside its model, used as a broker uses it.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::super::super::*;
use super::super::*;
use super::model::Model;
use crate::proto::Bodies;

pub(super) struct World {
    pub(super) options: Options,
    pub(super) log: DiskLog,
    pub(super) model: Model,
    /// As the model was when all was written: what a crash leaves.
    pub(super) written: Model,
    places: BTreeMap<u64, (Place, u32)>,
}

impl World {
    pub(super) fn open(options: &Options) -> Self {
        let (mut log, recovered, report) = DiskLog::open(options).unwrap();
        assert_eq!((report.damage, report.torn), (vec![], vec![]));
        let model = Model::of(&recovered, &mut log);
        let each = recovered.batches.iter().flat_map(|batch| each(batch, &mut log));
        let places = each.map(|(id, place, body)| (id, (place, body.len() as u32))).collect();
        Self { options: options.clone(), log, written: model.clone(), model, places }
    }

    pub(super) fn last_id(&self) -> u64 {
        self.model.last_id
    }

    pub(super) fn note(&mut self, change: Change) {
        self.log.note(&change);
        self.model.change(&change);
        self.tell_spent();
    }

    pub(super) fn flush(&mut self) {
        self.log.flush().unwrap();
        self.written = self.model.clone();
    }

    pub(super) fn publish(
        &mut self,
        topic: TopicId,
        holder: Holder,
        due: Option<UnixMillis>,
        bodies: &[Bytes],
    ) -> Place {
        self.try_publish(topic, holder, due, bodies).unwrap()
    }

    pub(super) fn try_publish(
        &mut self,
        topic: TopicId,
        holder: Holder,
        due: Option<UnixMillis>,
        bodies: &[Bytes],
    ) -> io::Result<Place> {
        let first = self.model.last_id + 1;
        let all: Bodies = bodies.iter().cloned().collect();
        let batch = Batch { topic, first, timestamp: 1_000_000 + first as i64, due, holder, bodies: &all };
        let place = self.log.publish(&batch)?.expect("a disk is a place");
        let mut offset = place.offset;
        for (id, body) in (first..).zip(bodies) {
            self.places.insert(id, (Place { offset, ..place }, body.len() as u32));
            offset += (Bodies::SIZE + body.len()) as u32;
        }
        self.model.publish(&batch);
        self.written = self.model.clone();
        self.tell_spent();
        Ok(place)
    }

    /// Carries all that should be.
    pub(super) fn carry(&mut self) {
        while let Some(segment) = self.log.wants_carried() {
            let held = self.places.iter().filter(|(_, (place, _))| place.segment == segment);
            let held: Vec<_> = held.map(|(id, (place, length))| (*id, *place, *length)).collect();
            assert!(!held.is_empty(), "a segment without messages is gone");
            for (id, place, length) in held {
                let body = read(&mut self.log, place, length).unwrap();
                let it = &self.model.messages[&id];
                let (topic, timestamp, due) = (it.topic, it.timestamp, it.due);
                let message = Carried { topic, id, timestamp, due, copies: &it.copies, body };
                let carried = self.log.carry(&message).unwrap().expect("a disk is a place");
                self.written = self.model.clone();
                self.places.insert(id, (carried, length));
                self.log.spent(place.segment, 1);
            }
        }
    }

    /// Closes the log and opens it again.
    pub(super) fn reopen(&mut self) {
        let (options, model) = (self.options.clone(), self.model.clone());
        // The old log must be gone first: one at a time.
        let elsewhere = tempfile::tempdir().unwrap();
        let other = World::open(&Options { sync: SyncMode::Never, ..Options::new(elsewhere.path()) });
        drop(std::mem::replace(self, other));
        *self = World::open(&options);
        assert_eq!(self.model, model);
    }

    /// Kills the process, and opens what it left: what was written, but perhaps without messages that were done with since. Nobody
    /// holds them, so their segment may have gone before the note of it was written.
    pub(super) fn crash(&mut self, into: &Path) {
        copy(&self.options.path, into);
        let (mut written, now) = (self.written.clone(), self.model.clone());
        *self = World::open(&Options { path: into.into(), ..self.options.clone() });
        let found = &self.model.messages;
        written.messages.retain(|id, _| now.messages.contains_key(id) || found.contains_key(id));
        assert_eq!(self.model, written);
    }

    pub(super) fn check_bodies(&mut self) {
        for (id, message) in &self.model.messages {
            let (place, length) = self.places[id];
            assert_eq!(read(&mut self.log, place, length).unwrap(), message.body, "message {id}");
        }
    }

    fn tell_spent(&mut self) {
        let (held, log) = (&self.model.messages, &mut self.log);
        self.places.retain(|id, (place, _)| {
            let is_held = held.contains_key(id);
            if !is_held {
                log.spent(place.segment, 1);
            }
            is_held
        });
    }
}

/// The newest file first: meanwhile the oldest may go.
pub(super) fn copy(from: &Path, into: &Path) {
    let mut names = super::files(from);
    names.reverse();
    for name in names {
        match std::fs::copy(from.join(&name), into.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => assert!(result.is_ok(), "{name}: {result:?}"),
        }
    }
}

/// A single body.
pub(super) fn read(log: &mut impl Log, place: Place, length: u32) -> io::Result<Bytes> {
    log.read(place, Bodies::SIZE as u32 + length, 1).map(|bodies| bodies.bytes().clone())
}

/// The messages of a batch: ids, places and bodies.
pub(super) fn each(batch: &RecoveredBatch, log: &mut impl Log) -> Vec<(u64, Place, Bytes)> {
    let bodies = log.read(batch.place, batch.length, batch.count).unwrap();
    let mut place = batch.place;
    let message = |(id, body): (u64, Bytes)| {
        let at = place;
        place.offset += (Bodies::SIZE + body.len()) as u32;
        (id, at, body)
    };
    (batch.id..).zip(bodies.iter()).map(message).collect()
}
