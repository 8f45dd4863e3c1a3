//! The store of a fleet: the I/O for its token, its heartbeats and its events.

use super::lease::{LeaseAction, LeaseEvent};

/// An event of a store.
#[derive(Debug)]
pub(super) enum StoreEvent {
    /// An event for the lease.
    Lease(LeaseEvent),
    /// The store has accepted a generated event.
    EventStored,
}

/// A store. A lost connection is replaced, after [`LeaseEvent::Disconnected`] or
/// [`LeaseEvent::MonitorLost`].
pub(super) trait FleetStore {
    /// Waits for the next event; the first ones are those of the open connections. Cancel-safe.
    async fn next(&mut self) -> StoreEvent;

    /// Executes an action of the lease; returns the event that follows at once. Without a connection
    /// an action about the token has no effect: a lost connection has lost the token.
    fn execute(&mut self, action: LeaseAction) -> Option<LeaseEvent>;

    /// Sends a generated event of this epoch, whose lease this node holds.
    fn publish(&mut self, epoch: u64, body: String);

    /// Returns true if another event may be sent before those that are not accepted yet.
    fn has_room(&self) -> bool;

    /// Returns the name of the token.
    fn token_name(&self) -> String;

    /// Closes the connections after everything is sent.
    async fn close(self);
}
