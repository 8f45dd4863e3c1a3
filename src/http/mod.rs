//! HTTP: a client's requests within limits, and a small server beside a command's work.

mod chunks;
pub mod client;
mod connection;
mod host;
mod patience;
mod places;
mod server;
mod target;

pub use self::connection::{Manners, connection};
pub use self::places::{Place, Places, Stay};
pub use self::server::Door;
pub use crate::net::listen;
