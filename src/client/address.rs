//! Addresses of servers.

use std::fmt;
use std::str::FromStr;

use crate::proto::{HostPort, excerpt};

/// The address of a server: `127.0.0.1:4150`, `nsqd.local:4150`, `[::1]:4150`; `:4150` is this
/// machine, as in Go.
///
/// An address always has a host, and a port other than 0. Names are resolved at each connect.
///
/// # Examples
/// ```
/// use mqueue::client::Address;
///
/// let address: Address = "nsqd.local:4150".parse()?;
/// assert_eq!((address.host(), address.port()), ("nsqd.local", 4150));
/// assert!("nsqd.local".parse::<Address>().is_err()); // the port is required
/// # Ok::<(), mqueue::client::InvalidAddress>(())
/// ```
///
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(HostPort);

/// The error for text that is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address \"{0}\": use HOST:PORT, such as 127.0.0.1:4150")]
pub struct InvalidAddress(String);

impl Address {
    /// The host, IPv6 without brackets.
    pub fn host(&self) -> &str {
        self.0.host()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port()
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        match text.parse::<HostPort>() {
            Ok(place) if place.port() != 0 => Ok(Self(place.to_reach())),
            Ok(_) | Err(_) => Err(InvalidAddress(excerpt(text.as_bytes()))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_and_both_kinds_of_ip_address_round_trip() {
        for text in ["127.0.0.1:4150", "nsqd:1", "[::1]:4150"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_port_alone_means_localhost() {
        assert_eq!(":4150".parse::<Address>().unwrap().to_string(), "localhost:4150");
    }

    #[test]
    fn refuses_addresses_without_a_host_or_a_port() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "::1:4150",
            "http://h:1",
            "a b:1",
            "[::1:4150",
            "-o:1",
            "a;b:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
