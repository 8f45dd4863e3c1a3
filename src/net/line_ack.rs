//! The acknowledgement of a receiver at the end of a stream of lines.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The maximum length of an acknowledgement, in bytes.
const MAX_LENGTH: u64 = 256;

/// The acknowledgement: `OK 500`, `OK 498 refused 2`, `OK 499 unfinished 1`, or just `OK` for all
/// lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineAck {
    /// The number of lines that are stored, in order from the first one, without empty ones; `None`
    /// for all.
    pub taken: Option<u64>,
    /// The number of lines that were refused for good.
    pub refused: u64,
    /// True if text without a newline followed the last line; it was not stored.
    pub unfinished: bool,
}

impl LineAck {
    /// Returns how many of `sent` lines are settled, stored or refused. The rest has to be sent
    /// again.
    pub fn settled(self, sent: u64) -> u64 {
        self.taken.map_or(sent, |taken| taken.saturating_add(self.refused).min(sent))
    }

    /// Reads the acknowledgement until the stream ends. Fails if there is none.
    pub async fn read(stream: impl AsyncRead + Unpin) -> io::Result<Self> {
        let mut text = String::new();
        stream.take(MAX_LENGTH).read_to_string(&mut text).await?;
        Self::parse(&text).ok_or_else(|| match text.is_empty() {
            true => io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer"),
            false => io::Error::new(io::ErrorKind::InvalidData, format!("it answered {text:?} instead of OK")),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let number = |word: &str| word.parse().ok();
        let (words, unfinished) = match words.strip_suffix(&["unfinished", "1"]) {
            Some(words @ [_, _, ..]) => (words, true),
            _ => (&words[..], false),
        };
        let (taken, refused) = match *words {
            ["OK"] => (None, 0),
            ["OK", taken] => (Some(number(taken)?), 0),
            ["OK", taken, "refused", refused] => (Some(number(taken)?), number(refused)?),
            _ => return None,
        };
        Some(Self { taken, refused, unfinished })
    }
}

impl fmt::Display for LineAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OK")?;
        if let Some(taken) = self.taken {
            write!(f, " {taken}")?;
        }
        if self.refused > 0 {
            write!(f, " refused {}", self.refused)?;
        }
        if self.unfinished { f.write_str(" unfinished 1") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn acknowledgements_round_trip() {
        for text in ["OK", "OK 0", "OK 500", "OK 498 refused 2", "OK 2 unfinished 1", "OK 0 refused 2 unfinished 1"] {
            assert_eq!(LineAck::read(text.as_bytes()).await.unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "ok",
            "OK x",
            "OK 1 refused",
            "HTTP/1.1 200 OK",
            "OK -1",
            "OK 1 2",
            "OK unfinished 1",
            "OK 1 unfinished",
        ] {
            assert!(LineAck::read(wrong.as_bytes()).await.is_err(), "{wrong:?}");
        }
        let endless = tokio::io::repeat(b'O');
        assert!(LineAck::read(endless).await.is_err());
    }

    #[test]
    fn unsettled_lines_are_counted_for_resending() {
        let settled = |taken, refused| LineAck { taken, refused, unfinished: false }.settled(10);
        assert_eq!((settled(None, 0), settled(Some(4), 1), settled(Some(u64::MAX), 9)), (10, 5, 10));
    }
}
