//! Bodies read back from segments.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;

use super::{BODY_HEAD, Place, file_path};

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

    /// The body at a place of a segment that is good up to `end`. Fails if no body of this length is there.
    pub(super) fn read(&mut self, place: Place, length: u32, end: u32) -> io::Result<Bytes> {
        let after = place.offset.checked_add(length).filter(|after| *after <= end);
        let (Some(from), Some(_)) = (place.offset.checked_sub(BODY_HEAD), after) else {
            return Err(self.no_body(place, length));
        };
        let mut bytes = vec![0; BODY_HEAD as usize + length as usize];
        self.file(place.segment)?.read_exact_at(&mut bytes, from.into())?;
        let mut bytes = Bytes::from(bytes);
        match bytes.split_to(BODY_HEAD as usize) == length.to_le_bytes()[..] {
            true => Ok(bytes),
            false => Err(self.no_body(place, length)),
        }
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

    fn no_body(&self, Place { segment, offset }: Place, length: u32) -> io::Error {
        let path = file_path(&self.path, segment);
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("no message of {length} bytes at byte {offset} of {}", path.display()),
        )
    }
}
