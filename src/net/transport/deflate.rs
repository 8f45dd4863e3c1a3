//! Deflate as NSQ uses it: one raw stream (RFC 1951) for each direction, flushed to a byte boundary
//! (`Z_SYNC_FLUSH`) after each write.

use std::io;

use bytes::{Buf, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The room that is offered to the compressor at a time, in bytes.
const STEP: usize = 16 * 1024;

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Deflate {
    compress: Compress,
    decompress: Decompress,
    ended: bool,
}

impl Deflate {
    /// `level` is 1 to 9.
    pub(super) fn new(level: u32) -> Self {
        Self {
            compress: Compress::new(Compression::new(level.clamp(1, 9)), false),
            decompress: Decompress::new(false),
            ended: false,
        }
    }

    /// Compresses `bytes`; part of the result may stay inside until [`flush`](Self::flush).
    pub(super) fn encode(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let before = self.compress.total_in();
            self.compress_into(rest, out, FlushCompress::None)?;
            rest = &rest[(self.compress.total_in() - before) as usize..];
        }
        Ok(())
    }

    /// Puts out everything compressed so far.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        // the compressor has put out everything when it leaves room unused
        while self.compress_into(&[], out, FlushCompress::Sync)? == 0 {}
        Ok(())
    }

    /// Compresses into the room left in `out`, after making some; returns the bytes of it that
    /// stayed unused.
    fn compress_into(&mut self, bytes: &[u8], out: &mut Vec<u8>, flush: FlushCompress) -> io::Result<usize> {
        out.reserve(STEP);
        self.compress.compress_vec(bytes, out, flush).map_err(io::Error::other)?;
        Ok(out.capacity() - out.len())
    }

    /// Decompresses from `input` into `room`; returns the bytes written there. However well the
    /// peer's bytes compress, no more memory is taken.
    pub(super) fn decode(&mut self, input: &mut BytesMut, room: &mut [u8]) -> io::Result<usize> {
        let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
        let decoded = self.decompress.decompress(input, room, FlushDecompress::Sync);
        input.advance((self.decompress.total_in() - read) as usize);
        match decoded {
            Ok(Status::StreamEnd) => self.ended = true,
            Ok(Status::Ok | Status::BufError) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("deflate: {error}"))),
        }
        Ok((self.decompress.total_out() - written) as usize)
    }

    /// True after the peer ended its compressed stream.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }
}
