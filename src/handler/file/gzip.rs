//! Gzip members, each with its own length in its header: a file's complete members are found
//! without unpacking it.
//!
//! ```text
//!  [ header: … "MQ" length | data | CRC, size ][ header: … length | data | CRC, size ] …
//!                   └ 0 until the rest of the member is written
//! ```
//!
//! A member is complete when its length is set and the file is that long. A power cut may leave a
//! file's length without its data, so the last member's checksum is verified, too: the members
//! before it were synced before the last one began.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

/// The extra field (RFC 1952, 2.3.1.1): two letters, its length, and the member's length, which is
/// written last.
const EXTRA: [u8; 12] = *b"MQ\x08\x00\0\0\0\0\0\0\0\0";
/// The size of a header, in bytes.
const HEAD: usize = 12 + EXTRA.len();
/// The offset of the member's length in a header.
const LENGTH_AT: usize = HEAD - 8;
/// The first bytes of a header: gzip, deflate, an extra field.
const MAGIC: [u8; 4] = [0x1f, 0x8b, 8, 4];

/// A member that is being written at the end of a file.
pub(super) struct GzipMember<'a> {
    encoder: GzEncoder<WriterAt<'a>>,
    start: u64,
}

impl<'a> GzipMember<'a> {
    /// Begins a member at `start`.
    pub(super) fn begin(file: &'a File, start: u64, level: u32) -> Self {
        let encoder = GzBuilder::new().extra(EXTRA).write(WriterAt { file, at: start }, Compression::new(level));
        Self { encoder, start }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.encoder.write_all(bytes)
    }

    /// Returns the number of its bytes in the file.
    pub(super) fn written(&self) -> u64 {
        self.encoder.get_ref().at - self.start
    }

    /// Completes the member; returns its end.
    pub(super) fn finish(self) -> io::Result<u64> {
        let WriterAt { file, at } = self.encoder.finish()?;
        file.write_all_at(&(at - self.start).to_le_bytes(), self.start + LENGTH_AT as u64)?;
        Ok(at)
    }
}

/// Writes to a file at an offset.
struct WriterAt<'a> {
    file: &'a File,
    at: u64,
}

impl Write for WriterAt<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads from a file between two offsets.
struct ReaderAt<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for ReaderAt<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(space.len());
        let read = self.file.read_at(&mut space[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Returns the end of the last complete member of a file of this length, if one ends at `from`.
/// Fails with [`ErrorKind::InvalidData`] if the file has other content.
pub(super) fn whole_end(file: &File, from: u64, length: u64) -> io::Result<u64> {
    let (mut at, mut last) = (from, None);
    while let Some(end) = end_of_member(file, at, length)? {
        last = Some(at);
        at = end;
    }
    match last {
        Some(start) if !is_sound(file, start, at)? => Ok(start),
        _ => Ok(at),
    }
}

/// Returns the end of the member at `start`; `None` if there is none or it is incomplete.
fn end_of_member(file: &File, start: u64, length: u64) -> io::Result<Option<u64>> {
    let room = length.saturating_sub(start);
    let mut head = [0; HEAD];
    let head = &mut head[..HEAD.min(usize::try_from(room).unwrap_or(usize::MAX))];
    file.read_exact_at(head, start)?;
    // a partial header, or zeros where a power cut left the length alone, is no member
    let is_ours =
        starts_as(head, &MAGIC) && head.get(10..).is_none_or(|rest| starts_as(rest, &[12, 0, b'M', b'Q', 8, 0]));
    if !is_ours && !head.iter().all(|byte| *byte == 0) {
        return Err(io::Error::new(ErrorKind::InvalidData, "mqueue did not write it with --gzip: name another file"));
    }
    let Some(Ok(member)) = head.get(LENGTH_AT..HEAD).map(<[u8; 8]>::try_from) else { return Ok(None) };
    let member = u64::from_le_bytes(member);
    Ok((member > HEAD as u64 && member <= room).then(|| start + member))
}

/// Compares two slices over their common length.
fn starts_as(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.iter().zip(wanted).all(|(byte, wanted)| byte == wanted)
}

/// True if a member matches its checksum.
fn is_sound(file: &File, start: u64, end: u64) -> io::Result<bool> {
    let mut decoder = GzDecoder::new(BufReader::new(ReaderAt { file, at: start, end }));
    match io::copy(&mut decoder, &mut io::sink()) {
        Ok(_) => Ok(true),
        // the decoder's error, not the disk's
        Err(error) if error.raw_os_error().is_none() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::MultiGzDecoder;

    use super::*;

    fn three_members() -> (File, [u64; 3]) {
        let file = tempfile::tempfile().unwrap();
        let mut end = 0;
        let ends = ["one\n".repeat(1000), String::new(), "three\n".to_owned()].map(|text| {
            let mut member = GzipMember::begin(&file, end, 6);
            member.add(text.as_bytes()).unwrap();
            end = member.finish().unwrap();
            end
        });
        (file, ends)
    }

    #[test]
    fn members_are_readable_by_any_gzip_reader() {
        let (file, ends) = three_members();
        let mut text = String::new();
        let reader = ReaderAt { file: &file, at: 0, end: ends[2] };
        MultiGzDecoder::new(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\n".repeat(1000) + "three\n");
    }

    #[test]
    fn truncated_files_keep_their_complete_members() {
        let (file, ends) = three_members();
        for length in (0..=ends[2]).rev() {
            file.set_len(length).unwrap();
            let whole = ends.into_iter().rev().find(|end| *end <= length).unwrap_or(0);
            assert_eq!(whole_end(&file, 0, length).unwrap(), whole, "{length}");
            if length >= ends[0] {
                assert_eq!(whole_end(&file, ends[0], length).unwrap(), whole, "{length}, from the first one's end");
            }
        }
    }

    #[test]
    fn a_last_member_without_length_or_data_does_not_count() {
        let (file, ends) = three_members();
        file.write_all_at(&[0; 8], ends[1] + LENGTH_AT as u64).unwrap();
        assert_eq!(whole_end(&file, 0, ends[2]).unwrap(), ends[1]);
        let (file, ends) = three_members();
        file.write_all_at(&[0; 4], ends[1] + HEAD as u64).unwrap();
        assert_eq!(whole_end(&file, 0, ends[2]).unwrap(), ends[1]);
        let (file, ends) = three_members();
        file.write_all_at(&vec![0; (ends[2] - ends[1]) as usize], ends[1]).unwrap();
        assert_eq!(whole_end(&file, 0, ends[2]).unwrap(), ends[1]);
    }

    #[test]
    fn foreign_content_is_refused() {
        let (file, ends) = three_members();
        for other in [&b"a line\n"[..], b"\x1f\x8b\x08\x00\0\0\0\0\0\xff\x03\0\0\0\0\0\0\0\0\0"] {
            file.write_all_at(other, ends[2]).unwrap();
            let error = whole_end(&file, 0, ends[2] + other.len() as u64).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }
}
