//! What a beat carries that cannot be made up: everybody may publish to the stream of beats.

use ring::digest;

/// Bytes that no other run of any node has, and that never leave this one.
#[derive(Clone)]
pub(in crate::commands::node) struct Secret([u8; 32]);

impl Secret {
    pub(in crate::commands::node) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Marks the beat of this number: before it is published nobody else can know it.
    pub(super) fn mark(&self, number: u64) -> String {
        self.derived(b"mark", number)
    }

    /// The key of the hold that begins with this beat, published when its lead is over.
    pub(super) fn key(&self, first_beat: u64) -> String {
        self.derived(b"hold", first_beat)
    }

    fn derived(&self, what: &[u8; 4], number: u64) -> String {
        hash(&[&self.0, what, &number.to_be_bytes()])
    }
}

/// Shows nothing of it.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The seal that a key belongs to. A holder's beats carry the seal, and its release the key.
pub(super) fn seal_of(key: &str) -> String {
    hash(&[b"seal", key.as_bytes()])
}

/// Half of a SHA-256, in hexadecimal digits.
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
    fn marks_and_keys_differ_and_tell_nothing_of_each_other() {
        let (secret, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let all = [secret.mark(1), secret.mark(2), secret.key(1), seal_of(&secret.key(1)), other.mark(1), other.key(1)];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert!(distinct.len() == all.len() && all.iter().all(|text| text.len() == 32), "{all:?}");
        assert_eq!(secret.mark(1), Secret::new([1; 32]).mark(1));
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
