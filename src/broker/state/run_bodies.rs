//! The bodies of a run of messages, to be read outside the state's lock.

use std::io;

use bytes::Bytes;

use super::super::log::{DetachedReader, LoggedBodies};
use crate::proto::Bodies;

/// Where the bodies of a batch are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodySource {
    /// In memory, shared with the state.
    Memory(Bodies),
    /// Only in the log.
    Log(LoggedBodies),
}

/// The bodies of a run. While this exists, it keeps their batch in memory, if it is there; it keeps
/// nothing in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunBodies {
    source: BodySource,
    /// Offset of the run's first body, with its size, in the batch.
    offset: u32,
    count: u32,
}

impl RunBodies {
    pub(super) fn new(source: BodySource, offset: u32, count: u32) -> Self {
        Self { source, offset, count }
    }

    /// True if the bodies have to be read from the log.
    pub fn are_logged(&self) -> bool {
        matches!(self.source, BodySource::Log(_))
    }

    /// Returns the bodies, after the first `skip` of them.
    ///
    /// # Errors
    ///
    /// Fails if they cannot be read from the log: they are damaged, or elsewhere by now.
    pub fn read(
        &self,
        skip: u32,
        reader: Option<&mut DetachedReader>,
    ) -> io::Result<impl Iterator<Item = Bytes> + use<>> {
        let batch = match (&self.source, reader) {
            (BodySource::Memory(bodies), _) => bodies.clone(),
            (BodySource::Log(bodies), Some(reader)) => reader.read(bodies)?,
            (BodySource::Log(_), None) => return Err(io::Error::new(io::ErrorKind::NotFound, "there is no log")),
        };
        let mut offset = self.offset as usize;
        let all = (0..self.count).map(move |_| {
            let body = batch.at(offset);
            offset = body.end;
            batch.bytes().slice(body)
        });
        Ok(all.skip(skip as usize))
    }
}
