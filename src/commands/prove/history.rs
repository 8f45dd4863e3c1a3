//! A record of everything that a case's clients saw, by which it is judged.

use std::time::Instant;

use serde::Serialize;

use super::faults::FaultKind;

/// The record of a case. Message `n` is at index `n`.
#[derive(Debug, Default)]
pub(super) struct CaseHistory {
    pub(super) messages: Vec<MessageRecord>,
    /// Faults that ended the program, and failing syncs, in their order.
    pub(super) faults: Vec<FaultRecord>,
    /// Deliveries of what was never published, described.
    pub(super) invented: Vec<String>,
    /// Publishes that were refused, and the last reason.
    pub(super) refused: u64,
    pub(super) refusal: Option<String>,
}

/// A message.
#[derive(Debug)]
pub(super) struct MessageRecord {
    /// The publisher, whose messages are numbered in its order.
    pub(super) publisher: usize,
    /// Moment before which no deferred message may arrive.
    pub(super) due: Option<Instant>,
    pub(super) acknowledged: Option<Instant>,
    pub(super) deliveries: Vec<DeliveryRecord>,
}

/// A delivery of a message.
#[derive(Debug)]
pub(super) struct DeliveryRecord {
    pub(super) at: Instant,
    /// The number of starts of the program before it.
    pub(super) start: usize,
    /// The count that the target sent; `None` if it counts none.
    pub(super) attempts: Option<u32>,
    pub(super) reply: ConsumerReply,
}

/// The consumer's reply to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConsumerReply {
    None,
    /// Finished.
    Finish {
        confirmed: Option<Instant>,
    },
    /// Requeued, not before this moment.
    Requeue {
        due: Instant,
        confirmed: Option<Instant>,
    },
}

/// A fault that happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct FaultRecord {
    pub(super) kind: FaultKind,
    pub(super) at: Instant,
    /// The end of a trouble of the disk.
    pub(super) until: Instant,
}

/// Numbers of a case or of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct MessageCounts {
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) delivered: u64,
    /// Deliveries of a message that had been delivered before.
    pub(super) again: u64,
}

impl CaseHistory {
    /// Returns true if a publish was acknowledged since this moment.
    pub(super) fn is_acknowledged_since(&self, moment: Instant) -> bool {
        self.messages.iter().rev().any(|message| message.acknowledged.is_some_and(|at| at >= moment))
    }

    /// Counts the messages that must still arrive: acknowledged, and not finished.
    pub(super) fn expected(&self) -> usize {
        self.messages.iter().filter(|message| message.is_expected()).count()
    }

    pub(super) fn counts(&self) -> MessageCounts {
        let delivered: u64 = self.messages.iter().map(|message| message.deliveries.len() as u64).sum();
        let once = self.messages.iter().filter(|message| !message.deliveries.is_empty()).count() as u64;
        MessageCounts {
            published: self.messages.len() as u64,
            acknowledged: self.messages.iter().filter(|message| message.acknowledged.is_some()).count() as u64,
            refused: self.refused,
            delivered,
            again: delivered - once,
        }
    }
}

impl MessageRecord {
    /// Returns true for a message that was acknowledged and never finished.
    pub(super) fn is_expected(&self) -> bool {
        self.acknowledged.is_some()
            && !self.deliveries.iter().any(|delivery| matches!(delivery.reply, ConsumerReply::Finish { .. }))
    }
}
