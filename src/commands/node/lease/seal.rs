//! Marks and seals, which make heartbeats hard to forge: anybody may publish to their stream.

use ring::digest;

/// Random bytes of this run of the node. They never leave the process.
#[derive(Clone)]
pub(in crate::commands::node) struct NodeSecret([u8; 32]);

impl NodeSecret {
    pub(in crate::commands::node) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the mark of the heartbeat of this number. Other processes cannot know it before the
    /// heartbeat is published.
    pub(super) fn mark(&self, number: u64) -> String {
        self.derived(b"mark", number)
    }

    /// Returns the key of the claim that begins with this heartbeat. The key is published when the
    /// claim's lead ends.
    pub(super) fn key(&self, first_beat: u64) -> String {
        self.derived(b"hold", first_beat)
    }

    fn derived(&self, what: &[u8; 4], number: u64) -> String {
        hash(&[&self.0, what, &number.to_be_bytes()])
    }
}

/// Shows no byte of the secret.
impl std::fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeSecret")
    }
}

/// Returns the seal of a key. A holder's heartbeats carry the seal, and its release the key.
pub(super) fn seal_of(key: &str) -> String {
    hash(&[b"seal", key.as_bytes()])
}

/// Returns the first half of a SHA-256, in hexadecimal digits.
fn hash(parts: &[&[u8]]) -> String {
    let mut digest = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| digest.update(part));
    let mut half = [0; 16];
    half.copy_from_slice(&digest.finish().as_ref()[..16]);
    format!("{:032x}", u128::from_be_bytes(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_keys_and_seals_are_all_different() {
        let (secret, other) = (NodeSecret::new([1; 32]), NodeSecret::new([2; 32]));
        let all = [secret.mark(1), secret.mark(2), secret.key(1), seal_of(&secret.key(1)), other.mark(1), other.key(1)];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert!(distinct.len() == all.len() && all.iter().all(|text| text.len() == 32), "{all:?}");
        assert_eq!(secret.mark(1), NodeSecret::new([1; 32]).mark(1));
        assert_eq!(format!("{secret:?}"), "NodeSecret");
    }
}
