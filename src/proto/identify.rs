//! IDENTIFY: the client's name and the settings it asks for, and nsqd's reply.
//!
//! Unset fields are not sent and mean nsqd's defaults. Ranges are nsqd 1.3.0's
//! (`nsqd/client_v2.go`); a value outside its range ends the connection with E_BAD_BODY.

use serde::{Deserialize, Deserializer, Serialize};

use super::stats::null_is_default;

/// The body of IDENTIFY.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identify {
    /// The client's short name, shown by nsqd's `/stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The client's host name.
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
    /// nsqd's output buffer in bytes: 64 to 65536, or -1 for none. nsqd's default is 16384.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_size: Option<i64>,
    /// Milliseconds after which nsqd flushes its output buffer: 25 to 30000, or -1 for never.
    /// nsqd's default is 250.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_timeout: Option<i64>,
    /// Percentage of the messages to deliver: 1 to 99; 0 delivers all. nsqd discards the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<i32>,
    /// Milliseconds until a message in flight is requeued: 1000 to nsqd's `--max-msg-timeout`.
    /// nsqd's default is 60000.
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
    /// Asks for FPUB, which only mqueue's broker has.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub fence: bool,
    /// Asks for BACK, which only mqueue's broker has.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub give_back: bool,
}

/// The field names of [`Identify`]; Go accepts them in any case.
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
    /// Parses as Go does: `null` sets nothing, a field may be `null`, a name may be in any case,
    /// and the last of two equal names counts.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        let wishes: Option<IdentifyFields> = serde_json::from_slice(json)?;
        wishes.map_or(Ok(Self::default()), |IdentifyFields(wishes)| serde_json::from_value(wishes.into()))
    }
}

/// A JSON object whose names are spelled as in [`FIELDS`] where they match in another case.
struct IdentifyFields(serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for IdentifyFields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InAnyCase;
        impl<'de> serde::de::Visitor<'de> for InAnyCase {
            type Value = IdentifyFields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<IdentifyFields, A::Error> {
                let mut fields = serde_json::Map::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let known = FIELDS.into_iter().find(|field| field.eq_ignore_ascii_case(&name));
                    fields.insert(known.map_or(name, str::to_owned), value);
                }
                Ok(IdentifyFields(fields))
            }
        }
        from.deserialize_map(InAnyCase)
    }
}

/// nsqd's answer to AUTH. It does not say what the permissions are, nor when they end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthReply {
    /// The identity that the AUTH server gave.
    pub identity: String,
    /// The number of grants of the AUTH server.
    pub permission_count: u64,
}

/// nsqd's answer to an [`Identify`] with `feature_negotiation`. Absent fields have their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentifyReply {
    /// The highest RDY that nsqd accepts. `--max-rdy-count` has 64 bits; larger numbers saturate.
    #[serde(deserialize_with = "saturating")]
    pub max_rdy_count: u32,
    /// nsqd's version.
    pub version: String,
    /// Milliseconds that a message can stay in flight, regardless of TOUCH.
    pub max_msg_timeout: u64,
    /// Milliseconds until a message in flight is requeued.
    pub msg_timeout: u64,
    /// TLS begins after this reply.
    pub tls_v1: bool,
    /// Deflate begins after this reply (and after TLS).
    pub deflate: bool,
    /// The deflate level in force.
    pub deflate_level: i32,
    /// The highest deflate level that nsqd accepts.
    pub max_deflate_level: i32,
    /// Snappy begins after this reply (and after TLS).
    pub snappy: bool,
    /// The sample rate in force.
    pub sample_rate: i32,
    /// AUTH is required before SUB and PUB.
    pub auth_required: bool,
    /// nsqd's output buffer in bytes.
    pub output_buffer_size: i64,
    /// Milliseconds after which nsqd flushes its output buffer.
    pub output_buffer_timeout: i64,
    /// The server knows FPUB. nsqd does not send this field.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fence: bool,
    /// The server knows BACK. nsqd does not send this field.
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

impl IdentifyReply {
    /// Checks the granted settings: with settings that fail, nothing could be consumed or
    /// published.
    ///
    /// # Errors
    /// Names the first unusable setting, as part of a sentence.
    pub fn check(&self, asked: &Identify) -> Result<(), String> {
        let sample_rate = asked.sample_rate.unwrap_or(0);
        Err(match self {
            Self { msg_timeout: 0, .. } => "it grants a msg_timeout of 0 ms".to_owned(),
            Self { max_msg_timeout: 0, .. } => "it grants a max_msg_timeout of 0 ms".to_owned(),
            Self { max_rdy_count: 0, .. } => "it grants a max_rdy_count of 0".to_owned(),
            Self { tls_v1: true, .. } if !asked.tls_v1 => "it begins TLS, which was not asked for".to_owned(),
            Self { deflate: true, .. } if !asked.deflate => "it begins deflate, which was not asked for".to_owned(),
            Self { snappy: true, .. } if !asked.snappy => "it begins snappy, which was not asked for".to_owned(),
            Self { sample_rate: granted, .. } if *granted != sample_rate => {
                format!("it samples at {granted} %, and {sample_rate} was asked for: it would discard messages")
            }
            _ => return Ok(()),
        })
    }
}

fn saturating<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    u64::deserialize(from).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_read_in_any_case_and_the_last_value_counts() {
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
    fn unset_fields_are_not_sent() {
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
    fn unusable_grants_are_refused() {
        let asked = Identify { sample_rate: Some(50), ..Identify::default() };
        let check = |json: &str| serde_json::from_str::<IdentifyReply>(json).unwrap().check(&asked);
        assert_eq!(check(r#"{"sample_rate":50}"#), Ok(()));
        for (json, says) in [
            (r#"{"sample_rate":50,"msg_timeout":0}"#, "msg_timeout of 0 ms"),
            (r#"{"sample_rate":50,"max_msg_timeout":0}"#, "max_msg_timeout of 0 ms"),
            (r#"{"sample_rate":50,"max_rdy_count":0}"#, "max_rdy_count of 0"),
            (r#"{"sample_rate":50,"tls_v1":true}"#, "TLS"),
            (r#"{"sample_rate":50,"snappy":true}"#, "snappy"),
            (r#"{"sample_rate":50,"deflate":true}"#, "deflate"),
            (r#"{"sample_rate":99}"#, "samples at 99 %, and 50 was asked for"),
        ] {
            assert!(check(json).unwrap_err().contains(says), "{json}");
        }
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
