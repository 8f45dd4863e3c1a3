//! Actions on streams and groups, as `create`, `pause`, `unpause`, `empty` and `delete` print them
//! and the web page logs them.

use serde::Serialize;

use mqueue::cluster::{QueueAction, QueueOutcome};

/// The verb, and its past participle.
pub(crate) fn words(action: QueueAction) -> (&'static str, &'static str) {
    match action {
        QueueAction::Create => ("create", "created"),
        QueueAction::Pause => ("pause", "paused"),
        QueueAction::Unpause => ("unpause", "unpaused"),
        QueueAction::Empty => ("empty", "emptied"),
        QueueAction::Delete => ("delete", "deleted"),
    }
}

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
