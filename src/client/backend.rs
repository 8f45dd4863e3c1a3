//! The implementation of NSQ's protocol on a connection: this crate, or with the feature
//! `tokio-nsq` the crate of that name.
//!
//! A backend implements the link, the task that owns a connection. The queue, the messages in
//! flight and the replies are outside the link, so links of both kinds are interchangeable.
//! `docs/decisions/tokio-nsq.md` lists the limits of tokio-nsq that this exposes.

use super::{Error, Security};

/// The implementation of NSQ's protocol that a publisher or consumer uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientBackend {
    /// This crate.
    #[default]
    Own,
    /// The crate tokio-nsq 0.14, for comparison.
    #[cfg(feature = "tokio-nsq")]
    TokioNsq,
}

impl ClientBackend {
    /// The backends of this build.
    pub const ALL: &[Self] = &[
        Self::Own,
        #[cfg(feature = "tokio-nsq")]
        Self::TokioNsq,
    ];

    /// The backend's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            #[cfg(feature = "tokio-nsq")]
            Self::TokioNsq => "tokio-nsq",
        }
    }

    /// Checks that the backend has what is asked of connections: tokio-nsq would connect without
    /// it.
    #[cfg_attr(not(feature = "tokio-nsq"), allow(unused_variables))]
    pub(super) fn check(self, security: &Security) -> Result<(), Error> {
        match self {
            Self::Own => Ok(()),
            #[cfg(feature = "tokio-nsq")]
            Self::TokioNsq if security.is_plain() => Ok(()),
            #[cfg(feature = "tokio-nsq")]
            Self::TokioNsq => Err(Error::TokioNsqIsPlain),
        }
    }
}

/// tokio-nsq's settings for publishing and consuming: its shortest flush interval, because it sends
/// buffered commands only then.
#[cfg(feature = "tokio-nsq")]
pub(super) fn tokio_nsq_settings() -> tokio_nsq::NSQConfigShared {
    tokio_nsq::NSQConfigShared::new().set_flush_interval(std::time::Duration::from_millis(1)).set_user_agent(concat!(
        "mqueue/",
        env!("CARGO_PKG_VERSION"),
        " tokio-nsq/0.14"
    ))
}
