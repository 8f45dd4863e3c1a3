//! Errors of messages that were not published.

use mqueue::client::PublishError;
use mqueue::proto::{ErrorCode, WireError};

/// Reason why a message was not published.
#[derive(Debug, Clone)]
pub(super) enum Unpublished {
    /// The message is over nsqd's limit, in bytes.
    TooLarge { limit: u64 },
    /// Any other error.
    Failed(PublishError),
}

impl From<PublishError> for Unpublished {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::Refused(refusal) => limit_in(refusal).map(|limit| Self::TooLarge { limit }),
            _ => None,
        }
        .unwrap_or(Self::Failed(error))
    }
}

impl Unpublished {
    /// Returns true if any other message would fail, too: publishing on would only cost a
    /// connection for each.
    pub(super) fn applies_to_all(&self) -> bool {
        matches!(self, Self::Failed(PublishError::Refused(_)))
    }
}

/// Reads the limit from nsqd's refusal of a message: `E_BAD_MESSAGE PUB message too big 2000000 >
/// 1048576` (nsqd `protocol_v2.go`).
fn limit_in(refusal: &WireError) -> Option<u64> {
    let text = std::str::from_utf8(&refusal.text).ok()?;
    let (_, limit) = text.rsplit_once('>').filter(|_| refusal.code == ErrorCode::BadMessage)?;
    limit.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_applies_to_all_messages_unless_it_is_for_the_size() {
        let refused =
            |text: &'static str| Unpublished::from(PublishError::Refused(WireError::parse(text.as_bytes().into())));
        assert!(!refused("E_BAD_MESSAGE PUB message too big 2000000 > 1048576").applies_to_all());
        assert!(refused("E_INVALID DPUB timeout 7200000 out of range 0-3600000").applies_to_all());
        assert!(!Unpublished::from(PublishError::Closed).applies_to_all());
    }

    #[test]
    fn the_size_limit_is_read_from_a_refusal() {
        let limit = |text: &'static str| limit_in(&WireError::parse(text.as_bytes().into()));
        assert_eq!(limit("E_BAD_MESSAGE PUB message too big 2000000 > 1048576"), Some(1_048_576));
        assert_eq!(limit("E_BAD_MESSAGE PUB invalid message body size 0"), None);
        assert_eq!(limit("E_BAD_BODY MPUB body too big 2000000 > 1048576"), None);
    }
}
