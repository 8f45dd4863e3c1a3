//! IDENTIFY: who the client is, what it wishes, and what nsqd grants.
//!
//! Absent fields mean nsqd's defaults, so what is not set is not sent. Ranges are nsqd 1.3.0's (`nsqd/client_v2.go`); one
//! outside of them ends the connection with E_BAD_BODY.

use serde::{Deserialize, Deserializer, Serialize};

use super::stats::null_is_default;

/// The body of IDENTIFY.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identify {
    /// A short name for the client, shown by nsqd's `/stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The client's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The client's program and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Asks for an [`IdentifyReply`] rather than a bare OK.
    #[serde(deserialize_with = "null_is_default")]
    pub feature_negotiation: bool,
    /// Milliseconds between heartbeats: 1000 to 60000, or -1 for none. nsqd's default is 30000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval: Option<i64>,
    /// Bytes that nsqd gathers before it writes: 64 to 65536, or -1. nsqd's default is 16384.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_size: Option<i64>,
    /// Milliseconds after which nsqd writes what it gathered: 25 to 30000, or -1. nsqd's default is 250.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_timeout: Option<i64>,
    /// Percent of the messages to be delivered (the others are discarded): 0 (off) to 99.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<i32>,
    /// Milliseconds in which a message must be answered: 1000 to nsqd's `--max-msg-timeout`. nsqd's default is 60000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg_timeout: Option<i64>,
    /// Asks for TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub tls_v1: bool,
    /// Asks for snappy compression.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub snappy: bool,
    /// Asks for deflate compression.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub deflate: bool,
    /// The deflate level: 1 to nsqd's `--max-deflate-level`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deflate_level: Option<i32>,
    /// Asks for FPUB, which mqueue's broker has.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub fence: bool,
    /// Asks for BACK, which mqueue's broker has.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub give_back: bool,
}

/// The fields of [`Identify`], whose names Go takes in any case.
const FIELDS: [&str; 15] = [
    "client_id",
    "hostname",
    "user_agent",
    "feature_negotiation",
    "heartbeat_interval",
    "output_buffer_size",
    "output_buffer_timeout",
    "sample_rate",
    "msg_timeout",
    "tls_v1",
    "snappy",
    "deflate",
    "deflate_level",
    "fence",
    "give_back",
];

impl Identify {
    /// Reads it as Go does: `null` wishes nothing, a field may be `null`, its name may be in any case, and the last of two of one name counts.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        let wishes: Option<Fields> = serde_json::from_slice(json)?;
        wishes.map_or(Ok(Self::default()), |Fields(wishes)| serde_json::from_value(wishes.into()))
    }
}

/// A JSON object with names as they are in [`FIELDS`], if they are.
struct Fields(serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InAnyCase;
        impl<'de> serde::de::Visitor<'de> for InAnyCase {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = serde_json::Map::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let known = FIELDS.into_iter().find(|field| field.eq_ignore_ascii_case(&name));
                    fields.insert(known.map_or(name, str::to_owned), value);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InAnyCase)
    }
}

/// nsqd's answer to an [`Identify`] with `feature_negotiation`. Read leniently: what a server leaves out is its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentifyReply {
    /// The highest RDY that nsqd takes (`--max-rdy-count` takes 64 bits; more than fit here are as good as all of them).
    #[serde(deserialize_with = "saturating")]
    pub max_rdy_count: u32,
    /// nsqd's version.
    pub version: String,
    /// Milliseconds that a message can stay in flight, with however many TOUCHes.
    pub max_msg_timeout: u64,
    /// Milliseconds until a message in flight is requeued.
    pub msg_timeout: u64,
    /// TLS follows at once.
    pub tls_v1: bool,
    /// Deflate follows at once (after TLS).
    pub deflate: bool,
    /// The level in force.
    pub deflate_level: i32,
    /// The highest level that nsqd takes.
    pub max_deflate_level: i32,
    /// Snappy follows at once (after TLS).
    pub snappy: bool,
    /// The sample rate in force.
    pub sample_rate: i32,
    /// AUTH is wanted before SUB and PUB.
    pub auth_required: bool,
    /// Bytes that nsqd gathers.
    pub output_buffer_size: i64,
    /// Milliseconds that nsqd gathers for.
    pub output_buffer_timeout: i64,
    /// FPUB is known. nsqd does not send this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fence: bool,
    /// BACK is known. nsqd does not send this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub give_back: bool,
}

impl Default for IdentifyReply {
    fn default() -> Self {
        Self {
            max_rdy_count: 2500,
            version: String::new(),
            max_msg_timeout: 900_000,
            msg_timeout: 60_000,
            tls_v1: false,
            deflate: false,
            deflate_level: 6,
            max_deflate_level: 6,
            snappy: false,
            sample_rate: 0,
            auth_required: false,
            output_buffer_size: 16_384,
            output_buffer_timeout: 250,
            fence: false,
            give_back: false,
        }
    }
}

fn saturating<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    u64::deserialize(from).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_and_the_last_counts() {
        let wishes =
            Identify::from_json(br#"{"CLIENT_ID":"a","client_id":"b","Sample_Rate":7,"other":[],"hostname":null}"#);
        let expected = Identify { client_id: Some("b".into()), sample_rate: Some(7), ..Identify::default() };
        assert_eq!(wishes.unwrap(), expected);
        assert_eq!(Identify::from_json(b"null").unwrap(), Identify::default());
        for wrong in [&b"[]"[..], b"", b"1", b"{\"client_id\":1}", b"{}x"] {
            assert!(Identify::from_json(wrong).is_err());
        }
    }

    #[test]
    fn all_fields_are_known() {
        let json = FIELDS.map(|field| format!("\"{field}\":null")).join(",");
        assert!(Identify::from_json(format!("{{{json}}}").as_bytes()).is_ok());
        let all = Identify {
            client_id: Some(String::new()),
            hostname: Some(String::new()),
            user_agent: Some(String::new()),
            feature_negotiation: true,
            heartbeat_interval: Some(1),
            output_buffer_size: Some(1),
            output_buffer_timeout: Some(1),
            sample_rate: Some(1),
            msg_timeout: Some(1),
            tls_v1: true,
            snappy: true,
            deflate: true,
            deflate_level: Some(1),
            fence: true,
            give_back: true,
        };
        let json = serde_json::to_value(all).unwrap();
        let names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = FIELDS;
        fields.sort_unstable();
        assert_eq!(names, fields);
    }

    #[test]
    fn what_is_not_set_is_not_sent() {
        let identify = Identify { feature_negotiation: true, msg_timeout: Some(2000), ..Identify::default() };
        let json = serde_json::to_string(&identify).unwrap();
        assert_eq!(json, r#"{"feature_negotiation":true,"msg_timeout":2000}"#);
    }

    #[test]
    fn a_reply_with_unknown_and_missing_fields_is_read() {
        let reply: IdentifyReply =
            serde_json::from_str(r#"{"version":"9","topology_zone":"a","max_rdy_count":7}"#).unwrap();
        assert_eq!((reply.max_rdy_count, reply.msg_timeout), (7, 60_000));
    }

    #[test]
    fn null_means_the_default_as_in_nsqd() {
        let json = r#"{"client_id":null,"feature_negotiation":null,"tls_v1":null,"snappy":null,"deflate":null,
            "heartbeat_interval":null,"sample_rate":null,"msg_timeout":null,"short_id":"legacy"}"#;
        assert_eq!(serde_json::from_str::<Identify>(json).unwrap(), Identify::default());
    }

    #[test]
    fn the_answer_of_nsqd_1_3_0_is_read_and_written() {
        let json = concat!(
            r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,"#,
            r#""deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":0,"#,
            r#""auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250}"#,
        );
        let reply: IdentifyReply = serde_json::from_str(json).unwrap();
        assert_eq!(reply, IdentifyReply { version: "1.3.0".into(), ..IdentifyReply::default() });
        assert_eq!(serde_json::to_string(&reply).unwrap(), json);
    }

    #[test]
    fn a_huge_max_rdy_count_is_no_failure() {
        let reply: IdentifyReply = serde_json::from_str(r#"{"max_rdy_count":5000000000}"#).unwrap();
        assert_eq!(reply.max_rdy_count, u32::MAX);
    }
}
