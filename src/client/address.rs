//! Where a server listens.

use std::fmt;
use std::str::FromStr;

/// A host and a port: `127.0.0.1:4150`, `nsqd.local:4150`, `[::1]:4150`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or an address, IPv6 without brackets.
    host: String,
    port: u16,
}

/// Text that is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {0:?}: use HOST:PORT, such as 127.0.0.1:4150")]
pub struct InvalidAddress(String);

impl Address {
    /// The host, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let host = match host.strip_prefix('[') {
                Some(rest) => rest.strip_suffix(']')?,
                None if host.contains(':') => return None,
                None => host,
            };
            let odd = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | '[' | ']');
            (!host.is_empty() && !host.contains(odd)).then(|| Self { host: host.to_owned(), port })
        };
        parse().ok_or_else(|| InvalidAddress(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_names_and_both_kinds_of_ip() {
        for text in ["127.0.0.1:4150", "nsqd:1", "[::1]:4150"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_lacks_a_host_or_a_port() {
        for text in
            ["", "host", ":4150", "host:", "host:0", "host:65536", "::1:4150", "http://h:1", "a b:1", "[::1:4150"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
