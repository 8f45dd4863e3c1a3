//! Where a message could not be brought, because nothing there takes messages now.

use super::Verdict;

/// Whoever does the work is away: nobody tried. Says why, in one line.
///
/// For the worker it is a failure like others, which comes again and counts as an attempt. A stage waits instead, for the message is not
/// to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Away(pub(crate) String);

/// The verdict where nobody waits.
pub(super) fn or_retry(passed: Result<Verdict, Away>) -> Verdict {
    passed.unwrap_or_else(|Away(why)| Verdict::retry(why))
}
