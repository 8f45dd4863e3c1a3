//! The NSQ client: publishing, consuming, and the HTTP APIs.
//!
//! ```text
//!  Publisher ──▶ queue ──▶ link (a task per nsqd) ──▶ Connection ──▶ nsqd     publisher/
//!  Consumer  ◀── deliveries ── link (a task per nsqd) ◀── Connection ◀── nsqd  consumer/
//!                  Flow (pure) decides each link's RDY                         flow/
//!  PublishingSubscription ◀─▶ Connection: subscribes and publishes   publishing_subscription.rs
//!  ArrivalWatch ◀── "a message arrives" ◀── Connection                         arrival_watch.rs
//!  Nsqd, Lookupd: their HTTP APIs                                              api.rs
//! ```
//!
//! One task owns each connection; handles send it commands and wait for the answers. Delivery is at
//! least once: a publish is repeated until nsqd answers OK, and an unanswered message is requeued.

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
mod security;

pub use address::{Address, InvalidAddress};
#[cfg(feature = "lookup")]
pub use api::{ConfigNumber, HttpError, Lookupd, Nsqd, PeekPage, PeekQuery, StatsFilter};
pub use arrival_watch::ArrivalWatch;
pub use backend::ClientBackend;
#[cfg(feature = "tls")]
pub use connection::inspect_certificates;
pub use connection::{ConnectConfig, authenticate, identify};
pub use consumer::{Consumer, ConsumerConfig, Control, Delivery, GivenBack, Health};
pub use error::Error;
pub use flow::{ConnectionId, Flow, FlowConfig};
pub use publisher::{PublishCounts, PublishError, PublishManyError, Publisher, PublisherConfig};
pub use publishing_subscription::{PublishingSubscription, SubscriptionEvent};
pub use security::{AuthSecret, Security};
