//! JSON answers of the HTTP APIs of nsqd and nsqlookupd (`nsqd/stats.go`, `nsqd/http.go`,
//! `nsqlookupd/http.go`). Parsing is lenient: unknown fields are skipped, `null` lists are empty.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::List;

/// nsqd's `/stats?format=json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// nsqd's version.
    pub version: String,
    /// `OK`, or `NOK - ` and the reason.
    pub health: String,
    /// Start time in seconds since 1970.
    pub start_time: i64,
    /// The requested topics; `null` if there are none.
    pub topics: List<TopicStats>,
    /// Go's memory statistics, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<GoMemory>,
    /// Publishing connections.
    pub producers: List<ClientStats>,
    /// The log of `mqueue broker`; nsqd has no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStats>,
    /// Approximate memory in bytes that messages take in `mqueue broker` besides their bodies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_bytes: Option<u64>,
    /// The limit of `index_bytes` above which publishing is refused; `None` for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_index_bytes: Option<u64>,
}

/// The log of `mqueue broker`, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogStats {
    /// The size of all segments.
    pub bytes: u64,
    /// The bytes of messages that a channel still holds.
    pub live_bytes: u64,
    /// The number of segments.
    pub segments: u64,
    /// Disk space reserved for finishing and deleting messages.
    pub reserve_bytes: u64,
    /// The size of the log's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The space still writable on the log's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
}

/// Go's figures of its heap (bytes) and of its collector (microseconds).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Go's (runtime.MemStats)")]
pub struct GoMemory {
    pub heap_objects: u64,
    pub heap_idle_bytes: u64,
    pub heap_in_use_bytes: u64,
    pub heap_released_bytes: u64,
    pub gc_pause_usec_100: u64,
    pub gc_pause_usec_99: u64,
    pub gc_pause_usec_95: u64,
    pub next_gc_bytes: u64,
    pub gc_total_runs: u64,
}

/// One topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicStats {
    /// The topic's name.
    pub topic_name: String,
    /// The topic's channels.
    pub channels: List<ChannelStats>,
    /// Messages not yet copied to the channels (a topic without channels keeps its messages).
    pub depth: i64,
    /// The part of `depth` on disk.
    pub backend_depth: i64,
    /// Messages published since nsqd started.
    pub message_count: u64,
    /// The size of these messages' bodies in bytes.
    pub message_bytes: u64,
    /// The topic is paused: no messages go to the channels.
    pub paused: bool,
    /// End-to-end latency of messages.
    pub e2e_processing_latency: Latency,
    /// The age of the oldest message that the topic holds, in milliseconds. nsqd does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
}

/// One channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelStats {
    /// The channel's name.
    pub channel_name: String,
    /// The backlog in memory and on disk, without messages in flight and deferred.
    pub depth: i64,
    /// The part of `depth` on disk.
    pub backend_depth: i64,
    /// Messages in flight.
    pub in_flight_count: i64,
    /// Deferred messages.
    pub deferred_count: i64,
    /// Messages that the channel received since nsqd started.
    pub message_count: u64,
    /// Messages requeued by clients.
    pub requeue_count: u64,
    /// Messages requeued after the message timeout.
    pub timeout_count: u64,
    /// Connected consumers.
    pub client_count: i64,
    /// The consumers.
    pub clients: List<ClientStats>,
    /// The channel is paused: no messages go to the consumers.
    pub paused: bool,
    /// End-to-end latency of messages.
    pub e2e_processing_latency: Latency,
    /// The age of the oldest message in milliseconds: in flight, deferred or next in the queue. nsqd
    /// does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
}

/// One connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientStats {
    /// The client's name for itself.
    pub client_id: String,
    /// The client's host name, as the client reports it.
    pub hostname: String,
    /// The client's protocol version: `V2`.
    pub version: String,
    /// The client's address.
    pub remote_address: String,
    /// The connection's state: 0 new, 3 subscribed, 4 closing.
    pub state: i32,
    /// The connection's RDY.
    pub ready_count: i64,
    /// Messages in flight to the client.
    pub in_flight_count: i64,
    /// Messages delivered to the client.
    pub message_count: u64,
    /// Messages that the client finished.
    pub finish_count: u64,
    /// Messages that the client requeued.
    pub requeue_count: u64,
    /// Connection time in seconds since 1970.
    pub connect_ts: i64,
    /// The sample rate: the client gets `sample_rate + 1` of 100 messages, or all messages if it is
    /// 0.
    pub sample_rate: i32,
    /// The connection is compressed with deflate.
    pub deflate: bool,
    /// The connection is compressed with snappy.
    pub snappy: bool,
    /// The client's program and version.
    pub user_agent: String,
    /// Messages that the client published, by topic. nsqd lists at most one topic.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub pub_counts: List<PubCount>,
    /// The client passed AUTH.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub authed: bool,
    /// The identity that the AUTH server gave.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_identity: String,
    /// The identity's URL that the AUTH server gave.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_identity_url: String,
    /// The connection is encrypted with TLS.
    pub tls: bool,
    /// The TLS cipher suite.
    pub tls_cipher_suite: String,
    /// The TLS version.
    pub tls_version: String,
    /// The protocol negotiated by ALPN.
    pub tls_negotiated_protocol: String,
    /// Always false in newer Go.
    pub tls_negotiated_protocol_is_mutual: bool,
}

/// The number of messages that a connection published to a topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PubCount {
    /// The topic.
    pub topic: String,
    /// The number of messages.
    pub count: u64,
}

/// nsqd's quantiles of the time from publishing to FIN, if nsqd is configured to keep them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Messages counted.
    pub count: i64,
    /// The quantiles.
    pub percentiles: List<Quantile>,
}

/// One quantile of a [`Latency`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantile {
    /// The quantile, such as 0.99.
    #[serde(serialize_with = "like_go")]
    pub quantile: f64,
    /// The latency in nanoseconds.
    #[serde(serialize_with = "like_go")]
    pub value: f64,
}

/// nsqd's `/info`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// nsqd's version.
    pub version: String,
    /// The host that nsqd announces to nsqlookupd.
    pub broadcast_address: String,
    /// The server's host name.
    pub hostname: String,
    /// The server's HTTP port.
    pub http_port: i32,
    /// The server's TCP port; -1 on a Unix socket.
    pub tcp_port: i32,
    /// Start time in seconds since 1970.
    pub start_time: i64,
}

/// nsqlookupd's `/lookup?topic=…` and `/nodes`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lookup {
    /// The topic's channels (`/lookup` only).
    #[serde(deserialize_with = "null_is_default")]
    pub channels: Vec<String>,
    /// The nsqds.
    #[serde(deserialize_with = "null_is_default")]
    pub producers: Vec<Producer>,
}

/// An nsqd, as nsqlookupd knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Producer {
    /// The address from which the nsqd registered.
    pub remote_address: String,
    /// The nsqd's host name.
    pub hostname: String,
    /// The host that clients connect to.
    pub broadcast_address: String,
    /// The TCP port that clients connect to; 0 if the announced number is not a port.
    #[serde(deserialize_with = "port")]
    pub tcp_port: u16,
    /// The HTTP port; 0 if the announced number is not a port.
    #[serde(deserialize_with = "port")]
    pub http_port: u16,
    /// The nsqd's version.
    pub version: String,
    /// The nsqd's topics (`/nodes` only).
    #[serde(deserialize_with = "null_is_default")]
    pub topics: Vec<String>,
}

impl Producer {
    /// `host:port` for the TCP protocol, with an IPv6 host in brackets.
    pub fn tcp_address(&self) -> String {
        self.address(self.tcp_port)
    }

    /// `host:port` for HTTP, with an IPv6 host in brackets.
    pub fn http_address(&self) -> String {
        self.address(self.http_port)
    }

    fn address(&self, port: u16) -> String {
        match self.broadcast_address.contains(':') {
            true => format!("[{}]:{port}", self.broadcast_address),
            false => format!("{}:{port}", self.broadcast_address),
        }
    }
}

/// nsqlookupd's `/topics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topics {
    /// Every topic's name.
    #[serde(deserialize_with = "null_is_default")]
    pub topics: Vec<String>,
}

/// nsqlookupd's `/channels?topic=…`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Channels {
    /// Every channel's name.
    #[serde(deserialize_with = "null_is_default")]
    pub channels: Vec<String>,
}

/// The body of an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorBody {
    /// A code such as `TOPIC_NOT_FOUND`.
    pub message: String,
}

/// Encodes a number as Go does: without a fraction if it is whole.
pub(crate) fn json_number(number: f64) -> serde_json::Number {
    let whole = (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64);
    whole.map(Into::into).or_else(|| serde_json::Number::from_f64(number)).unwrap_or_else(|| 0.into())
}

fn like_go<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
    json_number(*number).serialize(to)
}

pub(super) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Reads a port; 0 for a number that is no port. nsqlookupd passes on any number that an nsqd
/// announces, such as -1 on a Unix socket, and one nsqd must not make the whole list unreadable.
fn port<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    i64::deserialize(from).map(|number| u16::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_empty_lists() {
        let stats: Stats = serde_json::from_str(r#"{"version":"1.3.0","topics":null,"producers":null}"#).unwrap();
        assert!(stats.topics.is_empty() && stats.producers.is_empty());
    }

    #[test]
    fn numbers_of_latencies_are_encoded_like_go() {
        let quantile = |quantile, value| serde_json::to_string(&Quantile { quantile, value }).unwrap();
        assert_eq!(quantile(1.0, 0.0), r#"{"quantile":1,"value":0}"#);
        assert_eq!(quantile(0.99, 3.5e9), r#"{"quantile":0.99,"value":3500000000}"#);
    }

    #[test]
    fn an_ipv6_host_gets_brackets() {
        let producer = Producer { broadcast_address: "::1".into(), tcp_port: 4150, ..Producer::default() };
        assert_eq!(producer.tcp_address(), "[::1]:4150");
    }

    /// Shortened answer of nsqd 1.3.0, with one producer and one consumer.
    const STATS: &str = r#"{"version":"1.3.0","health":"OK","start_time":1795213597,"topics":[{"topic_name":"zz","channels":
        [{"channel_name":"c","depth":0,"backend_depth":0,"in_flight_count":1,"deferred_count":0,"message_count":1,
        "requeue_count":0,"timeout_count":0,"client_count":1,"clients":[{"client_id":"127.0.0.1","hostname":"127.0.0.1",
        "version":"V2","remote_address":"127.0.0.1:55140","state":3,"ready_count":1,"in_flight_count":1,
        "message_count":1,"finish_count":0,"requeue_count":0,"connect_ts":1795213598,"sample_rate":0,"deflate":false,
        "snappy":false,"user_agent":"","tls":false,"tls_cipher_suite":"","tls_version":"","tls_negotiated_protocol":"",
        "tls_negotiated_protocol_is_mutual":false}],"paused":false,"e2e_processing_latency":{"count":0,
        "percentiles":null}}],"depth":0,"backend_depth":0,"message_count":1,"message_bytes":1,"paused":false,
        "e2e_processing_latency":{"count":0,"percentiles":null}}],"memory":{"heap_objects":2366},"producers":[
        {"client_id":"127.0.0.1","state":0,"pub_counts":[{"topic":"zz","count":1}]}]}"#;

    #[test]
    fn the_stats_of_nsqd_1_3_0_are_read() {
        let stats: Stats = serde_json::from_str(STATS).unwrap();
        let topic = &stats.topics[0];
        let channel = &topic.channels[0];
        let client = &channel.clients[0];
        assert_eq!((stats.health.as_str(), stats.start_time, stats.producers.len()), ("OK", 1_795_213_597, 1));
        assert_eq!((topic.topic_name.as_str(), topic.message_count, topic.message_bytes), ("zz", 1, 1));
        assert_eq!((channel.channel_name.as_str(), channel.in_flight_count, channel.client_count), ("c", 1, 1));
        assert_eq!((client.state, client.ready_count, client.connect_ts), (3, 1, 1_795_213_598));
    }

    #[test]
    fn the_answers_of_nsqlookupd_1_3_0_are_read() {
        let json = r#"{"producers":[{"remote_address":"127.0.0.1:40430","hostname":"vm","broadcast_address":"vm",
            "tcp_port":24152,"http_port":24153,"version":"1.3.0","tombstones":[false],"topics":["zz"]}]}"#;
        let nodes: Lookup = serde_json::from_str(json).unwrap();
        assert_eq!(
            (nodes.producers[0].tcp_address().as_str(), &nodes.producers[0].topics[..]),
            ("vm:24152", &["zz".to_owned()][..])
        );
        let nothing: ErrorBody = serde_json::from_str(r#"{"message":"TOPIC_NOT_FOUND"}"#).unwrap();
        assert_eq!(nothing.message, "TOPIC_NOT_FOUND");
    }
}
