//! The question before an action on streams and groups, and its words.

use mqueue::cluster::{ClusterState, QueueAction, QueueTarget};
use mqueue::plural::count;

/// Describes the action with the messages that the targets hold, and the number of nsqds, such as
/// `empty orders/billing with 12 messages on 1 nsqd`.
pub(crate) fn question(action: QueueAction, state: &ClusterState, targets: &[&QueueTarget]) -> String {
    let described = targets.iter().map(|target| {
        let places = state.places(action, target);
        let messages = places.iter().map(|(_, messages)| messages).sum::<u64>();
        format!("{target} with {} on {}", count(messages, "message"), count(places.len() as u64, "nsqd"))
    });
    format!("{} {}", words(action).0, described.collect::<Vec<_>>().join(", "))
}

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
