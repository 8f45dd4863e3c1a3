//! HTTP: a client's requests within limits, and a small server beside a command's work.

#[cfg(feature = "broker")]
mod chunks;
pub mod client;
#[cfg(feature = "broker")]
mod connection;
#[cfg(feature = "broker")]
mod host;
#[cfg(feature = "broker")]
mod patience;
#[cfg(feature = "broker")]
mod places;
#[cfg(feature = "broker")]
mod server;
#[cfg(feature = "broker")]
mod target;

#[cfg(feature = "broker")]
pub use self::connection::{Manners, connection};
#[cfg(feature = "broker")]
pub use self::places::{Place, Places, Stay};
#[cfg(feature = "broker")]
pub use self::server::Door;
#[cfg(feature = "broker")]
pub use crate::net::listen;
