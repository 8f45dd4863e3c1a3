//! Who speaks NSQ's protocol on a connection: this crate, or, with the feature `tokio-nsq`, the crate of that name.
//!
//! The seam is the link, the task that owns a connection: what waits, what is in flight and what is to be said stand outside it, so that a link
//! of either kind can be put in its place. What tokio-nsq leaves undone shows there, and `docs/decisions/tokio-nsq.md` has it.

/// The client of a connection.
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
    /// All that this build has.
    pub const ALL: &[Self] = &[
        Self::Own,
        #[cfg(feature = "tokio-nsq")]
        Self::TokioNsq,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            #[cfg(feature = "tokio-nsq")]
            Self::TokioNsq => "tokio-nsq",
        }
    }
}

/// tokio-nsq's settings, on both ways: its shortest flush interval, for what it has buffered waits for that.
#[cfg(feature = "tokio-nsq")]
pub(super) fn tokio_nsq_settings() -> tokio_nsq::NSQConfigShared {
    tokio_nsq::NSQConfigShared::new().set_flush_interval(std::time::Duration::from_millis(1)).set_user_agent(concat!(
        "mqueue/",
        env!("CARGO_PKG_VERSION"),
        " tokio-nsq/0.14"
    ))
}
