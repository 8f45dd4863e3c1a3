//! The address of a feed's source or target, as typed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::proto::HostPort;

/// The maximum length of a Unix socket's path (`sun_path` has 108 bytes with its NUL).
const MAX_PATH: usize = 107;

/// A socket address: `unix:/PATH`, `unixgram:/PATH`, `tcp:HOST:PORT` or `udp:HOST:PORT`. Without
/// HOST it means all addresses when listening, and this machine when sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix stream socket: lines.
    Unix(PathBuf),
    /// A Unix datagram socket (Go's name for it): one message a datagram.
    Unixgram(PathBuf),
    /// Lines over TCP.
    Tcp(HostPort),
    /// One message a datagram.
    Udp(HostPort),
}

/// The error of text that is not an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// The scheme is unknown, or nothing follows it.
    #[error("invalid address {0:?}: use unix:/PATH, unixgram:/PATH, tcp:HOST:PORT or udp:HOST:PORT")]
    Unknown(String),
    /// The path is too long for a socket.
    #[error("invalid address {0:?}: a socket's path has at most {MAX_PATH} bytes")]
    TooLong(String),
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let unknown = || InvalidEndpoint::Unknown(text.to_owned());
        let (scheme, rest) = text.split_once(':').filter(|(_, rest)| !rest.is_empty()).ok_or_else(unknown)?;
        let path = || match rest.len() {
            ..=MAX_PATH => Ok(PathBuf::from(rest)),
            _ => Err(InvalidEndpoint::TooLong(text.to_owned())),
        };
        match scheme {
            "unix" => path().map(Self::Unix),
            "unixgram" => path().map(Self::Unixgram),
            "tcp" => rest.parse().map(Self::Tcp).map_err(|_| unknown()),
            "udp" => rest.parse().map(Self::Udp).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Unixgram(path) => write!(f, "unixgram:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_they_were_typed() {
        for text in [
            "unix:/run/feed",
            "unixgram:feed.sock",
            "tcp:127.0.0.1:0",
            "tcp:[::1]:9000",
            "udp:localhost:514",
            "tcp::9000",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn invalid_endpoints_are_refused_with_the_remedy() {
        let long = format!("unix:/{}", "x".repeat(107));
        for text in ["", "unix", "unix:", "/run/feed", "tcp:9000", "tcp:host:", "udp:h:65536", "ftp:h:1", "a\nb", &long]
        {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.starts_with("invalid address \"") && !error.contains('\n'), "{error}");
        }
    }
}
