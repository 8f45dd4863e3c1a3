//! Why a connection could not be had, or ended.

use std::io;
use std::time::Duration;

use super::Address;
#[cfg(feature = "lookup")]
use super::HttpError;
use crate::proto::{FrameError, WireError};

/// What went wrong with one nsqd, and which.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: nothing listens there, the name does not resolve, the network is down.
    #[error("cannot reach nsqd at {address}: {source}")]
    Unreachable {
        /// Where.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time, while connecting or later.
    #[error("nsqd at {address} did not answer for {} s", .after.as_secs_f32())]
    Silent {
        /// Where.
        address: Address,
        /// How long was waited.
        after: Duration,
    },
    /// A frame was begun, and not finished in time.
    #[error("nsqd at {address} began a frame, and did not finish it within {} s", .after.as_secs())]
    Slow {
        /// Where.
        address: Address,
        /// How long was waited.
        after: Duration,
    },
    /// The connection ended.
    #[error("nsqd at {address} closed the connection{}", .source.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Closed {
        /// Where.
        address: Address,
        /// What the system said, if it was not a plain end.
        source: Option<io::Error>,
    },
    /// What came is not NSQ's protocol.
    #[error("{address}: {source}")]
    Frame {
        /// Where.
        address: Address,
        /// What was wrong with it.
        source: FrameError,
    },
    /// nsqd refused a command.
    #[error("{address}: {source}")]
    Refused {
        /// Where.
        address: Address,
        /// What it said.
        source: WireError,
    },
    /// nsqd answered out of turn.
    #[error("nsqd at {address} sent {what}, which was not expected here")]
    Unexpected {
        /// Where.
        address: Address,
        /// What it sent.
        what: String,
    },
    /// nsqd did what its protocol does not allow: it lies, or is broken.
    #[error("nsqd at {address} breaks the protocol: {what}")]
    Violation {
        /// Where.
        address: Address,
        /// What it did.
        what: String,
    },
    /// No nsqlookupd answered.
    #[cfg(feature = "lookup")]
    #[error(transparent)]
    Lookup(#[from] HttpError),
    /// There is nothing to connect to.
    #[error("no address given: name an nsqd or an nsqlookupd")]
    NoAddress,
}

impl Error {
    /// True if nsqd is to blame, by what it said: a new connection is of little use.
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
