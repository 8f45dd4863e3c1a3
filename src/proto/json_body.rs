//! A body in JSON: its text, or base64 if it is not UTF-8.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The encoding of a body that is not written as its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyEncoding {
    /// Base64 with padding.
    Base64,
}

impl BodyEncoding {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base64 => "base64",
        }
    }
}

/// Returns a body for JSON: its text, or base64 if it is not UTF-8.
pub fn text(body: &[u8]) -> (Cow<'_, str>, Option<BodyEncoding>) {
    match std::str::from_utf8(body) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (Cow::Owned(STANDARD.encode(body)), Some(BodyEncoding::Base64)),
    }
}

/// Returns a body for JSON as [`text`] does, but as base64 if its text would be more than twice as
/// long: JSON writes six characters for most control characters.
pub fn short_text(body: &[u8]) -> (Cow<'_, str>, Option<BodyEncoding>) {
    let escapes = body.iter().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..0x20 => 5,
        _ => 0,
    });
    match escapes.sum::<usize>() > body.len() {
        true => (Cow::Owned(STANDARD.encode(body)), Some(BodyEncoding::Base64)),
        false => text(body),
    }
}

/// Returns the body that a text with this encoding stands for.
///
/// # Errors
/// Fails if the text is not base64, but should be.
pub fn decode(text: Cow<'_, str>, encoding: Option<BodyEncoding>) -> Result<Bytes, base64::DecodeError> {
    match encoding {
        None => Ok(text.into_owned().into()),
        Some(BodyEncoding::Base64) => STANDARD.decode(text.as_bytes()).map(Bytes::from),
    }
}
