//! Heartbeats: the JSON messages that holders of the token publish to all nodes.

use serde::{Deserialize, Serialize};

use mqueue::proto::{MessageId, TopicName};

/// The settings that the nodes of a fleet must share. They are the token's body, and part of every
/// heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands::node) struct FleetConfig {
    /// The stream that events are published to.
    pub(in crate::commands::node) stream: TopicName,
    /// How long a lead lasts without a confirmed heartbeat, in milliseconds.
    pub(in crate::commands::node) lease_ms: u64,
}

/// One delivery of the token. nsqd counts the deliveries, and each has one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands::node) struct LeaseToken {
    pub(in crate::commands::node) id: MessageId,
    /// The message's attempts; they wrap at 65536.
    pub(in crate::commands::node) delivery: u16,
}

impl LeaseToken {
    /// Returns true if this is the very next delivery of the same token.
    pub(super) fn is_next_delivery_of(&self, other: &Self) -> bool {
        self.id == other.id && self.delivery == other.delivery.wrapping_add(1)
    }

    /// Returns true if this token is the older of the two.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.id < other.id
    }
}

/// The state of a holder of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::commands::node) enum Role {
    /// Waits until no other node can lead.
    Claiming,
    /// Leads, or will lead when this heartbeat comes back: its wait is over, or the token was
    /// released.
    Leading,
    /// Led until now, and requeues the token.
    Released,
}

/// A heartbeat of a node that holds the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands::node) struct Heartbeat {
    /// The node's name, which no other run of any node has.
    pub(in crate::commands::node) node: String,
    /// The heartbeat's number, counted by this node.
    pub(in crate::commands::node) number: u64,
    /// The token's id.
    token: String,
    delivery: u16,
    pub(in crate::commands::node) role: Role,
    /// The node's epoch if it leads, else the highest epoch that it knows.
    pub(in crate::commands::node) epoch: u64,
    #[serde(rename = "charter")]
    pub(in crate::commands::node) fleet: FleetConfig,
    /// The mark by which the node recognizes its own heartbeat.
    #[serde(default)]
    pub(super) mark: String,
    /// The holder's seal; in a release, the key to the seal.
    #[serde(default)]
    pub(super) seal: String,
}

impl Heartbeat {
    /// Creates a heartbeat without a mark and a seal.
    pub(super) fn new(node: &str, number: u64, token: LeaseToken, role: Role, epoch: u64, fleet: &FleetConfig) -> Self {
        let (node, fleet) = (node.to_owned(), fleet.clone());
        let (token, delivery) = (token.id.to_string(), token.delivery);
        Self { node, number, token, delivery, role, epoch, fleet, mark: String::new(), seal: String::new() }
    }

    pub(super) fn sealed(self, mark: String, seal: String) -> Self {
        Self { mark, seal, ..self }
    }

    /// Returns the token's delivery; `None` if the id is not a message id.
    pub(in crate::commands::node) fn token(&self) -> Option<LeaseToken> {
        let id = MessageId::from_slice(self.token.as_bytes())?;
        Some(LeaseToken { id, delivery: self.delivery })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_ordered_even_when_they_wrap() {
        let token = |id: &[u8; 16], delivery| LeaseToken { id: MessageId(*id), delivery };
        let (old, new) = (token(b"0000000000000001", 65535), token(b"0000000000000001", 0));
        assert!(new.is_next_delivery_of(&old) && !old.is_next_delivery_of(&new) && !old.is_next_delivery_of(&old));
        let other = token(b"0000000000000002", 1);
        assert!(old.is_older_than(&other) && !other.is_older_than(&old) && !other.is_next_delivery_of(&old));
    }

    #[test]
    fn a_heartbeat_round_trips() {
        let token = LeaseToken { id: MessageId(*b"0123456789abcdef"), delivery: 3 };
        let fleet = FleetConfig { stream: TopicName::new("foo").unwrap(), lease_ms: 10_000 };
        let beat = Heartbeat::new("a", 7, token, Role::Leading, 17, &fleet);
        let json = serde_json::to_string(&beat).unwrap();
        assert_eq!(serde_json::from_str::<Heartbeat>(&json).unwrap(), beat);
        let older = format!("{}}}", json.split(",\"mark\"").next().unwrap());
        assert!(older.len() < json.len() && older.contains("charter"), "{older}");
        assert_eq!(serde_json::from_str::<Heartbeat>(&older).unwrap(), beat, "of a version without seals");
        assert_eq!(beat.token(), Some(token));
        assert_eq!(Heartbeat { token: "x".to_owned(), ..beat }.token(), None);
    }
}
