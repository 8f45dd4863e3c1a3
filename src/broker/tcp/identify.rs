//! IDENTIFY: negotiation of a connection's settings (`nsqd/client_v2.go`).

use std::time::Duration;

use crate::broker::state::{SessionSecurity, SessionSettings};
use crate::broker::{BrokerConfig, VERSION};
use crate::net::transport::Compression;
use crate::proto::{ErrorCode, Identify, IdentifyReply, ProtocolError};

/// nsqd's settings for clients without IDENTIFY.
const HEARTBEAT: Duration = Duration::from_secs(30);
const OUTPUT_BUFFER_SIZE: i64 = 16 * 1024;
/// nsqd's level for clients that do not ask for one.
const DEFLATE_LEVEL: u32 = 6;

/// Negotiated settings of a connection.
#[derive(Debug, Clone)]
pub(super) struct Negotiated {
    pub(super) settings: SessionSettings,
    /// The heartbeat interval; `None` without heartbeats.
    pub(super) heartbeat: Option<Duration>,
    output_buffer_size: i64,
    output_buffer_timeout: i64,
    /// True if the client may send FPUB.
    pub(super) fence: bool,
    /// True if the client may send BACK.
    pub(super) give_back: bool,
    /// Upgrades that IDENTIFY's response grants, and that follow it.
    pub(super) upgrades: Upgrades,
    deflate_level: u32,
}

/// Upgrades of a connection, in their order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Upgrades {
    pub(super) tls: bool,
    pub(super) compression: Option<Compression>,
}

impl Negotiated {
    /// The settings before IDENTIFY; the client's id and host name are its address.
    pub(super) fn by_default(config: &BrokerConfig, peer: &str) -> Self {
        let host = match peer.rsplit_once(':') {
            Some((host, _)) => host.trim_matches(['[', ']']),
            None => peer,
        };
        let settings = SessionSettings {
            client_id: host.to_owned(),
            hostname: host.to_owned(),
            msg_timeout: config.msg_timeout,
            ..SessionSettings::default()
        };
        Self {
            settings,
            heartbeat: Some(HEARTBEAT),
            output_buffer_size: OUTPUT_BUFFER_SIZE,
            output_buffer_timeout: config.default_output_buffer_timeout,
            fence: false,
            give_back: false,
            upgrades: Upgrades::default(),
            deflate_level: 0,
        }
    }

    /// Applies a client's IDENTIFY, in nsqd's order. Fails, with nsqd's error text, on a value that
    /// is out of range.
    pub(super) fn take(&mut self, wishes: Identify, config: &BrokerConfig) -> Result<(), ProtocolError> {
        self.settings.client_id = wishes.client_id.unwrap_or_default();
        self.settings.hostname = wishes.hostname.unwrap_or_default();
        self.settings.user_agent = wishes.user_agent.unwrap_or_default();
        match wishes.heartbeat_interval.unwrap_or(0) {
            -1 => self.heartbeat = None,
            0 => {}
            ms @ 1000.. if ms <= config.max_heartbeat_interval => self.heartbeat = Some(millis(ms)),
            other => return Err(invalid("heartbeat interval", other)),
        }
        let (shortest, longest) = config.output_buffer_timeout;
        match wishes.output_buffer_timeout.unwrap_or(0) {
            -1 => self.output_buffer_timeout = 0,
            0 => {}
            ms if (shortest..=longest).contains(&ms) => self.output_buffer_timeout = ms,
            other => return Err(invalid("output buffer timeout", other)),
        }
        match wishes.output_buffer_size.unwrap_or(0) {
            -1 => (self.output_buffer_size, self.output_buffer_timeout) = (1, 0),
            0 => {}
            size @ 64.. if size <= config.max_output_buffer_size => self.output_buffer_size = size,
            other => return Err(invalid("output buffer size", other)),
        }
        match wishes.sample_rate.unwrap_or(0) {
            rate @ 0..=99 => self.settings.sample_rate = rate,
            other => return Err(invalid("sample rate", i64::from(other))),
        }
        let longest = i64::try_from(config.state.max_msg_timeout).unwrap_or(i64::MAX);
        match wishes.msg_timeout.unwrap_or(0) {
            0 => {}
            ms @ 1000.. if ms <= longest => self.settings.msg_timeout = ms.unsigned_abs(),
            other => return Err(invalid("msg timeout", other)),
        }
        self.fence = wishes.fence && wishes.feature_negotiation;
        self.give_back = wishes.give_back && wishes.feature_negotiation;
        if !wishes.feature_negotiation {
            return Ok(());
        }
        let deflate = wishes.deflate && config.deflate;
        let snappy = wishes.snappy && config.snappy;
        if deflate && snappy {
            let text = "cannot enable both deflate and snappy compression";
            return Err(ProtocolError::new(ErrorCode::IdentifyFailed, text));
        }
        let asked =
            wishes.deflate_level.and_then(|level| u32::try_from(level).ok()).filter(|level| deflate && *level > 0);
        self.deflate_level = asked.unwrap_or(DEFLATE_LEVEL).min(config.max_deflate_level);
        self.upgrades = Upgrades {
            tls: wishes.tls_v1 && config.tls.is_some(),
            compression: match snappy {
                true => Some(Compression::Snappy),
                false => deflate.then_some(Compression::Deflate(self.deflate_level)),
            },
        };
        // nsqd goes on with the bare socket then, under the TLS and the compression that it has
        let SessionSecurity { tls, deflate, snappy, .. } = &self.settings.security;
        if (tls.is_some() || *deflate || *snappy) && (self.upgrades.tls || self.upgrades.compression.is_some()) {
            let text = "IDENTIFY failed: TLS and compression are negotiated once";
            return Err(ProtocolError::new(ErrorCode::IdentifyFailed, text));
        }
        Ok(())
    }

    /// The response for a client that negotiates features.
    pub(super) fn reply(&self, config: &BrokerConfig) -> IdentifyReply {
        IdentifyReply {
            max_rdy_count: u32::try_from(config.max_rdy_count).unwrap_or(u32::MAX),
            version: VERSION.to_owned(),
            max_msg_timeout: config.state.max_msg_timeout,
            msg_timeout: self.settings.msg_timeout,
            sample_rate: self.settings.sample_rate,
            output_buffer_size: self.output_buffer_size,
            output_buffer_timeout: self.output_buffer_timeout,
            fence: self.fence,
            give_back: self.give_back,
            tls_v1: self.upgrades.tls,
            deflate: matches!(self.upgrades.compression, Some(Compression::Deflate(_))),
            deflate_level: level(self.deflate_level),
            max_deflate_level: level(config.max_deflate_level),
            snappy: self.upgrades.compression == Some(Compression::Snappy),
            auth_required: config.auth.is_some(),
        }
    }
}

fn level(level: u32) -> i32 {
    i32::try_from(level).unwrap_or(i32::MAX)
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn invalid(what: &str, value: i64) -> ProtocolError {
    ProtocolError::new(ErrorCode::BadBody, format!("IDENTIFY {what} ({value}) is invalid"))
}
