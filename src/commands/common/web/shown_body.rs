//! The beginning of a message's body, as it is shown.

use serde::Serialize;

/// The length of the shown text, in bytes.
const MAX_TEXT: usize = 4096;
/// The number of shown bytes of a body that is not text.
const MAX_BINARY: usize = 256;
/// The same of a body that is opened.
const MAX_OPENED_TEXT: usize = 1 << 20;
const MAX_OPENED_BINARY: usize = 256 << 10;

/// The beginning of a body.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ShownBody {
    /// The length of the whole body, in bytes.
    size: usize,
    /// The beginning as text; of other bytes in hexadecimal digits, two for each byte.
    body: String,
    /// The body is not text.
    binary: bool,
    /// There is more.
    cut: bool,
}

impl ShownBody {
    /// Shows a body of `size` bytes, of which only the beginning is known.
    pub(super) fn beginning(body: &[u8], size: u64) -> Self {
        let shown = Self::new(body);
        let size = usize::try_from(size).unwrap_or(usize::MAX).max(body.len());
        Self { size, cut: shown.cut || size > body.len(), ..shown }
    }

    /// Shows a body in a list.
    pub(super) fn new(body: &[u8]) -> Self {
        Self::within(body, MAX_TEXT, MAX_BINARY)
    }

    /// Shows a body that is opened: all of it, unless it is very long.
    pub(super) fn opened(body: &[u8]) -> Self {
        Self::within(body, MAX_OPENED_TEXT, MAX_OPENED_BINARY)
    }

    fn within(body: &[u8], max_text: usize, max_binary: usize) -> Self {
        let beginning = &body[..body.len().min(max_text)];
        let text = match std::str::from_utf8(beginning) {
            Ok(text) => Some(text),
            // a character that is cut at the end
            Err(error) if error.error_len().is_none() && body.len() > max_text => {
                std::str::from_utf8(&beginning[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        };
        let is_text = |text: &&str| !text.contains('\0');
        match text.filter(is_text) {
            Some(text) => Self { size: body.len(), body: text.to_owned(), binary: false, cut: text.len() < body.len() },
            None => {
                let shown = &body[..body.len().min(max_binary)];
                let hex = shown.iter().map(|byte| format!("{byte:02x}")).collect();
                Self { size: body.len(), body: hex, binary: true, cut: shown.len() < body.len() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_binary_bodies_are_cut() {
        let shown = ShownBody::new("<b>ü</b>\u{1b}[2J".as_bytes());
        assert_eq!((shown.body.as_str(), shown.size, shown.binary, shown.cut), ("<b>ü</b>\u{1b}[2J", 13, false, false));
        let long = format!("x{}", "ü".repeat(MAX_TEXT));
        let shown = ShownBody::new(long.as_bytes());
        assert_eq!((shown.body.len(), shown.size, shown.cut), (MAX_TEXT - 1, 2 * MAX_TEXT + 1, true));
        let shown = ShownBody::new(&vec![0xff; 10 << 20]);
        assert_eq!((shown.body.len(), shown.size, shown.binary), (2 * MAX_BINARY, 10 << 20, true));
        let opened = ShownBody::opened(long.as_bytes());
        assert_eq!((opened.body.as_str(), opened.cut), (long.as_str(), false));
        assert!(ShownBody::opened("x".repeat(MAX_OPENED_TEXT + 1).as_bytes()).cut);
        assert_eq!(ShownBody::new(b"a\0b").body, "610062");
        assert_eq!(ShownBody::new(b"").body, "");
        assert!(ShownBody::new(b"ab\xc3").binary, "half a character at the end of the body");
    }
}
