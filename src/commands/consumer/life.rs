//! The consumer's life, step by step: pure.
//!
//! ```text
//!      ┌───────────────────── poked ◀──┐       ┌─▶ messages wait ─▶ Subscribe
//!      ▼                               │       │
//!  Subscribe ─▶ Work ── idle ──▶ TakePokes ─▶ LookAtStats ─▶ nothing ─▶ Stop
//!                └────────── any other end ─────────────────────────────▶┘
//! ```
//!
//! It begins when the pokes that woke it have been taken. Who comes while it leaves is not overlooked: a poke up to `TakePokes` and a
//! message up to `LookAtStats` bring it back to work; a later message is wakeup's to see, and a later poke goes with the process
//! (`FlushPending=yes`): wakeup pokes again as long as messages wait. A step that fails ends the process with an error, and wakeup's next
//! poke brings it back.

use mqueue::worker::Ended;

/// What is to be done next. `S` is a subscription, which goes from step to step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<S> {
    /// Connect and subscribe.
    Subscribe,
    /// Say READY and handle messages until there is a reason to end: RDY 0, CLS, the last messages. A poke puts being idle off.
    Work(S),
    /// Take the pokes that came while leaving.
    TakePokes,
    /// See whether messages came while leaving.
    LookAtStats,
    /// Say STOPPING, take no poke any more, and exit.
    Stop(Ended),
}

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happened<S> {
    Subscribed(S),
    /// A signal came first.
    Interrupted,
    Ended(Ended),
    /// This many pokes were taken.
    Poked(usize),
    Looked(Left),
}

/// What the last look showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Messages wait, and would be delivered.
    Messages,
    /// Nothing, or there was no answer: wakeup goes on looking.
    Nothing,
}

impl<S> Step<S> {
    pub(crate) const FIRST: Self = Self::Subscribe;
}

impl<S> Happened<S> {
    /// The step after this.
    pub(crate) fn next(self) -> Step<S> {
        match self {
            Self::Subscribed(subscription) => Step::Work(subscription),
            Self::Interrupted => Step::Stop(Ended::Drained),
            Self::Ended(Ended::Idle) => Step::TakePokes,
            // whoever poked meanwhile is answered by the next start
            Self::Ended(ended) => Step::Stop(ended),
            Self::Poked(0) => Step::LookAtStats,
            Self::Poked(_) | Self::Looked(Left::Messages) => Step::Subscribe,
            Self::Looked(Left::Nothing) => Step::Stop(Ended::Idle),
        }
    }
}
