//! Reaching others and being reached: every raw connection is made here, each within a deadline, and every port is opened here.

mod connect;
mod endpoint;
mod line_ack;
mod listen;
mod stale_socket;
mod unix;

pub use self::connect::{connect, connect_udp};
pub use self::endpoint::{Endpoint, InvalidEndpoint};
pub use self::line_ack::Answer;
pub use self::listen::bind_udp;
pub use self::listen::listen;
pub use self::stale_socket::remove_stale;
pub use self::unix::{connect_unix, knock};
