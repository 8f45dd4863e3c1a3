//! nsqd's error codes, and errors as they travel.

use std::fmt;

use bytes::Bytes;

use super::excerpt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// The first word of an error frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
            /// A code that nsqd 1.3.0 does not have.
            Unknown,
        }

        impl ErrorCode {
            /// Every code that nsqd 1.3.0 sends, and E_FENCED.
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
    /// The first four bytes were no protocol that nsqd speaks.
    BadProtocol = "E_BAD_PROTOCOL",
    /// A body of the wrong size or content (IDENTIFY, AUTH, MPUB).
    BadBody = "E_BAD_BODY",
    /// A topic's name outside the rule.
    BadTopic = "E_BAD_TOPIC",
    /// A channel's name outside the rule.
    BadChannel = "E_BAD_CHANNEL",
    /// A message that is empty or too large.
    BadMessage = "E_BAD_MESSAGE",
    /// PUB could not be carried out (nsqd is exiting, or its disk fails).
    PubFailed = "E_PUB_FAILED",
    /// MPUB could not be carried out.
    MpubFailed = "E_MPUB_FAILED",
    /// DPUB could not be carried out.
    DpubFailed = "E_DPUB_FAILED",
    /// SUB could not be carried out (`--max-channel-consumers`, exiting).
    SubFailed = "E_SUB_FAILED",
    /// FIN of a message that is not in flight on this connection.
    FinFailed = "E_FIN_FAILED",
    /// REQ of a message that is not in flight on this connection.
    ReqFailed = "E_REQ_FAILED",
    /// TOUCH of a message that is not in flight on this connection.
    TouchFailed = "E_TOUCH_FAILED",
    /// FPUB with an epoch that is over. Only mqueue's broker has it.
    Fenced = "E_FENCED",
    /// IDENTIFY asked for what does not go together.
    IdentifyFailed = "E_IDENTIFY_FAILED",
    /// A command came before AUTH, where AUTH is wanted.
    AuthFirst = "E_AUTH_FIRST",
    /// AUTH on an nsqd without it.
    AuthDisabled = "E_AUTH_DISABLED",
    /// The authentication server did not answer.
    AuthFailed = "E_AUTH_FAILED",
    /// The authentication could not be used.
    AuthError = "E_AUTH_ERROR",
    /// Not permitted.
    Unauthorized = "E_UNAUTHORIZED",
}

impl ErrorCode {
    /// True unless nsqd keeps the connection after it. Only the answers to a late FIN, REQ, TOUCH or FPUB are not fatal.
    pub fn is_fatal(self) -> bool {
        !matches!(self, Self::FinFailed | Self::ReqFailed | Self::TouchFailed | Self::Fenced)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error frame as received: the code, and all that nsqd said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nsqd said: {}{}", excerpt(.text), self.remedy())]
pub struct WireError {
    /// The first word.
    pub code: ErrorCode,
    /// The whole data, code included.
    pub text: Bytes,
}

impl WireError {
    /// Reads an error frame's data.
    pub fn parse(text: Bytes) -> Self {
        let code = text.split(|b| *b == b' ').next().unwrap_or_default();
        Self { code: ErrorCode::from_bytes(code), text }
    }

    /// What to do about a refusal of this client as it is, whatever it asks for.
    fn remedy(&self) -> &'static str {
        match self.code {
            ErrorCode::AuthFirst | ErrorCode::Unauthorized => {
                ": mqueue does not log in: use an nsqd without --auth-http-address"
            }
            ErrorCode::Invalid if self.text.ends_with(b"(TLS required)") => {
                ": mqueue does not speak TLS: use an nsqd without --tls-required, or a tunnel to it"
            }
            _ => "",
        }
    }
}

/// Why a command was refused: what a broker answers with, in nsqd's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Answered with an error frame; the connection is closed after it if the code is fatal.
    #[error("{code} {text}")]
    Answer {
        /// The frame's first word.
        code: ErrorCode,
        /// What follows it. A peer's bytes that are no UTF-8 are U+FFFD in it (nsqd sends them back as they came).
        text: String,
    },
    /// A line beyond [`super::Limits::max_line`]: the connection is closed without an answer, as nsqd does.
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
    fn a_refusal_of_the_client_says_what_to_do() {
        let said = |text: &'static str| WireError::parse(text.as_bytes().into()).to_string();
        assert!(said("E_INVALID cannot PUB in current state (TLS required)").contains("--tls-required"));
        assert!(said("E_AUTH_FIRST AUTH required before SUB").contains("--auth-http-address"));
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
