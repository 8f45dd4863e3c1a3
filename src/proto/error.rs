//! nsqd's error codes and error frames.

use std::fmt;

use bytes::Bytes;

use super::excerpt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// The first word of an error frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
            /// Any other code.
            Unknown,
        }

        impl ErrorCode {
            /// Every code that nsqd 1.3.0 sends, and mqueue's E_FENCED.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown => "E_UNKNOWN",
                }
            }

            fn from_bytes(code: &[u8]) -> Self {
                Self::ALL.iter().copied().find(|known| known.as_str().as_bytes() == code).unwrap_or(Self::Unknown)
            }
        }
    };
}

codes! {
    /// A command that is unknown, malformed or not allowed in the connection's state.
    Invalid = "E_INVALID",
    /// The first four bytes name no protocol version that nsqd speaks.
    BadProtocol = "E_BAD_PROTOCOL",
    /// A body of the wrong size or content (IDENTIFY, AUTH, MPUB).
    BadBody = "E_BAD_BODY",
    /// An invalid topic name.
    BadTopic = "E_BAD_TOPIC",
    /// An invalid channel name.
    BadChannel = "E_BAD_CHANNEL",
    /// A message that is empty or too large.
    BadMessage = "E_BAD_MESSAGE",
    /// PUB failed (nsqd is exiting, or its disk fails).
    PubFailed = "E_PUB_FAILED",
    /// MPUB failed.
    MpubFailed = "E_MPUB_FAILED",
    /// DPUB failed.
    DpubFailed = "E_DPUB_FAILED",
    /// SUB failed (`--max-channel-consumers`, or nsqd is exiting).
    SubFailed = "E_SUB_FAILED",
    /// FIN of a message that is not in flight on this connection.
    FinFailed = "E_FIN_FAILED",
    /// REQ of a message that is not in flight on this connection.
    ReqFailed = "E_REQ_FAILED",
    /// TOUCH of a message that is not in flight on this connection.
    TouchFailed = "E_TOUCH_FAILED",
    /// FPUB with an epoch below the topic's. Only mqueue's broker sends it.
    Fenced = "E_FENCED",
    /// IDENTIFY asked for settings that exclude each other.
    IdentifyFailed = "E_IDENTIFY_FAILED",
    /// A command came before AUTH on an nsqd that requires AUTH.
    AuthFirst = "E_AUTH_FIRST",
    /// AUTH on an nsqd without an authentication server.
    AuthDisabled = "E_AUTH_DISABLED",
    /// The authentication server did not answer.
    AuthFailed = "E_AUTH_FAILED",
    /// The authentication server's answer is unusable.
    AuthError = "E_AUTH_ERROR",
    /// The client may not use this topic or channel.
    Unauthorized = "E_UNAUTHORIZED",
}

impl ErrorCode {
    /// True if nsqd closes the connection after this error. Only the errors for a late FIN, REQ or
    /// TOUCH and for a fenced FPUB keep it open.
    pub fn is_fatal(self) -> bool {
        !matches!(self, Self::FinFailed | Self::ReqFailed | Self::TouchFailed | Self::Fenced)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A received error frame: the code, and nsqd's whole text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nsqd said: {}{}", excerpt(.text), self.remedy())]
pub struct WireError {
    /// The first word of the text.
    pub code: ErrorCode,
    /// The frame's data, code included.
    pub text: Bytes,
}

impl WireError {
    /// Parses an error frame's data.
    pub fn parse(text: Bytes) -> Self {
        let code = text.split(|b| *b == b' ').next().unwrap_or_default();
        Self { code: ErrorCode::from_bytes(code), text }
    }

    /// The fix for a refusal that concerns this client as such, whatever it asks for.
    fn remedy(&self) -> &'static str {
        match self.code {
            ErrorCode::AuthFirst | ErrorCode::Unauthorized => {
                ": nsqd wants AUTH (--auth-http-address): give the secret of a client that may do this with --auth-secret-file"
            }
            ErrorCode::Invalid if self.text.ends_with(b"(TLS required)") => {
                ": nsqd requires TLS (--tls-required): connect with --tls"
            }
            _ => "",
        }
    }
}

/// The refusal of a command, with nsqd's texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Answered with an error frame; the connection is closed after it if the code is fatal.
    #[error("{code} {text}")]
    Answer {
        /// The error frame's first word.
        code: ErrorCode,
        /// The text after the code. A peer's invalid UTF-8 is U+FFFD in it (nsqd sends the bytes
        /// back unchanged).
        text: String,
    },
    /// A line longer than [`super::Limits::max_line`]: the connection is closed without an answer,
    /// as nsqd does.
    #[error("command line too long")]
    LineTooLong,
}

impl ProtocolError {
    pub(crate) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::Answer { code, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_first_word() {
        let error = WireError::parse(Bytes::from_static(b"E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight"));
        assert_eq!(error.code, ErrorCode::FinFailed);
        assert!(!error.code.is_fatal());
    }

    #[test]
    fn errors_about_tls_and_auth_name_the_fix() {
        let said = |text: &'static str| WireError::parse(text.as_bytes().into()).to_string();
        assert!(said("E_INVALID cannot PUB in current state (TLS required)").contains("--tls"));
        assert!(said("E_AUTH_FIRST AUTH required before SUB").contains("--auth-secret-file"));
        assert_eq!(said("E_INVALID cannot SUB in current state"), "nsqd said: E_INVALID cannot SUB in current state");
    }

    #[test]
    fn only_four_codes_leave_the_connection_open() {
        let open: Vec<_> = ErrorCode::ALL.iter().filter(|code| !code.is_fatal()).map(|code| code.as_str()).collect();
        assert_eq!(open, ["E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED", "E_FENCED"]);
    }

    #[test]
    fn an_unknown_code_is_fatal() {
        assert!(WireError::parse(Bytes::from_static(b"E_NEW thing")).code.is_fatal());
        assert!(WireError::parse(Bytes::new()).code.is_fatal());
    }
}
