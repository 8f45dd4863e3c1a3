//! Connecting and listening: every raw connection is made here, within a deadline, and every port
//! is opened here.

mod connect;
#[cfg(any(feature = "handlers", feature = "broker"))]
mod endpoint;
#[cfg(any(feature = "handlers", feature = "broker"))]
mod line_ack;
#[cfg(any(feature = "handlers", feature = "broker"))]
mod listen;
#[cfg(any(feature = "handlers", feature = "broker"))]
mod stale_socket;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;
#[cfg(any(feature = "handlers", feature = "broker"))]
mod unix;

/// The stream of a client's connection.
#[cfg(not(test))]
pub type NetStream = tokio::net::TcpStream;
#[cfg(test)]
pub use crate::simulated::NetStream;

pub use self::connect::connect;
#[cfg(any(feature = "handlers", feature = "broker"))]
pub use self::connect::connect_udp;
#[cfg(any(feature = "handlers", feature = "broker"))]
pub use self::endpoint::{Endpoint, InvalidEndpoint};
#[cfg(any(feature = "handlers", feature = "broker"))]
pub use self::line_ack::LineAck;
#[cfg(any(feature = "handlers", feature = "broker"))]
pub use self::listen::bind_udp;
#[cfg(any(feature = "handlers", feature = "broker"))]
pub use self::listen::listen;
#[cfg(any(feature = "handlers", feature = "broker"))]
pub use self::stale_socket::remove_stale_socket;
#[cfg(any(feature = "handlers", feature = "broker"))]
pub use self::unix::{connect_unix, probe_socket};
