//! The HTTP APIs of nsqd and nsqlookupd (<https://nsq.io/components/nsqd.html>, `nsqd/http.go`,
//! `nsqlookupd/http.go`).
//!
//! Every call has a deadline: 2 s to connect, 5 s in all. Every answer has limits on its bytes and
//! its number of values; names that NSQ does not allow are removed from it.

mod peek;

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONNECTION, DATE};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, StatusCode};
use serde::de::DeserializeOwned;

use super::peer_names::{RemovedNames, Sanitize};
use super::{Address, InvalidAddress, http_date};
use crate::http::client::{BodyError, body as read_body, cause};
#[cfg(feature = "tls")]
use crate::net::tls::TlsClient;
use crate::proto::stats::{Channels, ErrorBody, Info, Lookup, Stats, Topics};
use crate::proto::{ChannelName, QueueStats, TopicName, excerpt};

pub use self::peek::{PeekPage, PeekQuery};

/// The limits of a call.
#[derive(Debug, Clone, Copy)]
struct CallLimits {
    /// The time for the call in all.
    time: Duration,
    /// The longest answer in bytes.
    answer: usize,
}

/// The limits of most calls; the answer may have the statistics of about 80,000 channels.
const USUAL_LIMITS: CallLimits = CallLimits { time: Duration::from_secs(5), answer: 32 << 20 };
/// The longest error answer in bytes.
const MAX_ERROR: usize = 64 << 10;
/// The largest number of objects and of values in an answer: a short text can take much memory once
/// parsed.
const MAX_OBJECTS: usize = 1 << 18;
const MAX_VALUES: usize = 1 << 22;

/// Asks for the clients of each channel.
const WITH_CLIENTS: (&str, &str) = ("include_clients", "true");

/// The error of a call to an HTTP API.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The server cannot be reached, or did not answer in time.
    #[error("cannot reach {program} at {address}: {reason}")]
    Unreachable {
        /// The program: `nsqd` or `nsqlookupd`.
        program: &'static str,
        /// The server's address.
        address: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server answered with an HTTP error.
    #[error("{program} at {address} answered {status} {code} to {path}")]
    Status {
        /// The program: `nsqd` or `nsqlookupd`.
        program: &'static str,
        /// The server's address.
        address: String,
        /// The path of the request.
        path: &'static str,
        /// The HTTP status.
        status: u16,
        /// NSQ's error code, such as `TOPIC_NOT_FOUND`; empty if there is none.
        code: String,
    },
    /// The server shows messages to clients with AUTH only, and its HTTP API has no AUTH.
    #[error(
        "nsqd at {address} shows messages to clients with AUTH only (--auth-http-address), and HTTP has no AUTH: \
         mqueue tail --auth-secret-file PATH shows new ones"
    )]
    NeedsAuth {
        /// The server's address.
        address: String,
    },
    /// The answer cannot be parsed, or exceeds a limit.
    #[error("{program} at {address} sent an answer to {path} that cannot be read: is this its HTTP port? ({reason})")]
    Answer {
        /// The program: `nsqd` or `nsqlookupd`.
        program: &'static str,
        /// The server's address.
        address: String,
        /// The path of the request.
        path: &'static str,
        /// The reason.
        reason: String,
    },
}

impl HttpError {
    /// True if the server does not know this kind of request.
    pub fn is_unknown_request(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 405, code, .. } if !code.ends_with("_NOT_FOUND"))
    }

    /// True if the topic or channel of the request does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code, .. } if matches!(code.as_str(), "TOPIC_NOT_FOUND" | "CHANNEL_NOT_FOUND"))
    }
}

/// The HTTP API of one server.
#[derive(Debug, Clone)]
struct Api {
    program: &'static str,
    scheme: &'static str,
    address: String,
    client: Client,
    /// The port with TLS, once the server has told that it wants TLS; 0 before.
    tls_port: Arc<AtomicU16>,
    /// True if the client has settings for TLS.
    is_secured: bool,
    /// True once the log has said that the server sends names that NSQ does not allow.
    logged: Arc<AtomicBool>,
}

type Query<'a> = [(&'a str, &'a str)];
type Dated = (Vec<u8>, Option<SystemTime>);

impl Api {
    fn new(program: &'static str, address: &str) -> Result<Self, InvalidAddress> {
        let (scheme, bare) = match address.strip_prefix("https://") {
            Some(bare) => ("https", bare),
            None => ("http", address.strip_prefix("http://").unwrap_or(address)),
        };
        let address = bare.trim_end_matches('/').parse::<Address>()?.to_string();
        let client = limited(crate::http::client::plain_client()).build().expect("nothing is read from the system");
        let (tls_port, logged) = (Arc::default(), Arc::default());
        Ok(Self { program, scheme, address, client, tls_port, is_secured: false, logged })
    }

    #[cfg(feature = "tls")]
    fn secured(self, tls: &TlsClient) -> Self {
        let client = crate::http::client::plain_client().tls_backend_preconfigured(tls.http_config());
        let client = limited(client).build().expect("nothing is read from the system");
        Self { client, is_secured: true, ..self }
    }

    /// The URL of the API: of its port with TLS, once the server has told that one.
    fn url(&self) -> String {
        match self.tls_port.load(Ordering::Relaxed) {
            0 => format!("{}://{}", self.scheme, self.address),
            port => format!("https://{}:{port}", self.address.rsplit_once(':').map_or("", |(host, _)| host)),
        }
    }

    async fn call(&self, method: Method, path: &'static str, query: &Query<'_>) -> Result<Vec<u8>, HttpError> {
        self.call_dated(method, path, query).await.map(|(body, _)| body)
    }

    /// Calls the API; returns the body and the answer's `Date`.
    async fn call_dated(&self, method: Method, path: &'static str, query: &Query<'_>) -> Result<Dated, HttpError> {
        self.send(method, path, query, Bytes::new(), USUAL_LIMITS).await
    }

    /// Calls the API. A server that wants TLS tells its port with it: that one is called instead,
    /// by an API that is secured. Nothing is done before the server's refusal, so no call is made
    /// twice.
    async fn send(
        &self,
        method: Method,
        path: &'static str,
        query: &Query<'_>,
        body: Bytes,
        limits: CallLimits,
    ) -> Result<Dated, HttpError> {
        let begun = Instant::now();
        let left = || CallLimits { time: limits.time.saturating_sub(begun.elapsed()), ..limits };
        let error = match self.send_once(method.clone(), path, query, body.clone(), left()).await {
            Ok(answer) => return Ok(answer),
            Err(FailedCall { error, tls_port: Some(port) }) if self.is_secured && self.scheme == "http" => {
                self.tls_port.store(port.get(), Ordering::Relaxed);
                match self.send_once(method, path, query, body, left()).await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) if failed.tls_port.is_some() => error,
                    Err(failed) => failed.error,
                }
            }
            Err(failed) => failed.error,
        };
        if matches!(error, HttpError::Unreachable { .. }) {
            // another server may come back there, with another port or without TLS
            self.tls_port.store(0, Ordering::Relaxed);
        }
        Err(error)
    }

    async fn send_once(
        &self,
        method: Method,
        path: &'static str,
        query: &Query<'_>,
        body: Bytes,
        limits: CallLimits,
    ) -> Result<Dated, FailedCall> {
        let (program, address) = (self.program, self.address.clone());
        let unreachable = |e: reqwest::Error| {
            let reason = if e.is_timeout() { "no answer in time".to_owned() } else { cause(&e) };
            FailedCall { error: HttpError::Unreachable { program, address: address.clone(), reason }, tls_port: None }
        };
        let url = format!("{}{path}", self.url());
        let mut request = self.client.request(method, url).query(query).body(body).timeout(limits.time);
        if query.contains(&WITH_CLIENTS) {
            // the connection's buffer grows with the answer, and would stay large
            request = request.header(CONNECTION, "close");
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let date = response.headers().get(DATE).and_then(|date| http_date::parse(date.to_str().ok()?));
        if status == StatusCode::OK {
            return match read_body(response, limits.answer).await {
                Ok(body) => Ok((body, date)),
                Err(BodyError::Broken(error)) => Err(unreachable(error)),
                Err(error @ BodyError::TooLong(_)) => {
                    Err(FailedCall { error: self.unreadable(path, &error.to_string()), tls_port: None })
                }
            };
        }
        let body = read_body(response, MAX_ERROR).await.unwrap_or_default();
        let code = serde_json::from_slice::<ErrorBody>(&body).unwrap_or_default().message;
        let tls_port = tls_port(status, &code, &body);
        let code = excerpt(code.as_bytes());
        let error = HttpError::Status { program, address: self.address.clone(), path, status: status.as_u16(), code };
        Err(FailedCall { error, tls_port })
    }

    async fn get<T: DeserializeOwned + Sanitize>(&self, path: &'static str, query: &Query<'_>) -> Result<T, HttpError> {
        let body = self.call(Method::GET, path, query).await?;
        let mut answer: T = read(&body).map_err(|why| self.unreadable(path, &why))?;
        let mut out = RemovedNames::default();
        answer.sanitize(&mut out);
        out.log_once(self.program, &self.address, &self.logged);
        Ok(answer)
    }

    fn unreadable(&self, path: &'static str, why: &str) -> HttpError {
        let reason = excerpt(why.as_bytes());
        HttpError::Answer { program: self.program, address: self.address.clone(), path, reason }
    }

    async fn post(&self, path: &'static str, query: &Query<'_>) -> Result<(), HttpError> {
        self.call(Method::POST, path, query).await.map(drop)
    }
}

/// The failure of a call, with the port that the server names for calls with TLS.
struct FailedCall {
    error: HttpError,
    tls_port: Option<NonZeroU16>,
}

/// The port with TLS in the refusal of a server that wants TLS (`nsqd/http.go`, `--tls-required`).
/// The number is a peer's: anything but a port is no refusal of this kind.
fn tls_port(status: StatusCode, code: &str, body: &[u8]) -> Option<NonZeroU16> {
    #[derive(serde::Deserialize)]
    struct Refusal {
        https_port: NonZeroU16,
    }
    (status == StatusCode::FORBIDDEN && code == "TLS_REQUIRED")
        .then(|| serde_json::from_slice::<Refusal>(body).ok())?
        .map(|refusal| refusal.https_port)
}

/// Sets the deadlines of every call. A server does not choose which other one is called.
fn limited(client: ClientBuilder) -> ClientBuilder {
    let client = client.connect_timeout(Duration::from_secs(2)).timeout(USUAL_LIMITS.time);
    client.no_proxy().redirect(Policy::none())
}

/// Parses JSON, unless it would take far more memory than its text.
fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let objects = memchr::memchr_iter(b'{', json).count();
    let values = memchr::memchr_iter(b',', json).count();
    if objects > MAX_OBJECTS || values > MAX_VALUES {
        return Err(format!(
            "it has {objects} objects and {values} values: up to {MAX_OBJECTS} and {MAX_VALUES} are read"
        ));
    }
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

/// The selection of topics, channels and clients for `/stats`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct StatsFilter {
    /// Restricts the statistics to one topic.
    pub topic: Option<TopicName>,
    /// Restricts the statistics to one channel.
    pub channel: Option<ChannelName>,
    /// Includes the clients, which is costly if there are many.
    pub clients: bool,
}

impl StatsFilter {
    /// Restricts the statistics to one topic.
    #[must_use]
    pub fn with_topic(mut self, topic: &TopicName) -> Self {
        self.topic = Some(topic.clone());
        self
    }

    /// Restricts the statistics to one channel.
    #[must_use]
    pub fn with_channel(mut self, channel: &ChannelName) -> Self {
        self.channel = Some(channel.clone());
        self
    }

    /// Includes the clients, which is costly if there are many.
    #[must_use]
    pub fn with_clients(mut self) -> Self {
        self.clients = true;
        self
    }

    fn query(&self, clients: bool) -> Vec<(&'static str, &str)> {
        let clients = if clients { WITH_CLIENTS } else { ("include_clients", "false") };
        let mut query = vec![("format", "json"), ("include_mem", "false"), clients];
        query.extend(self.topic.as_ref().map(|topic| ("topic", topic.as_str())));
        query.extend(self.channel.as_ref().map(|channel| ("channel", channel.as_str())));
        query
    }
}

/// nsqd's HTTP API. Cheap to clone; clones share connections.
///
/// An address `https://HOST:PORT` is called over TLS, which trusts no server until the API is
/// [`secured`](Self::secured). A secured API that has an address without TLS turns to the port with
/// TLS if nsqd answers that it wants TLS.
#[derive(Debug, Clone)]
pub struct Nsqd(Api);

impl Nsqd {
    /// Returns the same API, with these files for https.
    #[cfg(feature = "tls")]
    pub fn secured(self, tls: &TlsClient) -> Self {
        Self(self.0.secured(tls))
    }

    /// True for an address `https://…`.
    pub fn is_https(&self) -> bool {
        self.0.scheme == "https"
    }

    /// The URL that is called: the one with TLS, once an nsqd that wants TLS has told its port.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Checks nsqd's health.
    pub async fn ping(&self) -> Result<(), HttpError> {
        self.0.call(Method::GET, "/ping", &[]).await.map(drop)
    }

    /// nsqd's clock, truncated to seconds; `None` if the answer has no `Date`.
    pub async fn clock(&self) -> Result<Option<SystemTime>, HttpError> {
        self.0.call_dated(Method::GET, "/info", &[]).await.map(|(_, date)| date)
    }

    /// nsqd's version and addresses.
    pub async fn info(&self) -> Result<Info, HttpError> {
        self.0.get("/info", &[]).await
    }

    /// nsqd's TCP address; `None` if nsqd has no TCP port. The host is the one of the HTTP address,
    /// since the host that nsqd announces need not be reachable.
    pub fn tcp_address(&self, info: &Info) -> Option<Address> {
        let (host, _) = self.0.address.rsplit_once(':')?;
        format!("{host}:{}", info.tcp_port).parse().ok()
    }

    /// Topics, channels and their depths. Topics and channels that do not exist are missing in the
    /// answer.
    pub async fn stats(&self, filter: &StatsFilter) -> Result<Stats, HttpError> {
        self.0.get("/stats", &filter.query(filter.clients)).await
    }

    /// Counts of topics and channels: what [`stats`](Self::stats) tells without clients and
    /// latencies, in a fraction of the time and memory.
    pub async fn queue_stats(&self, filter: &StatsFilter) -> Result<QueueStats, HttpError> {
        self.0.get("/stats", &filter.query(false)).await
    }

    /// True if both are APIs at the same address.
    pub(crate) fn is_at_address_of(&self, other: &Self) -> bool {
        self.0.address == other.0.address && self.0.scheme == other.0.scheme
    }

    /// A numeric setting of nsqd, such as `max_msg_size`.
    pub async fn config(&self, option: ConfigNumber) -> Result<u64, HttpError> {
        self.0.get(option.path(), &[]).await
    }

    /// Creates a topic unless it exists.
    pub async fn create_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.0.post("/topic/create", &[("topic", topic.as_str())]).await
    }

    /// Deletes a topic with all its channels and messages.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.0.post("/topic/delete", &[("topic", topic.as_str())]).await
    }

    /// Pauses a topic: its messages do not go to the channels until it is unpaused.
    pub async fn pause_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.0.post("/topic/pause", &[("topic", topic.as_str())]).await
    }

    /// Unpauses a topic.
    pub async fn unpause_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.0.post("/topic/unpause", &[("topic", topic.as_str())]).await
    }

    /// Discards a topic's messages that no channel has yet.
    pub async fn empty_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.0.post("/topic/empty", &[("topic", topic.as_str())]).await
    }

    /// Creates a channel of an existing topic unless the channel exists.
    pub async fn create_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.channel("/channel/create", topic, channel).await
    }

    /// Deletes a channel with all its messages.
    pub async fn delete_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.channel("/channel/delete", topic, channel).await
    }

    /// Discards a channel's messages.
    pub async fn empty_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.channel("/channel/empty", topic, channel).await
    }

    /// Pauses a channel: its messages are not delivered until it is unpaused.
    pub async fn pause_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.channel("/channel/pause", topic, channel).await
    }

    /// Unpauses a channel.
    pub async fn unpause_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.channel("/channel/unpause", topic, channel).await
    }

    /// Publishes one message to a topic.
    pub async fn publish(&self, topic: &TopicName, body: Bytes) -> Result<(), HttpError> {
        self.0.send(Method::POST, "/pub", &[("topic", topic.as_str())], body, USUAL_LIMITS).await.map(drop)
    }

    /// True if the server knows [`publish_to_channel`](Self::publish_to_channel). The probe
    /// publishes nothing, as it names no topic.
    pub async fn can_publish_to_channel(&self) -> Result<bool, HttpError> {
        match self.0.call(Method::POST, "/channel/pub", &[]).await {
            Err(error) if error.is_unknown_request() => Ok(false),
            Ok(_) | Err(HttpError::Status { status: 400, .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Publishes one message to one channel of a topic. Only mqueue's broker knows this request;
    /// nsqd answers with an error for which [`HttpError::is_unknown_request`] is true.
    pub async fn publish_to_channel(
        &self,
        topic: &TopicName,
        channel: &ChannelName,
        body: Bytes,
    ) -> Result<(), HttpError> {
        let query = [("topic", topic.as_str()), ("channel", channel.as_str())];
        self.0.send(Method::POST, "/channel/pub", &query, body, USUAL_LIMITS).await.map(drop)
    }

    async fn channel(&self, path: &'static str, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.0.post(path, &[("topic", topic.as_str()), ("channel", channel.as_str())]).await
    }
}

/// nsqd's numeric settings in `/config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigNumber {
    /// The largest message, in bytes.
    MaxMsgSize,
    /// The largest command body, in bytes.
    MaxBodySize,
    /// Messages kept in memory, for each topic and channel.
    MemQueueSize,
}

impl ConfigNumber {
    fn path(self) -> &'static str {
        match self {
            Self::MaxMsgSize => "/config/max_msg_size",
            Self::MaxBodySize => "/config/max_body_size",
            Self::MemQueueSize => "/config/mem_queue_size",
        }
    }
}

/// nsqlookupd's HTTP API. Cheap to clone; clones share connections.
///
/// An address `https://HOST:PORT` is called over TLS, which trusts no server until the API is
/// [`secured`](Self::secured).
#[derive(Debug, Clone)]
pub struct Lookupd(Api);

impl Lookupd {
    /// Returns the same API, with these files for https.
    #[cfg(feature = "tls")]
    pub fn secured(self, tls: &TlsClient) -> Self {
        Self(self.0.secured(tls))
    }

    /// True for an address `https://…`.
    pub fn is_https(&self) -> bool {
        self.0.scheme == "https"
    }

    /// nsqlookupd's version.
    pub async fn info(&self) -> Result<Info, HttpError> {
        self.0.get("/info", &[]).await
    }

    /// The nsqds that have a topic; empty if nsqlookupd does not know the topic (yet).
    pub async fn lookup(&self, topic: &TopicName) -> Result<Lookup, HttpError> {
        match self.0.get("/lookup", &[("topic", topic.as_str())]).await {
            Err(e) if e.is_not_found() => Ok(Lookup::default()),
            answer => answer,
        }
    }

    /// All registered nsqds.
    pub async fn nodes(&self) -> Result<Lookup, HttpError> {
        self.0.get("/nodes", &[]).await
    }

    /// All registered topics.
    pub async fn topics(&self) -> Result<Topics, HttpError> {
        self.0.get("/topics", &[]).await
    }

    /// Registers a topic, as [`Nsqd::create_topic`] does.
    pub async fn create_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.0.post("/topic/create", &[("topic", topic.as_str())]).await
    }

    /// Removes a topic, with its channels.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), HttpError> {
        self.0.post("/topic/delete", &[("topic", topic.as_str())]).await
    }

    /// Registers a channel, and its topic: nsqds create it when they create the topic.
    pub async fn create_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.0.post("/channel/create", &[("topic", topic.as_str()), ("channel", channel.as_str())]).await
    }

    /// Removes a channel.
    pub async fn delete_channel(&self, topic: &TopicName, channel: &ChannelName) -> Result<(), HttpError> {
        self.0.post("/channel/delete", &[("topic", topic.as_str()), ("channel", channel.as_str())]).await
    }

    /// A topic's channels; empty if the topic is unknown.
    pub async fn channels(&self, topic: &TopicName) -> Result<Channels, HttpError> {
        self.0.get("/channels", &[("topic", topic.as_str())]).await
    }
}

macro_rules! server {
    ($type:ident, $program:literal) => {
        impl FromStr for $type {
            type Err = InvalidAddress;

            /// Parses `HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`. Connects only when a
            /// method is called.
            fn from_str(address: &str) -> Result<Self, InvalidAddress> {
                Api::new($program, address).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(if self.is_https() { "https://" } else { "" })?;
                f.write_str(&self.0.address)
            }
        }
    };
}

server!(Nsqd, "nsqd");
server!(Lookupd, "nsqlookupd");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_with_tls_is_read_from_that_refusal_only() {
        let port = |status, code, body: &str| tls_port(status, code, body.as_bytes()).map(NonZeroU16::get);
        let (refused, code) = (StatusCode::FORBIDDEN, "TLS_REQUIRED");
        let body = r#"{"message": "TLS_REQUIRED", "https_port": 4152}"#;
        assert_eq!(port(refused, code, body), Some(4152));
        assert_eq!(port(StatusCode::BAD_REQUEST, code, body), None);
        assert_eq!(port(refused, "E_OTHER", body), None);
        for number in ["0", "-1", "65536", "\"1\"", "null", "1.5", "[]"] {
            assert_eq!(port(refused, code, &format!(r#"{{"https_port": {number}}}"#)), None, "{number}");
        }
        assert_eq!(port(refused, code, "{}"), None);
    }

    #[test]
    fn addresses_with_tls_are_shown_as_they_are_given() {
        for address in ["https://a:4152", "a:4151", "https://[::1]:4152"] {
            let nsqd: Nsqd = address.parse().unwrap();
            assert_eq!(nsqd.to_string(), address);
            assert_eq!(nsqd.to_string().parse::<Nsqd>().unwrap().url(), nsqd.url());
        }
        assert_eq!("a:1".parse::<Lookupd>().unwrap().to_string(), "a:1");
    }
}
