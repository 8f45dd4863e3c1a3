//! HTTP: a client with bounded responses, and a bounded server for use beside a command's work.

#[cfg(feature = "broker")]
mod browser_guard;
#[cfg(feature = "broker")]
mod chunks;
pub mod client;
#[cfg(feature = "broker")]
mod connection;
#[cfg(feature = "broker")]
mod connection_slots;
#[cfg(feature = "broker")]
mod cross_origin;
#[cfg(feature = "broker")]
mod deadline_stream;
#[cfg(feature = "broker")]
mod guarded_body;
#[cfg(feature = "broker")]
mod host_header;
#[cfg(feature = "broker")]
mod raw_target;
#[cfg(feature = "broker")]
mod server;
#[cfg(feature = "broker")]
mod server_settings;

#[cfg(feature = "broker")]
pub use self::browser_guard::{BrowserGuard, Origin};
#[cfg(feature = "broker")]
pub use self::connection::{ConnectionLimits, serve_connection};
#[cfg(feature = "broker")]
pub use self::connection_slots::{BusyGuard, ConnectionSlot, ConnectionSlots};
#[cfg(feature = "broker")]
pub use self::guarded_body::hold_until_sent;
#[cfg(feature = "broker")]
pub use self::server::BoundedListener;
#[cfg(feature = "broker")]
pub use self::server_settings::ServerSettings;
#[cfg(feature = "broker")]
pub use crate::net::listen;
