//! State machine of a consumer's life: pure.
//!
//! ```text
//!      ┌───────────────────── poked ◀──┐       ┌─▶ messages wait ─▶ Subscribe
//!      ▼                               │       │
//!  Subscribe ─▶ Work ── idle ──▶ TakePokes ─▶ LookAtStats ─▶ nothing ─▶ Stop
//!                └────────── any other end ─────────────────────────────▶┘
//! ```
//!
//! The life begins when the pokes that started the consumer have been taken. No work is lost while the consumer
//! leaves: a poke up to `TakePokes` and a message up to `LookAtStats` bring it back to work. A later message is
//! seen by wakeup. A later poke is discarded with the process (`FlushPending=yes`): wakeup pokes again as long
//! as messages wait. A step that fails ends the process with an error, and wakeup's next poke starts it again.

use mqueue::worker::StopReason;

/// The next step. `S` is a subscription, which is passed from step to step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<S> {
    /// Connect and subscribe.
    Subscribe,
    /// Say READY and handle messages until there is a reason to end: RDY 0, CLS, the last messages. A poke restarts the idle timeout.
    Work(S),
    /// Take the pokes that arrived while leaving.
    TakePokes,
    /// Check for messages that arrived while leaving.
    LookAtStats,
    /// Say STOPPING, take no more pokes, and exit.
    Stop(StopReason),
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happened<S> {
    Subscribed(S),
    /// A signal arrived before the subscription.
    Interrupted,
    Ended(StopReason),
    /// Number of pokes taken.
    Poked(usize),
    Looked(Left),
}

/// The result of the last check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Messages wait, and would be delivered.
    Messages,
    /// No messages, or no answer: wakeup goes on polling.
    Nothing,
}

impl<S> Step<S> {
    pub(crate) const FIRST: Self = Self::Subscribe;
}

impl<S> Happened<S> {
    /// Returns the step that follows this result.
    pub(crate) fn next(self) -> Step<S> {
        match self {
            Self::Subscribed(subscription) => Step::Work(subscription),
            Self::Interrupted => Step::Stop(StopReason::Drained),
            Self::Ended(StopReason::Idle) => Step::TakePokes,
            // the next start serves pokes that arrived meanwhile
            Self::Ended(ended) => Step::Stop(ended),
            Self::Poked(0) => Step::LookAtStats,
            Self::Poked(_) | Self::Looked(Left::Messages) => Step::Subscribe,
            Self::Looked(Left::Nothing) => Step::Stop(StopReason::Idle),
        }
    }
}
