//! Reaching others and being reached: every raw connection is made here, each within a deadline, and every port is opened here.

mod connect;
mod listen;
mod unix;

pub(crate) use self::connect::{connect, connect_udp};
pub(crate) use self::listen::bind_udp;
pub use self::listen::listen;
pub(crate) use self::unix::{connect_unix, knock};
