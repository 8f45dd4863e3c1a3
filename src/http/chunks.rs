//! Finds the end of a chunked body without decoding it. hyper decodes it, and closes the connection
//! if it is malformed.

/// The position in a chunked body.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkScanner {
    at: ChunkState,
    size: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    /// The digits of a chunk's size.
    #[default]
    Size,
    /// The chunk extension after the digits.
    Extension,
    Data,
    /// The line end after a chunk's data.
    DataEnd,
    /// The start of a line after the last chunk.
    Trailer,
    /// A CR at the start of such a line: the body ends if an LF follows.
    LastCr,
    /// Inside a trailer line.
    Field,
    FieldCr,
}

impl ChunkScanner {
    /// Returns how many of these bytes belong to the body, and whether it ends with them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken) {
            if self.at == ChunkState::Data {
                let here = bytes.len() - taken;
                let length = usize::try_from(self.size).unwrap_or(usize::MAX).min(here);
                self.size -= length as u64;
                taken += length;
                if self.size == 0 {
                    self.at = ChunkState::DataEnd;
                }
                continue;
            }
            taken += 1;
            if self.step(*byte) {
                return (taken, true);
            }
        }
        (taken, false)
    }

    /// Advances by a byte that is not data; returns true at the body's end.
    fn step(&mut self, byte: u8) -> bool {
        self.at = match (self.at, byte) {
            (ChunkState::LastCr, b'\n') => return true,
            (ChunkState::Size | ChunkState::Extension, b'\n') if self.size == 0 => ChunkState::Trailer,
            (ChunkState::Size | ChunkState::Extension, b'\n') => ChunkState::Data,
            (ChunkState::Size, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).unwrap_or_default();
                self.size = self.size.saturating_mul(16).saturating_add(u64::from(digit));
                ChunkState::Size
            }
            (ChunkState::Size | ChunkState::Extension, _) => ChunkState::Extension,
            (ChunkState::DataEnd, b'\n') => ChunkState::Size,
            (at @ (ChunkState::DataEnd | ChunkState::Data), _) => at,
            (ChunkState::Trailer, b'\r') => ChunkState::LastCr,
            (ChunkState::FieldCr, b'\n') => ChunkState::Trailer,
            (ChunkState::Field, b'\r') => ChunkState::FieldCr,
            (ChunkState::Trailer | ChunkState::LastCr | ChunkState::Field | ChunkState::FieldCr, _) => {
                ChunkState::Field
            }
        };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_bodies_end_after_their_trailers() {
        for body in ["0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "A;x=\"y\"\r\n0\r\n\r\n01234\r\n0\r\nT: x\r\nU: \n\r\n\r\n"]
        {
            for piece in 1..=body.len() {
                let (mut chunks, mut taken, mut ended) = (ChunkScanner::default(), 0, false);
                let bytes = [body.as_bytes(), b"GET /"].concat();
                for part in bytes.chunks(piece) {
                    let (length, ends) = chunks.take(part);
                    (taken, ended) = (taken + length, ends);
                    if ends {
                        break;
                    }
                }
                assert_eq!((taken, ended), (body.len(), true), "{body:?} in pieces of {piece}");
            }
        }
    }
}
