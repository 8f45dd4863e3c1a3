//! Addresses of lists in Redis, pure: `redis://HOST:PORT/LIST`.

use std::fmt;
use std::str::FromStr;

use mqueue::proto::HostPort;

/// The port of Redis.
const DEFAULT_PORT: u16 = 6379;

/// The answer to an address of Sentinel.
pub(crate) const SENTINEL: &str =
    "Sentinel is not supported: use redis://HOST:PORT with an address that follows the master";

/// A list, and the server that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisList {
    pub(crate) tls: bool,
    pub(crate) server: HostPort,
    /// The number of the database.
    pub(crate) database: u32,
    pub(crate) key: String,
    /// True if there is a user or a password before the server, which is left out here.
    pub(crate) has_secret: bool,
}

impl RedisList {
    /// The limit on a key's length here.
    pub(crate) const MAX_KEY: usize = 512;

    /// Returns the key of something that belongs to the list, in the same slot of a cluster.
    pub(crate) fn key_of(&self, what: &str) -> String {
        let tag = self.key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
        match tag {
            Some(tag) if !tag.is_empty() => format!("{}:mqueue:{what}", self.key),
            _ => format!("{{{}}}:mqueue:{what}", self.key),
        }
    }
}

impl FromStr for RedisList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || "use redis://HOST:PORT/LIST, or rediss:// for TLS".to_owned();
        let (tls, rest) = match (text.strip_prefix("redis://"), text.strip_prefix("rediss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            (None, None) if text.contains("sentinel") => return Err(SENTINEL.to_owned()),
            (None, None) => return Err(usage()),
        };
        let (server, path) = rest.split_once('/').ok_or_else(usage)?;
        // clap would repeat the whole text: the command refuses a secret
        let (has_secret, server) = server.rsplit_once('@').map_or((false, server), |(_, server)| (true, server));
        let (key, query) = path.split_once('?').unwrap_or((path, ""));
        let database = match query {
            "" => 0,
            query => query
                .strip_prefix("db=")
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| "use ?db=NUMBER after the list's name, and nothing else".to_owned())?,
        };
        let has_port = server.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let server = if has_port { server.to_owned() } else { format!("{server}:{DEFAULT_PORT}") };
        let server: HostPort = server.parse().map_err(|error: mqueue::proto::InvalidHostPort| error.to_string())?;
        let key = decode(key).filter(|key| !key.is_empty() && key.len() <= Self::MAX_KEY).ok_or_else(usage)?;
        Ok(Self { tls, server: server.to_reach(), database, key, has_secret })
    }
}

/// Decodes %XX; `None` if it is wrong, or no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for RedisList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let key = self.key.replace('%', "%25").replace('?', "%3F");
        write!(f, "{scheme}://{}/{}", self.server, mqueue::proto::excerpt(key.as_bytes()))?;
        if self.database > 0 { write!(f, "?db={}", self.database) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_server_and_a_list() {
        for (text, shown) in [
            ("redis://localhost:6380/jobs", "redis://localhost:6380/jobs"),
            ("redis://localhost/jobs", "redis://localhost:6379/jobs"),
            ("redis://[::1]/a:b", "redis://[::1]:6379/a:b"),
            ("redis://:6379/a", "redis://localhost:6379/a"),
            ("rediss://host/a/b?db=3", "rediss://host:6379/a/b?db=3"),
            ("redis://host/a%20b%3Fc", "redis://host:6379/a b%3Fc"),
        ] {
            let list: RedisList = text.parse().unwrap();
            assert_eq!((list.to_string().as_str(), list.to_string().parse()), (shown, Ok(list)));
        }
        assert_eq!("redis+sentinel://host/m/a".parse::<RedisList>(), Err(SENTINEL.to_owned()));
        for wrong in ["", "jobs", "redis:/x", "redis://host", "redis://host/", "redis://host/a?x=1", "redis://h/%zz"] {
            assert!(wrong.parse::<RedisList>().is_err_and(|error| !error.contains('\n')), "{wrong:?}");
        }
    }

    #[test]
    fn a_secret_in_the_address_is_noticed_and_not_repeated() {
        for text in ["redis://user:secret@host/a", "redis://:secret@host/a"] {
            let list = text.parse::<RedisList>().unwrap();
            assert!(list.has_secret && !format!("{list} {list:?}").contains(":secret"), "{list:?}");
        }
        assert!(!"redis://host/a@b".parse::<RedisList>().unwrap().has_secret);
    }

    #[test]
    fn keys_of_a_list_are_in_its_slot_of_a_cluster() {
        let of = |key: &str| format!("redis://h/{key}").parse::<RedisList>().unwrap().key_of("x");
        assert_eq!(of("jobs"), "{jobs}:mqueue:x");
        assert_eq!(of("{a}jobs"), "{a}jobs:mqueue:x");
        assert_eq!(of("{}jobs"), "{{}jobs}:mqueue:x");
    }
}
