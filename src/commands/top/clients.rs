//! The list of a stream's or group's clients on the screen.

use crate::commands::common::queue_clients::{ClientRow, QueueClients};
use mqueue::cluster::{ClusterApis, QueueTarget};

/// Clients that are kept: those with the most messages in flight.
const MAX_CLIENTS: usize = 2000;

/// The list on the screen.
#[derive(Debug)]
pub(super) struct ClientList {
    pub(super) target: QueueTarget,
    /// The clients; those with the most messages in flight first.
    pub(super) rows: Vec<ClientRow>,
    /// The number of all clients; `None` before the nsqds have answered.
    pub(super) total: Option<usize>,
    /// The first nsqd's error.
    pub(super) error: Option<String>,
    pub(super) first_row: usize,
}

impl ClientList {
    /// A list that waits for the nsqds' answers.
    pub(super) fn new(target: QueueTarget) -> Self {
        Self { target, rows: Vec::new(), total: None, error: None, first_row: 0 }
    }

    /// Takes newer answers, and stays at its place.
    pub(super) fn renew(&mut self, newer: Self) {
        let first_row = self.first_row.min(newer.rows.len().saturating_sub(1));
        *self = Self { first_row, ..newer };
    }

    /// Asks the nsqds.
    pub(super) async fn ask(cluster: &ClusterApis, target: QueueTarget) -> Self {
        let QueueClients { rows, total, errors, .. } = QueueClients::ask(cluster, &target, MAX_CLIENTS).await;
        Self { rows, total: Some(total), error: errors.into_iter().next(), ..Self::new(target) }
    }
}
