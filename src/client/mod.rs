//! The NSQ client: publishing, consuming, and the HTTP APIs.
//!
//! ```text
//!  Publisher ──▶ Queue ──▶ link (a task a nsqd) ──▶ Connection ──▶ nsqd     publisher/
//!  Consumer  ◀── messages ── link (a task a nsqd) ◀── Connection ◀── nsqd   consumer/
//!                  Flow (pure) says each link's RDY                        flow/
//!  Duplex    ◀─▶ Connection: a subscription that publishes            duplex.rs
//!  Listener ◀── "a message comes" ◀── Connection                           listener.rs
//!  Nsqd, Lookupd: their HTTP APIs                                          api.rs
//! ```
//!
//! A connection is owned by one task; handles send it what they want and wait for what it says. Everything is at least once:
//! a publish is repeated until nsqd said OK, and a message that nobody answered goes back to the queue.

mod address;
#[cfg(feature = "lookup")]
mod api;
mod arrival_watch;
mod backend;
mod connection;
mod consumer;
mod error;
mod flow;
#[cfg(feature = "lookup")]
mod http_date;
#[cfg(feature = "lookup")]
mod peer_names;
mod publisher;
mod publishing_subscription;

pub use address::{Address, InvalidAddress};
#[cfg(feature = "lookup")]
pub use api::{ConfigNumber, HttpError, Lookupd, Nsqd, StatsFilter};
pub use arrival_watch::ArrivalWatch;
pub use backend::ClientBackend;
pub use connection::{ConnectConfig, identify};
pub use consumer::{Consumer, ConsumerConfig, Control, Delivery, GivenBack, Health};
pub use error::Error;
pub use flow::{ConnectionId, Flow, FlowConfig};
pub use publisher::{PublishCounts, PublishError, PublishManyError, Publisher, PublisherConfig};
pub use publishing_subscription::{PublishingSubscription, SubscriptionEvent};
