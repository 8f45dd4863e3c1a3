//! A disk queue of nsqd: its files, read from the position that nsqd had reached.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::ImportError;
use super::folder::{QueueFiles, QueuePositions};
use super::queue_file::{MessageHead, QueueEntry, QueueFile};
use super::report::Remark;
use crate::io_error::describe;

/// Reader of a queue's messages, in their order. Damaged parts are skipped.
#[derive(Debug)]
pub(super) struct QueueReader<'a> {
    folder: &'a Path,
    files: &'a QueueFiles,
    positions: Option<QueuePositions>,
    /// The file being read, and its number.
    file: Option<(u64, QueueFile)>,
    /// The lowest number of the files that are left.
    next: u64,
    /// Messages found so far.
    count: u64,
}

impl<'a> QueueReader<'a> {
    pub(super) fn open(
        folder: &'a Path,
        files: &'a QueueFiles,
        remarks: &mut Vec<Remark>,
    ) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Io { path: folder.join(&files.name), source };
        let positions = files.positions(folder).map_err(failed)?;
        if positions.is_none() && !files.numbers.is_empty() {
            remarks.push(Remark::NoPositions { queue: files.name.clone() });
        }
        let next = positions.map_or(0, |positions| positions.read_file);
        for number in files.numbers.range(..next) {
            remarks.push(Remark::Consumed { file: files.file_name(*number) });
        }
        Ok(Self { folder, files, positions, file: None, next, count: 0 })
    }

    /// The next message, whose body must be read or skipped; `None` at the end of the queue.
    pub(super) fn next(&mut self, remarks: &mut Vec<Remark>) -> Result<Option<MessageHead>, ImportError> {
        loop {
            let Some((number, file)) = &mut self.file else {
                if !self.open_next(remarks)? {
                    self.check_depth(remarks);
                    return Ok(None);
                }
                continue;
            };
            match file.next() {
                Ok(Some(QueueEntry::Message(head))) => {
                    self.count += 1;
                    return Ok(Some(head));
                }
                Ok(Some(QueueEntry::Damaged(range))) => {
                    remarks.push(Remark::Damaged { file: self.files.file_name(*number), range });
                }
                Ok(None) => self.file = None,
                Err(error) => self.give_up_file(&error, remarks),
            }
        }
    }

    /// Reads the body of the message that [`next`](Self::next) returned; `None` if that fails.
    pub(super) fn body(&mut self, head: &MessageHead, remarks: &mut Vec<Remark>) -> Option<Bytes> {
        let (_, file) = self.file.as_mut()?;
        file.body(head).inspect_err(|error| self.give_up_file(error, remarks)).ok()
    }

    /// Skips the body of the message that [`next`](Self::next) returned.
    pub(super) fn skip_body(&mut self, head: &MessageHead, remarks: &mut Vec<Remark>) {
        let Some((_, file)) = &mut self.file else { return };
        let _ = file.skip_body(head).inspect_err(|error| self.give_up_file(error, remarks));
    }

    /// Skips the rest of a file that the disk cannot read.
    fn give_up_file(&mut self, error: &io::Error, remarks: &mut Vec<Remark>) {
        if let Some((number, _)) = self.file.take() {
            remarks.push(Remark::Unreadable { file: self.files.file_name(number), error: describe(error) });
        }
    }

    /// Opens the next file; false if there is none.
    fn open_next(&mut self, remarks: &mut Vec<Remark>) -> Result<bool, ImportError> {
        let next = self.files.numbers.range(self.next..).next().copied();
        let expected = self.positions.map_or(self.next, |positions| positions.end().max(self.next));
        let until = next.unwrap_or(expected);
        let is_gap = self.positions.is_some() || self.count > 0;
        if is_gap && self.next < until {
            remarks.push(Remark::Missing {
                first: self.files.file_name(self.next),
                last: self.files.file_name(until - 1),
            });
        }
        let Some(number) = next else {
            self.next = until;
            return Ok(false);
        };
        let path = self.folder.join(self.files.file_name(number));
        let begin = self.positions.filter(|positions| positions.read_file == number).map_or(0, |it| it.read_at);
        let file = QueueFile::open(&path, begin).map_err(|source| ImportError::Io { path, source })?;
        if begin > file.length() {
            remarks.push(Remark::BeyondEnd { file: self.files.file_name(number), at: begin, length: file.length() });
        }
        self.file = Some((number, file));
        self.next = number + 1;
        Ok(true)
    }

    fn check_depth(&mut self, remarks: &mut Vec<Remark>) {
        let depth = self.positions.take().map(|positions| positions.depth);
        if let Some(depth) = depth.filter(|depth| *depth != self.count) {
            remarks.push(Remark::OtherDepth { queue: self.files.name.clone(), depth, found: self.count });
        }
    }
}
