//! Hosts and ports, as users type them and as peers name them.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::excerpt;

/// The longest name in bytes, and the longest part between its dots (RFC 1035).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// `HOST:PORT`, `[IPv6]:PORT` or `:PORT`. As in Go, `:PORT` is every address when listening and
/// this machine when connecting.
///
/// Invariant: the host is empty or a valid host, see [`is_host`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// The error for text that is not a [`HostPort`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {0}: use HOST:PORT or :PORT, such as 127.0.0.1:4150")]
pub struct InvalidHostPort(String);

/// True for an IP address, and for a name of letters, digits, `-`, `_` and dots that does not begin
/// with a dash. Such text is safe in a log line and in a shell command.
pub fn is_host(text: &str) -> bool {
    if text.contains(':') {
        let (address, zone) = text.split_once('%').unwrap_or((text, "lo"));
        let is_zone = !zone.is_empty() && zone.len() <= MAX_LABEL && zone.bytes().all(is_name_byte);
        return is_zone && address.parse::<Ipv6Addr>().is_ok();
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(is_name_byte);
    name.len() <= MAX_NAME && !name.starts_with('-') && name.split('.').all(is_label)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

impl HostPort {
    /// The host, IPv6 without brackets; empty if none was named.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host to connect to: this machine if none was named.
    pub fn host_to_reach(&self) -> &str {
        if self.host.is_empty() { "localhost" } else { &self.host }
    }

    /// The same address with the host to connect to.
    #[must_use]
    pub fn to_reach(&self) -> Self {
        Self { host: self.host_to_reach().to_owned(), port: self.port }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let is_number = port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse().ok().filter(|_| is_number)?;
            let host = match host.strip_prefix('[') {
                Some(rest) => rest.strip_suffix(']').filter(|host| host.contains(':'))?,
                None if host.contains(':') => return None,
                None => host,
            };
            (host.is_empty() || is_host(host)).then(|| Self { host: host.to_owned(), port })
        };
        parse().ok_or_else(|| InvalidHostPort(format!("\"{}\"", excerpt(text.as_bytes()))))
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
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
    fn hosts_are_names_or_addresses_without_shell_characters() {
        let longest = [["x".repeat(63).as_str(); 3].join("."), "y".repeat(61)].join(".");
        for host in ["localhost", "nsqd_1", "a.b-c.example.", "10.0.0.1", "::1", "fe80::1%eth0", "1", &longest] {
            assert!(is_host(host), "{host}");
        }
        let (long, label) = (format!("{longest}z"), "x".repeat(64));
        for no_host in [
            "", ".", "a..b", "-o", "a b", "a;b", "$(a)", "a'b", "a\nb", "\x1b[2J", "grün", "a/b", "u@h", "a:b",
            "fe80::1%", &long, &label,
        ] {
            assert!(!is_host(no_host), "{no_host:?}");
        }
    }

    #[test]
    fn the_host_is_optional_and_the_port_is_required() {
        for text in ["127.0.0.1:4150", "nsqd:0", "[::1]:4150", ":5000"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        let bare: HostPort = ":5000".parse().unwrap();
        assert_eq!((bare.host(), bare.host_to_reach(), bare.port()), ("", "localhost", 5000));
        for text in
            ["", "host", "host:", "host:65536", "host:+1", "::1:4150", "http://h:1", "a b:1", "[::1:4150", "[h]:1"]
        {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_error_is_one_short_line_for_any_input() {
        let error = format!("a\n\x1b[2J{}:1", "x".repeat(100_000)).parse::<HostPort>().unwrap_err().to_string();
        assert!(error.starts_with(r#"invalid address "a\n\x1b[2Jxxx"#) && error.len() < 500, "{error}");
    }
}
