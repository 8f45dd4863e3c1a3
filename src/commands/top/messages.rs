//! The list of a stream's or group's messages on the screen, as mqueue's broker shows them without
//! their delivery.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::commands::common::queue_peek::{QueuePlaces, first_messages};
use mqueue::cluster::{ClusterApis, QueueTarget};
use mqueue::proto::{PeekState, PeekedMessage, escape_while};

/// The most messages in each state.
const MAX_MESSAGES: usize = 100;
/// The most bytes of each body that are asked for, and the most columns that are kept.
const MAX_BODY: usize = 1024;
/// The time that a broker has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The list on the screen.
#[derive(Debug)]
pub(super) struct MessageList {
    pub(super) target: QueueTarget,
    /// The messages that wait, are in flight and are deferred, each in their order.
    pub(super) rows: Vec<MessageRow>,
    /// False before the brokers have answered.
    pub(super) is_known: bool,
    /// The reasons why messages are missing.
    pub(super) notes: Vec<String>,
    pub(super) first_row: usize,
}

/// A message.
#[derive(Debug, Clone)]
pub(super) struct MessageRow {
    pub(super) state: PeekState,
    pub(super) age: Duration,
    pub(super) attempts: u16,
    /// The beginning of the body, in printable characters; the reason if it cannot be read.
    pub(super) body: String,
}

impl MessageList {
    /// A list that waits for the brokers' answers.
    pub(super) fn new(target: QueueTarget) -> Self {
        Self { target, rows: Vec::new(), is_known: false, notes: Vec::new(), first_row: 0 }
    }

    /// Takes newer answers, and stays at its place.
    pub(super) fn renew(&mut self, newer: Self) {
        let first_row = self.first_row.min(newer.rows.len().saturating_sub(1));
        *self = Self { first_row, ..newer };
    }

    /// Asks the brokers.
    pub(super) async fn ask(cluster: &ClusterApis, target: QueueTarget) -> Self {
        let QueuePlaces { brokers, nsqds, errors } = QueuePlaces::find(cluster, &target).await;
        let mut list = Self { is_known: true, notes: errors, ..Self::new(target) };
        if !nsqds.is_empty() {
            let stream = &list.target.stream;
            list.notes.push(format!(
                "nsqd at {} shows no message without delivering it: mqueue tail {stream} shows new ones",
                nsqds.join(", ")
            ));
        }
        let states: &[PeekState] = match list.target.group {
            Some(_) => &[PeekState::Waiting, PeekState::InFlight, PeekState::Deferred],
            None => &[PeekState::Held],
        };
        for state in states {
            let limit = MAX_MESSAGES.div_ceil(brokers.len().max(1));
            let query = first_messages(&list.target, *state, limit).with_max_body(MAX_BODY);
            let answers = join_all(brokers.iter().map(|nsqd| timeout(ANSWER_TIMEOUT, nsqd.peek(&query)))).await;
            for (nsqd, answer) in brokers.iter().zip(answers) {
                match answer {
                    Ok(Ok(page)) => list.rows.extend(page.messages.iter().map(MessageRow::new)),
                    Ok(Err(error)) => list.note(error.to_string()),
                    Err(_) => list.note(format!("nsqd at {nsqd} did not answer in time")),
                }
            }
        }
        list
    }

    /// Notes a reason once.
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

impl MessageRow {
    fn new(message: &PeekedMessage) -> Self {
        let mut body = String::new();
        let mut left = MAX_BODY;
        // longer than any line, so that the line's end shows that there is more
        escape_while(&message.body, &mut body, |next| {
            left = left.saturating_sub(next.len());
            left > 0
        });
        if let Some(error) = &message.error {
            body = format!("cannot be read: {error}");
        }
        let PeekedMessage { state, age, attempts, .. } = *message;
        Self { state, age, attempts, body }
    }
}
