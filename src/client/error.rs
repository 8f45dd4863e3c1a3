//! Errors of connections to nsqd.

use std::fmt;
use std::io;
use std::time::Duration;

use super::Address;
#[cfg(feature = "lookup")]
use super::HttpError;
use crate::io_error::describe;
use crate::proto::{FrameError, WireError};

/// The error of a connection to one nsqd, with its address.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Connecting failed: nothing listens there, the name does not resolve, or the network is down.
    #[error("cannot reach nsqd at {address}: {}", describe(source))]
    Unreachable {
        /// nsqd's address.
        address: Address,
        /// The system's error.
        source: io::Error,
    },
    /// nsqd did not answer in time, while connecting or later.
    #[error("nsqd at {address} did not answer for {} s", .after.as_secs_f32())]
    Silent {
        /// nsqd's address.
        address: Address,
        /// The time limit that passed.
        after: Duration,
    },
    /// nsqd began a frame and did not complete it in time.
    #[error("nsqd at {address} began a frame, and did not finish it within {} s", .after.as_secs())]
    Slow {
        /// nsqd's address.
        address: Address,
        /// The time limit that passed.
        after: Duration,
    },
    /// The TLS handshake failed.
    #[cfg(feature = "tls")]
    #[error("no TLS with nsqd at {address}: {}", crate::net::tls::explain(source))]
    Tls {
        /// Where.
        address: Address,
        /// The reason.
        source: io::Error,
    },
    /// nsqd does not offer what was asked for, or asks for what was not given.
    #[error("nsqd at {address} {reason}")]
    Security {
        /// Where.
        address: Address,
        /// The reason, with the flag that changes it.
        reason: String,
    },
    /// TLS, compression or AUTH was asked of tokio-nsq.
    #[cfg(feature = "tokio-nsq")]
    #[error("tokio-nsq connects without TLS, compression and AUTH: use --client own for these")]
    TokioNsqIsPlain,
    /// nsqd or the network closed the connection.
    #[error("nsqd at {address} closed the connection{}", .source.as_ref().map(|e| format!(": {}", describe(e))).unwrap_or_default())]
    Closed {
        /// nsqd's address.
        address: Address,
        /// The system's error; `None` if nsqd closed the connection in order.
        source: Option<io::Error>,
    },
    /// The peer does not speak NSQ's protocol.
    #[error("{address}: {source}")]
    Frame {
        /// nsqd's address.
        address: Address,
        /// The violation.
        source: FrameError,
    },
    /// nsqd refused a command.
    #[error("{address}: {source}")]
    Refused {
        /// nsqd's address.
        address: Address,
        /// nsqd's error.
        source: WireError,
    },
    /// nsqd sent a frame that is not allowed at this point.
    #[error("nsqd at {address} sent {what}, which was not expected here")]
    Unexpected {
        /// nsqd's address.
        address: Address,
        /// The unexpected frame.
        what: String,
    },
    /// nsqd violated the protocol.
    #[error("nsqd at {address} breaks the protocol: {what}")]
    Violation {
        /// nsqd's address.
        address: Address,
        /// The violation, as part of a sentence.
        what: String,
    },
    /// No nsqlookupd answered.
    #[cfg(feature = "lookup")]
    #[error(transparent)]
    Lookup(#[from] HttpError),
    /// The configuration names no address.
    #[error("no address given: name an nsqd or an nsqlookupd")]
    NoAddress,
}

/// Prints the error's text: `main` and `unwrap` show errors by this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// True if nsqd was reached and this client is refused, by nsqd or by its own demands: trying
    /// again changes nothing until somebody changes the settings of one of them.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Security { .. } => true,
            #[cfg(feature = "tls")]
            Self::Tls { .. } => true,
            _ => false,
        }
    }

    /// True if nsqd's own behaviour caused the error, so that a new connection is of little use.
    pub(crate) fn is_misconduct(&self) -> bool {
        matches!(
            self,
            Self::Frame { .. }
                | Self::Slow { .. }
                | Self::Refused { .. }
                | Self::Unexpected { .. }
                | Self::Violation { .. }
        )
    }
}
