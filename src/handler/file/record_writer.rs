//! Appends records to a file, plain or in a gzip member: all of them or none, and synced.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::gzip::{self, GzipMember};
use crate::handler::PrintOutput;
use crate::handler::line_format::LineFormat;
use crate::proto::Message;

/// The size of one write, in bytes; a buffer of this size is kept from batch to batch.
const WRITE_SIZE: usize = 1024 * 1024;
/// The number of bytes that are compressed together.
const COMPRESS_SIZE: usize = 64 * 1024;
/// The first bytes of a line of JSON.
const JSON_START: &[u8] = b"{\"stream\":\"";

/// Appends records to locked files.
pub(super) struct RecordWriter {
    pub(super) format: LineFormat,
    /// The gzip level, if files are compressed.
    pub(super) gzip: Option<u32>,
    pub(super) buffer: Vec<u8>,
}

impl RecordWriter {
    /// Returns the options for opening files.
    pub(super) fn options(&self) -> OpenOptions {
        let mut options = File::options();
        options.read(true);
        match self.gzip {
            // the length in a member's header is written last
            Some(_) => options.write(true),
            None => options.append(true),
        };
        options
    }

    /// Repairs an incomplete record at the end of a locked file, as a killed consumer leaves it.
    /// The file was complete at `known` after the last write here. Returns the end of its complete
    /// records.
    pub(super) fn repair_end(&self, file: &File, known: u64) -> io::Result<u64> {
        let metadata = file.metadata()?;
        let length = metadata.len();
        if !metadata.is_file() || length == 0 {
            // a device or a pipe has no end
            return Ok(0);
        }
        if self.gzip.is_some() {
            let whole = match known {
                known if known == length => return Ok(length),
                // another process truncated it
                known if known > length => gzip::whole_end(file, 0, length)?,
                known => gzip::whole_end(file, known, length)?,
            };
            return truncate(file, length, whole);
        }
        let end = self.format.end();
        let mut last = [0];
        file.read_exact_at(&mut last, length - 1)?;
        if last == [end] {
            return Ok(length);
        }
        match self.format.output() {
            // its message is delivered again
            PrintOutput::Json => {
                let begun = after_last(file, length, end)?.unwrap_or(0);
                if starts_with_json(file, begun, length)? {
                    return truncate(file, length, begun);
                }
            }
            PrintOutput::Null => {
                if let Some(begun) = after_last(file, length, end)? {
                    return truncate(file, length, begun);
                }
            }
            // the start of a body with several lines is unknown
            PrintOutput::Body => {}
        }
        (&*file).write_all(&[end])?;
        Ok(length + 1)
    }

    /// Appends messages until `room` is used, at least one, to a locked file that is complete at
    /// `end`, and syncs it. Returns their number and the new end; after an error the file is as
    /// long as before.
    pub(super) fn append(
        &mut self,
        file: &File,
        end: u64,
        messages: &[Message],
        room: u64,
    ) -> io::Result<(usize, u64)> {
        if !file.metadata()?.is_file() {
            return self.write(file, end, messages, room);
        }
        let appended = self.write(file, end, messages, room).and_then(|appended| {
            file.sync_data()?;
            match file.metadata()?.nlink() {
                0 => Err(io::Error::new(ErrorKind::NotFound, "it was deleted meanwhile")),
                _ => Ok(appended),
            }
        });
        if appended.is_err() {
            // if this fails as well, the next batch repairs the end
            let _ = file.set_len(end);
        }
        appended
    }

    fn write(&mut self, file: &File, end: u64, messages: &[Message], room: u64) -> io::Result<(usize, u64)> {
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_SIZE);
        match self.gzip {
            Some(level) => self.write_member(GzipMember::begin(file, end, level), messages, room),
            None => self.write_plain(file, end, messages, room),
        }
    }

    fn write_plain(&mut self, mut file: &File, end: u64, messages: &[Message], room: u64) -> io::Result<(usize, u64)> {
        let Self { buffer, format, .. } = self;
        let (mut count, mut written) = (0, 0);
        for message in messages {
            format.add(message, buffer);
            count += 1;
            if written + buffer.len() as u64 >= room {
                break;
            }
            if buffer.len() >= WRITE_SIZE {
                file.write_all(buffer)?;
                written += buffer.len() as u64;
                buffer.clear();
            }
        }
        file.write_all(buffer)?;
        Ok((count, end + written + buffer.len() as u64))
    }

    fn write_member(
        &mut self,
        mut member: GzipMember<'_>,
        messages: &[Message],
        room: u64,
    ) -> io::Result<(usize, u64)> {
        let Self { buffer, format, .. } = self;
        let mut count = 0;
        for message in messages {
            format.add(message, buffer);
            count += 1;
            if buffer.len() >= COMPRESS_SIZE {
                member.add(buffer)?;
                buffer.clear();
                if member.written() >= room {
                    break;
                }
            }
        }
        member.add(buffer)?;
        Ok((count, member.finish()?))
    }
}

/// Truncates a file to its complete records.
fn truncate(file: &File, length: u64, whole: u64) -> io::Result<u64> {
    if whole < length {
        tracing::warn!("removed {} bytes of an incomplete record at the end of the file", length - whole);
        file.set_len(whole)?;
    }
    Ok(whole)
}

/// Returns the offset after the last `byte`; `None` if there is none.
fn after_last(file: &File, length: u64, byte: u8) -> io::Result<Option<u64>> {
    let mut space = vec![0; WRITE_SIZE];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(WRITE_SIZE as u64);
        let part = &mut space[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(at) = memchr::memrchr(byte, part) {
            return Ok(Some(start + at as u64 + 1));
        }
        end = start;
    }
    Ok(None)
}

fn starts_with_json(file: &File, start: u64, length: u64) -> io::Result<bool> {
    let mut begin = [0; JSON_START.len()];
    let count = usize::try_from(length - start).unwrap_or(usize::MAX).min(JSON_START.len());
    file.read_exact_at(&mut begin[..count], start)?;
    Ok(begin[..count] == JSON_START[..count])
}
