//! The store of a fleet: NSQ, or lists in Redis, with the names that seed programs on Redis use.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::exit::{Exit, Failure};
use super::redis::{RedisList, RedisServer, SENTINEL};
use mqueue::net::tls::TlsClient;

/// The store, and the lists in Redis.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Redis")]
pub(crate) struct StoreArgs {
    /// Store of the messages: nsq, redis (at REDIS_URL), or redis://HOST:PORT (rediss:// for TLS,
    /// ?db=3 for another database)
    #[arg(long, env = "MQUEUE_STORE", value_name = "STORE", default_value = "nsq")]
    pub store: StoreChoice,

    /// Address for --store redis: HOST:PORT, or redis://HOST:PORT [default: 127.0.0.1:6379]
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<String>,

    /// List of the messages [default: the stream's name]
    #[arg(long, env = "REDIS_QUEUE", value_name = "KEY")]
    pub redis_queue: Option<String>,

    /// List of messages that were given up
    #[arg(long, env = "REDIS_ERROR_QUEUE", value_name = "KEY", default_value = "errors")]
    pub redis_error_queue: String,

    /// File with the password for Redis, or with user and password, on one line [default: no AUTH]
    #[arg(long, env = "MQUEUE_REDIS_AUTH_FILE", value_name = "PATH")]
    pub redis_auth_file: Option<PathBuf>,
}

/// The store of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreChoice {
    /// Streams of nsqd.
    Nsq,
    /// Lists in Redis at the address of another flag.
    Redis,
    /// Lists in Redis at this address.
    RedisAt(String),
}

impl FromStr for StoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nsq" => Ok(Self::Nsq),
            "redis" => Ok(Self::Redis),
            // checked here, and read again with the list's name
            _ => list_at(text, "x").map(|_| Self::RedisAt(text.to_owned())),
        }
    }
}

impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nsq => f.write_str("nsq"),
            Self::Redis => f.write_str("redis"),
            Self::RedisAt(address) => address.fmt(f),
        }
    }
}

/// Reads an address without a list, and adds the list.
fn list_at(address: &str, key: &str) -> Result<RedisList, String> {
    let wrong = || "use nsq, redis, or redis://HOST:PORT (rediss:// for TLS)".to_owned();
    let (address, query) = address.split_once('?').map_or((address, ""), |(address, query)| (address, query));
    let database = match query {
        "" => None,
        query => Some(query.strip_prefix("db=").ok_or_else(|| "use ?db=NUMBER after the address".to_owned())?),
    };
    let (scheme, rest) = address.split_once("://").ok_or_else(wrong)?;
    let (server, path) = rest.split_once('/').map_or((rest, ""), |(server, path)| (server, path));
    if scheme.contains("sentinel") {
        return Err(SENTINEL.to_owned());
    }
    if !["redis", "rediss"].contains(&scheme) {
        return Err(wrong());
    }
    // the number of a database is the path of other programs' addresses
    let database = match (database, path) {
        (Some(number), "") => number,
        (None, "") => "0",
        (None, number) if number.bytes().all(|byte| byte.is_ascii_digit()) => number,
        _ => return Err("name the list with --redis-queue, and a database as redis://HOST:PORT?db=NUMBER".to_owned()),
    };
    let list: RedisList = format!("{scheme}://{server}/x?db={database}").parse()?;
    if key.is_empty() || key.len() > RedisList::MAX_KEY {
        return Err(format!("the name of a list has 1 to {} bytes", RedisList::MAX_KEY));
    }
    Ok(RedisList { key: key.to_owned(), ..list })
}

impl StoreArgs {
    /// Returns true if messages are in Redis.
    pub(crate) fn is_redis(&self) -> bool {
        self.store != StoreChoice::Nsq
    }

    /// Returns the list with this key, and its server; `None` if messages are in NSQ.
    ///
    /// # Errors
    /// The address is none, or has a secret in it; it is not repeated.
    fn list(&self, key: &str) -> Result<Option<RedisList>, Failure> {
        let address = match &self.store {
            StoreChoice::Nsq => return Ok(None),
            StoreChoice::RedisAt(address) => address.clone(),
            StoreChoice::Redis => match self.redis_url.as_deref().unwrap_or("127.0.0.1:6379") {
                url if url.contains("://") => url.to_owned(),
                address => format!("redis://{address}"),
            },
        };
        let invalid = |why: String| Failure::new(Exit::Usage, format!("the address of Redis cannot be used: {why}"));
        list_at(&address, key).map(Some).map_err(invalid)
    }

    /// Returns true if Redis is reached with TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        self.list("x").is_ok_and(|list| list.is_some_and(|list| list.tls))
    }

    /// Returns the server and the list of messages; `None` if messages are in NSQ.
    ///
    /// # Errors
    /// As of the address, and of the file with the secret.
    pub(crate) fn server(&self, stream: &str, tls: Option<&TlsClient>) -> Result<Option<RedisServer>, Failure> {
        let list = self.list(self.redis_queue.as_deref().unwrap_or(stream))?;
        list.map(|list| RedisServer::new(&list, self.redis_auth_file.as_deref(), tls)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_list_and_perhaps_a_database() {
        for (text, shown) in [
            ("redis://host", "redis://host:6379/a"),
            ("redis://host:7000/", "redis://host:7000/a"),
            ("rediss://host/3", "rediss://host:6379/a?db=3"),
            ("redis://host?db=3", "redis://host:6379/a?db=3"),
            ("redis://[::1]:7000", "redis://[::1]:7000/a"),
        ] {
            assert_eq!(list_at(text, "a").unwrap().to_string(), shown, "{text}");
        }
        assert_eq!(list_at("redis+sentinel://host", "a"), Err(SENTINEL.to_owned()));
        for wrong in ["", "host", "host:6379", "redis://host/list", "redis://host?x=3", "nsq://h", "redis://h/1?db=2"] {
            assert!(wrong.parse::<StoreChoice>().is_err_and(|error| !error.contains('\n')), "{wrong:?}");
        }
        assert!(list_at("redis://host", &"x".repeat(RedisList::MAX_KEY + 1)).is_err());
        assert!(list_at("redis://me:secret@host", "a").unwrap().has_secret);
    }

    #[test]
    fn a_store_is_shown_as_it_is_read() {
        for text in ["nsq", "redis", "redis://host:7000?db=1"] {
            assert_eq!(text.parse::<StoreChoice>().unwrap().to_string(), text);
        }
    }
}
