//! What nodes tell each other about the token, as JSON in messages.

use serde::{Deserialize, Serialize};

use mqueue::proto::{MessageId, TopicName};

/// What the nodes of a fleet have to agree on. It is the token's body, and part of every beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands::node) struct Charter {
    /// Where events go.
    pub(in crate::commands::node) stream: TopicName,
    /// How long the lead lasts without a proof, in milliseconds.
    pub(in crate::commands::node) lease_ms: u64,
}

/// The token as one delivery of it: nsqd counts them, and each has one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands::node) struct Token {
    pub(in crate::commands::node) id: MessageId,
    /// The message's attempts. They wrap.
    pub(in crate::commands::node) delivery: u16,
}

impl Token {
    /// True if this is the very next delivery of the same token.
    pub(super) fn is_next_of(&self, other: &Self) -> bool {
        self.id == other.id && self.delivery == other.delivery.wrapping_add(1)
    }

    /// True for the older of two tokens.
    pub(super) fn outranks(&self, other: &Self) -> bool {
        self.id < other.id
    }
}

/// What a holder does with the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::commands::node) enum Role {
    /// Waits until nobody else can lead.
    Claiming,
    /// Leads, or will with this beat: its wait is over, or the token was released.
    Leading,
    /// Led until now, and gives the token back.
    Released,
}

/// A sign of life from who holds the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands::node) struct Beat {
    /// The node, by a name that no other run of any node has.
    pub(in crate::commands::node) node: String,
    /// Counts this node's beats.
    pub(in crate::commands::node) number: u64,
    /// The token's id.
    token: String,
    delivery: u16,
    pub(in crate::commands::node) role: Role,
    /// The node's epoch if it leads, else the highest that it knows.
    pub(in crate::commands::node) epoch: u64,
    pub(in crate::commands::node) charter: Charter,
    /// By this the node knows that the beat is its own.
    #[serde(default)]
    pub(super) mark: String,
    /// The holder's seal; in a release the key to it.
    #[serde(default)]
    pub(super) seal: String,
}

impl Beat {
    /// Without a mark and a seal.
    pub(super) fn new(node: &str, number: u64, token: Token, role: Role, epoch: u64, charter: &Charter) -> Self {
        let (node, charter) = (node.to_owned(), charter.clone());
        let (token, delivery) = (token.id.to_string(), token.delivery);
        Self { node, number, token, delivery, role, epoch, charter, mark: String::new(), seal: String::new() }
    }

    pub(super) fn sealed(self, mark: String, seal: String) -> Self {
        Self { mark, seal, ..self }
    }

    /// What it is about; `None` if that is no message's id.
    pub(in crate::commands::node) fn token(&self) -> Option<Token> {
        let id = MessageId::from_slice(self.token.as_bytes())?;
        Some(Token { id, delivery: self.delivery })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_told_apart_also_where_they_wrap() {
        let token = |id: &[u8; 16], delivery| Token { id: MessageId(*id), delivery };
        let (old, new) = (token(b"0000000000000001", 65535), token(b"0000000000000001", 0));
        assert!(new.is_next_of(&old) && !old.is_next_of(&new) && !old.is_next_of(&old));
        let other = token(b"0000000000000002", 1);
        assert!(old.outranks(&other) && !other.outranks(&old) && !other.is_next_of(&old));
    }

    #[test]
    fn a_beat_is_read_as_it_was_written() {
        let token = Token { id: MessageId(*b"0123456789abcdef"), delivery: 3 };
        let charter = Charter { stream: TopicName::new("foo").unwrap(), lease_ms: 10_000 };
        let beat = Beat::new("a", 7, token, Role::Leading, 17, &charter);
        let json = serde_json::to_string(&beat).unwrap();
        assert_eq!(serde_json::from_str::<Beat>(&json).unwrap(), beat);
        let older = format!("{}}}", json.split(",\"mark\"").next().unwrap());
        assert!(older.len() < json.len() && older.contains("charter"), "{older}");
        assert_eq!(serde_json::from_str::<Beat>(&older).unwrap(), beat, "of a version without seals");
        assert_eq!(beat.token(), Some(token));
        assert_eq!(Beat { token: "x".to_owned(), ..beat }.token(), None);
    }
}
