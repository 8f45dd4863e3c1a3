//! Where a body in chunks ends: followed, not decoded. hyper decodes it, and ends the connection where it is malformed.

/// How far a body is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    size: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The digits of a chunk's size.
    #[default]
    Size,
    /// What may follow them in their line.
    Extension,
    Data,
    /// The line's end behind data.
    DataEnd,
    /// The beginning of a line behind the last chunk.
    Trailer,
    /// A CR there: the body's end, if an LF follows.
    LastCr,
    /// Inside such a line, and at a CR in it.
    Field,
    FieldCr,
}

impl Chunks {
    /// How many of these bytes belong to the body, and whether it ends with them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken) {
            if self.at == At::Data {
                let here = bytes.len() - taken;
                let length = usize::try_from(self.size).unwrap_or(usize::MAX).min(here);
                self.size -= length as u64;
                taken += length;
                if self.size == 0 {
                    self.at = At::DataEnd;
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

    /// Goes over a byte that is no data; true at the body's end.
    fn step(&mut self, byte: u8) -> bool {
        self.at = match (self.at, byte) {
            (At::LastCr, b'\n') => return true,
            (At::Size | At::Extension, b'\n') if self.size == 0 => At::Trailer,
            (At::Size | At::Extension, b'\n') => At::Data,
            (At::Size, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).unwrap_or_default();
                self.size = self.size.saturating_mul(16).saturating_add(u64::from(digit));
                At::Size
            }
            (At::Size | At::Extension, _) => At::Extension,
            (At::DataEnd, b'\n') => At::Size,
            (at @ (At::DataEnd | At::Data), _) => at,
            (At::Trailer, b'\r') => At::LastCr,
            (At::FieldCr, b'\n') => At::Trailer,
            (At::Field, b'\r') => At::FieldCr,
            (At::Trailer | At::LastCr | At::Field | At::FieldCr, _) => At::Field,
        };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_its_last_chunk_and_its_trailers_end() {
        for body in ["0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "A;x=\"y\"\r\n0\r\n\r\n01234\r\n0\r\nT: x\r\nU: \n\r\n\r\n"]
        {
            for piece in 1..=body.len() {
                let (mut chunks, mut taken, mut ended) = (Chunks::default(), 0, false);
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
