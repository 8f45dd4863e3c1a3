//! Snappy's framing format (<https://github.com/google/snappy/blob/main/framing_format.txt>):
//! chunks of at most 64 KiB, each with a checksum.

use std::io::{self, Read, Write};

use bytes::{Buf, BytesMut};
use snap::read::FrameDecoder;
use snap::write::FrameEncoder;

use crate::io_error::describe;

/// A chunk's type and length.
const HEADER: usize = 4;
/// The longest chunk, in bytes after its header: a checksum, and 64 KiB that do not compress.
const LONGEST_CHUNK: usize = 4 + 76_490;

/// Both directions of a connection.
pub(super) struct Snappy {
    encoder: FrameEncoder<Vec<u8>>,
    decoder: FrameDecoder<Chunks>,
}

/// Whole chunks, which the decoder reads to their end.
#[derive(Debug, Default)]
struct Chunks(BytesMut);

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(self.0.len());
        self.0.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

impl Snappy {
    pub(super) fn new() -> Self {
        Self { encoder: FrameEncoder::new(Vec::new()), decoder: FrameDecoder::new(Chunks::default()) }
    }

    /// Compresses `bytes`; part of the result may stay inside until [`flush`](Self::flush).
    pub(super) fn encode(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.encoder.write_all(bytes)?;
        out.append(self.encoder.get_mut());
        Ok(())
    }

    /// Puts out everything compressed so far.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.encoder.flush()?;
        out.append(self.encoder.get_mut());
        Ok(())
    }

    /// Decompresses the chunks that are wholly in `input`, until `room` is full; returns the bytes
    /// written there.
    pub(super) fn decode(&mut self, input: &mut BytesMut, room: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length < room.len() {
            // the chunk taken last may not be read to its end
            match self.decoder.read(&mut room[length..]) {
                Ok(0) if self.take_chunk(input)? => {}
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("snappy: {}", describe(&error))));
                }
            }
        }
        Ok(length)
    }

    /// Gives the decoder the next chunk, if it has wholly arrived.
    fn take_chunk(&mut self, input: &mut BytesMut) -> io::Result<bool> {
        let Some(&[_, a, b, c]) = input.first_chunk::<HEADER>() else { return Ok(false) };
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        if length > LONGEST_CHUNK {
            let text = format!("snappy: a chunk of {length} bytes, at most {LONGEST_CHUNK} are allowed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if input.len() < HEADER + length {
            return Ok(false);
        }
        self.decoder.get_mut().0 = input.split_to(HEADER + length);
        Ok(true)
    }
}

impl std::fmt::Debug for Snappy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snappy")
    }
}
