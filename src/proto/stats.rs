//! The shapes of nsqd's and nsqlookupd's HTTP answers that are JSON (`nsqd/stats.go`, `nsqd/http.go`,
//! `nsqlookupd/http.go`). Read leniently: unknown fields are skipped, `null` lists are empty.

use serde::{Deserialize, Deserializer, Serialize};

use super::List;

/// nsqd's `/stats?format=json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// nsqd's version.
    pub version: String,
    /// `OK`, or `NOK - ` and why.
    pub health: String,
    /// Seconds since 1970.
    pub start_time: i64,
    /// Every topic asked for; `null` if there is no such topic.
    pub topics: List<TopicStats>,
    /// What Go says of its memory, if asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Connections that publish.
    pub producers: List<ClientStats>,
    /// The log of `mqueue broker`; nsqd says nothing of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStats>,
    /// Memory that messages take in `mqueue broker` besides their bodies, about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_bytes: Option<u64>,
    /// How much that may be before publishing is refused; `None` if it is not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_index_bytes: Option<u64>,
}

/// The log of `mqueue broker`, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogStats {
    /// All segments.
    pub bytes: u64,
    /// What messages that somebody holds need of them.
    pub live_bytes: u64,
    /// How many segments there are.
    pub segments: u64,
    /// Disk space that is kept for finishing and deleting messages.
    pub reserve_bytes: u64,
    /// The disk that the log is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// What of it may still be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
}

/// Go's figures of its heap (bytes) and of its collector (microseconds).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are Go's (runtime.MemStats)")]
pub struct Memory {
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
    /// Its name.
    pub topic_name: String,
    /// Its channels.
    pub channels: List<ChannelStats>,
    /// Messages not yet copied to the channels (a topic without channels keeps them here).
    pub depth: i64,
    /// Those of them on disk.
    pub backend_depth: i64,
    /// Messages published since nsqd started.
    pub message_count: u64,
    /// Their bytes.
    pub message_bytes: u64,
    /// No messages go to the channels.
    pub paused: bool,
    /// How long messages took from end to end.
    pub e2e_processing_latency: Latency,
}

/// One channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelStats {
    /// Its name.
    pub channel_name: String,
    /// Messages waiting, in memory and on disk; without those in flight and deferred.
    pub depth: i64,
    /// Those of them on disk.
    pub backend_depth: i64,
    /// Messages delivered and not yet answered.
    pub in_flight_count: i64,
    /// Messages waiting for their time.
    pub deferred_count: i64,
    /// Messages that came in since nsqd started.
    pub message_count: u64,
    /// Messages requeued by clients.
    pub requeue_count: u64,
    /// Messages requeued because nobody answered in time.
    pub timeout_count: u64,
    /// Connected consumers.
    pub client_count: i64,
    /// The consumers.
    pub clients: List<ClientStats>,
    /// No messages go to the consumers.
    pub paused: bool,
    /// How long messages took from end to end.
    pub e2e_processing_latency: Latency,
}

/// One connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientStats {
    /// What the client calls itself.
    pub client_id: String,
    /// Its machine, by its own word.
    pub hostname: String,
    /// Its protocol: `V2`.
    pub version: String,
    /// Where it connects from.
    pub remote_address: String,
    /// 0 new, 3 subscribed, 4 closing.
    pub state: i32,
    /// Its RDY.
    pub ready_count: i64,
    /// Messages delivered to it and not yet answered.
    pub in_flight_count: i64,
    /// Messages delivered to it.
    pub message_count: u64,
    /// Messages it finished.
    pub finish_count: u64,
    /// Messages it requeued.
    pub requeue_count: u64,
    /// When it connected, in seconds since 1970.
    pub connect_ts: i64,
    /// It gets that many of a hundred messages, and one; all if 0.
    pub sample_rate: i32,
    /// It is compressed with deflate.
    pub deflate: bool,
    /// It is compressed with snappy.
    pub snappy: bool,
    /// Its program.
    pub user_agent: String,
    /// What it published. nsqd names one topic at most.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub pub_counts: List<PubCount>,
    /// It is encrypted.
    pub tls: bool,
    /// How.
    pub tls_cipher_suite: String,
    /// With which version.
    pub tls_version: String,
    /// With which protocol inside.
    pub tls_negotiated_protocol: String,
    /// Always false in newer Go.
    pub tls_negotiated_protocol_is_mutual: bool,
}

/// How many messages a connection published to a topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PubCount {
    /// The topic.
    pub topic: String,
    /// How many.
    pub count: u64,
}

/// nsqd's quantiles of the time from publishing to FIN, if it was told to keep them.
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
    /// Which: 0.99.
    pub quantile: f64,
    /// Nanoseconds.
    pub value: f64,
}

/// nsqd's `/info`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// nsqd's version.
    pub version: String,
    /// What it tells nsqlookupd as its address.
    pub broadcast_address: String,
    /// Its machine.
    pub hostname: String,
    /// Its HTTP port.
    pub http_port: i32,
    /// Its TCP port; -1 on a Unix socket.
    pub tcp_port: i32,
    /// Seconds since 1970.
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

/// One nsqd, as nsqlookupd knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Producer {
    /// Where it registered from.
    pub remote_address: String,
    /// Its machine.
    pub hostname: String,
    /// The address that clients connect to.
    pub broadcast_address: String,
    /// The TCP port that clients connect to; 0 if it said what is no port.
    #[serde(deserialize_with = "port")]
    pub tcp_port: u16,
    /// Its HTTP port; 0 likewise.
    #[serde(deserialize_with = "port")]
    pub http_port: u16,
    /// Its version.
    pub version: String,
    /// Its topics (`/nodes` only).
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

pub(super) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// nsqlookupd passes on whatever number an nsqd says, -1 of one on a Unix socket: one of them is not to make the whole list unreadable.
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
    fn an_ipv6_host_gets_brackets() {
        let producer = Producer { broadcast_address: "::1".into(), tcp_port: 4150, ..Producer::default() };
        assert_eq!(producer.tcp_address(), "[::1]:4150");
    }

    /// Cut from nsqd 1.3.0's answer, with one producer and one consumer.
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
