//! What the handlers' tests share.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::proto::{ChannelName, Message, MessageId, TopicName};

use super::{HandlerOptions, PrintOutput};

/// A message at its second attempt.
pub(super) fn message(body: impl Into<Bytes>) -> Message {
    Message {
        timestamp: 1_700_000_000_123_456_789,
        attempts: 2,
        id: MessageId(*b"0123456789abcdef"),
        body: body.into(),
    }
}

/// Stream `foo`, group `1`, bodies as they are, half a minute.
pub(super) fn options() -> HandlerOptions {
    HandlerOptions {
        stream: TopicName::new("foo").unwrap(),
        group: ChannelName::new("1").unwrap(),
        output: PrintOutput::Body,
        timeout: Duration::from_secs(30),
        stop: CancellationToken::new(),
        capture_output: false,
        nsqd: vec!["127.0.0.1:4150".parse().unwrap()],
    }
}
