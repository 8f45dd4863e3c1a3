//! A log beside its model, used in the way a broker uses it.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::super::super::*;
use super::super::*;
use super::model::Model;
use crate::proto::Bodies;

pub(super) struct World {
    pub(super) options: LogOptions,
    pub(super) log: DiskLog,
    pub(super) model: Model,
    /// The model after the last write, which is what a crash leaves.
    pub(super) written: Model,
    places: BTreeMap<u64, (LogLocation, u32)>,
    /// True if it was opened with a checkpoint.
    pub(super) is_from_checkpoint: bool,
    /// Number of messages that may still be relocated, to simulate a crash in the middle of a
    /// compaction.
    pub(super) relocations: Option<usize>,
    /// Maximum bytes of a part of what is published.
    pub(super) max_part: usize,
}

/// Approximate bytes of the log that a message needs.
fn cost(length: u32) -> u64 {
    u64::from(length) + 64
}

impl World {
    pub(super) fn open(options: &LogOptions) -> Self {
        let (mut log, recovered, report) = DiskLog::open(options).unwrap();
        assert_eq!((report.damage, report.torn), (vec![], vec![]));
        let model = Model::of(&recovered, &mut log);
        let each = recovered.batches.iter().flat_map(|batch| each(batch, &mut log));
        let places: BTreeMap<_, _> = each.map(|(id, location, body)| (id, (location, body.len() as u32))).collect();
        places.values().for_each(|(location, length)| log.hold(location.segment, 1, cost(*length)));
        log.recovered();
        Self {
            options: options.clone(),
            log,
            written: model.clone(),
            model,
            places,
            is_from_checkpoint: report.is_from_checkpoint,
            relocations: None,
            max_part: usize::MAX,
        }
    }

    pub(super) fn last_id(&self) -> u64 {
        self.model.last_id
    }

    pub(super) fn note(&mut self, change: Change) {
        self.log.note(&change);
        self.model.change(&change);
        self.release_finished();
    }

    pub(super) fn flush(&mut self) {
        self.log.flush().unwrap();
        self.written = self.model.clone();
    }

    /// Writes a checkpoint, which fails while segments are being removed.
    pub(super) fn checkpoint(&mut self) {
        self.flush();
        let _ = self.log.checkpoint();
    }

    pub(super) fn publish(
        &mut self,
        topic: TopicId,
        holder: MessageHolder,
        due: Option<UnixMillis>,
        bodies: &[Bytes],
    ) -> LogLocation {
        self.try_publish(topic, holder, due, bodies).unwrap()
    }

    pub(super) fn try_publish(
        &mut self,
        topic: TopicId,
        holder: MessageHolder,
        due: Option<UnixMillis>,
        bodies: &[Bytes],
    ) -> io::Result<LogLocation> {
        let first = self.model.last_id + 1;
        let parts = bodies.iter().cloned().collect::<Bodies>().split(self.max_part);
        let batch = PublishedBatch { topic, first, timestamp: 1_000_000 + first as i64, due, holder, parts: &parts };
        let location = self.log.publish(&batch)?.expect("the batch is on the disk");
        let (mut id, mut begin) = (first, location);
        for part in &parts {
            let mut offset = begin.offset;
            for body in part.iter() {
                self.log.hold(location.segment, 1, cost(body.len() as u32));
                self.places.insert(id, (LogLocation { offset, ..begin }, body.len() as u32));
                offset += (Bodies::SIZE + body.len()) as u32;
                id += 1;
            }
            begin = begin.next_part(part);
        }
        self.model.publish(&batch);
        self.written = self.model.clone();
        self.release_finished();
        Ok(location)
    }

    /// Bytes of the live messages.
    pub(super) fn live(&self) -> u64 {
        self.places.values().map(|(_, length)| cost(*length)).sum()
    }

    /// Compacts the log.
    pub(super) fn compact(&mut self) {
        while let Some(segment) = self.log.compaction_candidate() {
            let held = self.places.iter().filter(|(_, (location, _))| location.segment == segment);
            let held: Vec<_> = held.map(|(id, (location, length))| (*id, *location, *length)).collect();
            assert!(!held.is_empty(), "a segment without messages is no victim");
            for (id, location, length) in held {
                if self.relocations.as_mut().is_some_and(|left| std::mem::replace(left, left.saturating_sub(1)) == 0) {
                    return;
                }
                match self.relocate(id, location, length) {
                    // the disk has no room yet
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                    moved => moved.unwrap(),
                }
            }
        }
    }

    pub(super) fn relocate(&mut self, id: u64, location: LogLocation, length: u32) -> io::Result<()> {
        let body = read(&mut self.log, location, length)?;
        let it = &self.model.messages[&id];
        let holder = if it.copies.is_empty() { MessageHolder::Topic } else { MessageHolder::Channels };
        let copies: Vec<_> = it.copies.iter().map(|copy| CopyRun { copy: *copy, index: 0, count: 1 }).collect();
        let relocated = Relocated {
            from: Some(location.segment),
            topic: it.topic,
            first: id,
            timestamp: it.timestamp,
            due: it.due,
            holder,
            copies: &copies,
            bodies: &Bodies::one(body),
        };
        let new = self.log.relocate(&relocated)?.expect("the batch is on the disk");
        self.written = self.model.clone();
        self.log.hold(new.segment, 1, cost(length));
        self.places.insert(id, (new, length));
        self.log.spent(location.segment, 1, cost(length));
        Ok(())
    }

    /// Publishes as soon as the disk has room.
    pub(super) fn publish_when_there_is_room(&mut self, bodies: &[Bytes]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = self.try_publish(super::TOPIC, MessageHolder::Channels, None, bodies) {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::yield_now();
        }
    }

    /// Waits until the thread has removed and stripped what it was told to.
    pub(super) fn wait_until_tidy(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.log.is_tidy() {
            assert!(Instant::now() < deadline, "nothing is removed");
            std::thread::yield_now();
            self.log.flush().unwrap();
        }
    }

    /// Closes the log and opens it again.
    pub(super) fn reopen(&mut self) {
        let (options, model) = (self.options.clone(), self.model.clone());
        // the old log must be closed first, because of its lock
        let elsewhere = tempfile::tempdir().unwrap();
        let other = World::open(&LogOptions { sync: SyncMode::Never, ..LogOptions::new(elsewhere.path()) });
        drop(std::mem::replace(self, other));
        *self = World::open(&options);
        assert_eq!(self.model, model);
    }

    /// Simulates a kill of the process, and opens what it left: everything written, but perhaps
    /// without messages that were finished since. These are not live, so their segment may have
    /// been removed before the change was written.
    pub(super) fn crash(&mut self, into: &Path) {
        copy(&self.options.path, into);
        let (mut written, now) = (self.written.clone(), self.model.clone());
        *self = World::open(&LogOptions { path: into.into(), ..self.options.clone() });
        let found = &self.model.messages;
        written.messages.retain(|id, _| now.messages.contains_key(id) || found.contains_key(id));
        assert_eq!(self.model, written);
    }

    pub(super) fn check_bodies(&mut self) {
        for (id, message) in &self.model.messages {
            let (location, length) = self.places[id];
            assert_eq!(read(&mut self.log, location, length).unwrap(), message.body, "message {id}");
        }
    }

    fn release_finished(&mut self) {
        let (held, log) = (&self.model.messages, &mut self.log);
        self.places.retain(|id, (location, length)| {
            let is_held = held.contains_key(id);
            if !is_held {
                log.spent(location.segment, 1, cost(*length));
            }
            is_held
        });
    }
}

/// Copies the files, the newest first: the oldest may be removed meanwhile.
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
pub(super) fn read(log: &mut impl Log, location: LogLocation, length: u32) -> io::Result<Bytes> {
    log.read(location, Bodies::SIZE as u32 + length, 1).map(|bodies| bodies.bytes().clone())
}

/// The messages of a batch: ids, places and bodies.
pub(super) fn each(batch: &RecoveredBatch, log: &mut impl Log) -> Vec<(u64, LogLocation, Bytes)> {
    let bodies = log.read(batch.location, batch.length, batch.count).unwrap();
    let mut location = batch.location;
    let message = |(id, body): (u64, Bytes)| {
        let at = location;
        location.offset += (Bodies::SIZE + body.len()) as u32;
        (id, at, body)
    };
    (batch.id..).zip(bodies.iter()).map(message).collect()
}
