//! Bodies read back from segments.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{Place, file_path};
use crate::proto::Bodies;

/// So many segments' files stay open; a backlog may have more segments than a process may have files.
const OPEN: usize = 32;

/// Open files, the one used last at the front.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    files: VecDeque<(u32, File)>,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, files: VecDeque::new() }
    }

    /// The bodies at a place of a segment that is good up to `end`. Fails if it is not so many, of so many bytes with their sizes.
    pub(super) fn read(&mut self, place: Place, length: u32, count: u32, end: u32) -> io::Result<Bodies> {
        if place.offset.checked_add(length).is_none_or(|after| after > end) {
            return Err(self.no_bodies(place, length, count));
        }
        let mut bytes = vec![0; length as usize];
        self.file(place.segment)?.read_exact_at(&mut bytes, place.offset.into())?;
        Bodies::from_sized(bytes.into(), count).ok_or_else(|| self.no_bodies(place, length, count))
    }

    /// The segment goes.
    pub(super) fn forget(&mut self, segment: u32) {
        self.files.retain(|(number, _)| *number != segment);
    }

    fn file(&mut self, segment: u32) -> io::Result<&File> {
        let found = match self.files.iter().position(|(number, _)| *number == segment) {
            Some(0) => return Ok(&self.files[0].1),
            Some(at) => self.files.remove(at).expect("it was just found"),
            None => (segment, File::open(file_path(&self.path, segment))?),
        };
        self.files.push_front(found);
        self.files.truncate(OPEN);
        Ok(&self.files[0].1)
    }

    fn no_bodies(&self, Place { segment, offset, .. }: Place, length: u32, count: u32) -> io::Error {
        let path = file_path(&self.path, segment);
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("byte {offset} of {} does not begin {count} messages of {length} bytes", path.display()),
        )
    }
}
