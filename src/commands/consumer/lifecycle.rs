//! State machine of a consumer's life: pure.
//!
//! ```text
//!      ┌───────────────────── poked ◀──┐       ┌─▶ messages wait ─▶ Subscribe
//!      ▼                               │       │
//!  Subscribe ─▶ Work ── idle ──▶ TakePokes ─▶ LookAtStats ─▶ nothing ─▶ Stop
//!                └────────── any other end ─────────────────────────────▶┘
//! ```
//!
//! The life begins when the pokes that started the consumer have been taken. No work is lost while
//! the consumer leaves: a poke up to `TakePokes` and a message up to `LookAtStats` bring it back to
//! work. A later message is seen by wakeup. A later poke is discarded with the process
//! (`FlushPending=yes`): wakeup pokes again as long as messages wait. A step that fails ends the
//! process with an error, and wakeup's next poke starts it again.

use mqueue::worker::StopReason;

/// The next step. `S` is a subscription, which is passed from step to step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LifecycleStep<S> {
    /// Connect and subscribe.
    Subscribe,
    /// Say READY and handle messages until there is a reason to end: RDY 0, CLS, the last messages.
    /// A poke restarts the idle timeout.
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
pub(crate) enum StepResult<S> {
    Subscribed(S),
    /// A signal arrived before the subscription.
    Interrupted,
    Ended(StopReason),
    /// Number of pokes taken.
    Poked(usize),
    Looked(PendingCheck),
}

/// The result of the last check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingCheck {
    /// Messages wait, and would be delivered.
    Messages,
    /// No messages, or no answer: wakeup goes on polling.
    Nothing,
}

impl<S> LifecycleStep<S> {
    pub(crate) const FIRST: Self = Self::Subscribe;
}

impl<S> StepResult<S> {
    /// Returns the step that follows this result.
    pub(crate) fn next(self) -> LifecycleStep<S> {
        match self {
            Self::Subscribed(subscription) => LifecycleStep::Work(subscription),
            Self::Interrupted => LifecycleStep::Stop(StopReason::Drained),
            Self::Ended(StopReason::Idle) => LifecycleStep::TakePokes,
            // the next start serves pokes that arrived meanwhile
            Self::Ended(ended) => LifecycleStep::Stop(ended),
            Self::Poked(0) => LifecycleStep::LookAtStats,
            Self::Poked(_) | Self::Looked(PendingCheck::Messages) => LifecycleStep::Subscribe,
            Self::Looked(PendingCheck::Nothing) => LifecycleStep::Stop(StopReason::Idle),
        }
    }
}
