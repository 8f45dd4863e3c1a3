//! A fleet on Redis: the lease is a key, heartbeats are published to a channel, and events are in a
//! list.
//!
//! ```text
//!  RedisStore ─▶ LeaseLink ─▶ lock:gen   SET NX PX; renewed, and events pushed, by scripts that compare the owner
//!             ◀─ MonitorLink ◀─ SUBSCRIBE, the holder's heartbeats
//!  consume ─▶ a ─▶ {a}:mqueue:batch:… ─▶ handler ─▶ DEL, or the list of errors
//! ```

mod consume;
mod lease_link;
mod monitor_link;
mod scripts;
mod store;

pub(super) use self::consume::{ListConsumer, run};
pub(super) use self::store::{LeaseKeys, RedisStore};
