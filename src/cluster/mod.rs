//! A whole cluster at one moment: every nsqd, and its streams and groups summed over all of them.
//!
//! ```text
//!  ClusterApis ─ ask every nsqd at once ─▶ ClusterState ─┬─ streams(): sums, and what is paused where
//!  (named, or known to nsqlookupd)                       ├─ rates(earlier): messages a second
//!                                                        └─ act(): create, pause, empty, delete
//! ```
//!
//! A dead nsqd is a part of the result and not an error: its messages are missing in the sums, and
//! the caller says so. Every request has the deadline of [`client::Nsqd`](crate::client::Nsqd), 5
//! s. A [`ClusterObserver`], which observes again and again, does not wait for it.

mod action;
mod apis;
mod observer;
mod rates;
mod streams;

pub use self::action::{HeldBacklogs, QueueAction, QueueOutcome, QueueTarget};
pub use self::apis::{ClusterApis, ClusterState, NsqdAnswer, NsqdState};
pub use self::observer::ClusterObserver;
pub use self::rates::{GroupKey, QueueRates};
pub use self::streams::{ClusterGroup, ClusterStream};
