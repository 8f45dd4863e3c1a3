//! Waking: finds the groups that have messages and no consumer, and pokes their activation sockets.
//!
//! ```text
//!  /stats, every second ─▶ aggregate ─▶ decide ─▶ poke GROUP.sock ─▶ systemd starts the consumer
//!  a message, at once   ─▶ arrivals  ─▶ decide_arrival ─┘
//! ```

pub mod aggregate;
pub mod arrivals;
pub mod broker;
pub mod decide;
pub mod fleet;
pub mod host_listing;
pub mod hosts;
#[doc(hidden)]
pub mod many_groups;
pub mod outage;
pub mod poke;
pub mod poke_history;
pub mod retry_name;
pub mod shell_commands;
pub mod unit_name;
