//! The result of an action on one nsqd, as the commands print it and the web page logs it.

use serde::Serialize;

use mqueue::cluster::QueueOutcome;

/// The result on one nsqd, for JSON.
#[derive(Debug, Serialize)]
pub(crate) struct NsqdResult {
    pub(crate) nsqd: String,
    pub(crate) messages: u64,
    pub(crate) error: Option<String>,
}

impl From<QueueOutcome> for NsqdResult {
    fn from(outcome: QueueOutcome) -> Self {
        let error = outcome.result.err().map(|error| error.to_string());
        Self { nsqd: outcome.nsqd, messages: outcome.messages, error }
    }
}
