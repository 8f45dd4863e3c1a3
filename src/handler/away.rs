//! Where a message could not be brought, because nothing there takes messages now.

use super::Verdict;

/// Whoever does the work is away. A stage waits for it, for the message is not to blame. For a worker it is no try if the message never
/// came there; one that was brought and not answered may be what ended whoever took it, and has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// The reason, in one line.
    pub why: String,
    /// Nothing of the message was taken.
    is_untried: bool,
}

impl Away {
    /// Nobody took the message.
    pub(super) fn untried(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_untried: true }
    }

    /// The message was brought, and there is no answer.
    pub(super) fn unanswered(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_untried: false }
    }
}

/// The verdict where nobody waits.
pub(super) fn or_later(passed: Result<Verdict, Away>) -> Verdict {
    passed.unwrap_or_else(|Away { why, is_untried }| match is_untried {
        true => Verdict::Unavailable { after: None, why },
        false => Verdict::retry(why),
    })
}
