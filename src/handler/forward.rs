//! `forward:STREAM`: publishes the body to another stream, on the nsqds that are given by address.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::client::{Address, ConnectConfig, PublishError, PublishManyError, Publisher, PublisherConfig};
use crate::proto::{Message, TopicName};

use super::{Handler, HandlerError, HandlerOptions, Verdict};

/// The maximum batch: small enough that the first message does not wait long.
const MAX_BATCH: usize = 500;
/// The time that a publish may take while nsqd is unreachable.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes to one stream. Connects with the first message.
#[derive(Debug)]
pub struct ForwardHandler {
    stream: TopicName,
    nsqd: Vec<Address>,
    connect: ConnectConfig,
    publisher: OnceCell<Publisher>,
}

impl ForwardHandler {
    /// Creates a handler that publishes to `stream`. Fails if that is the source stream, or if no
    /// nsqd is given by address.
    pub fn new(stream: TopicName, options: &HandlerOptions) -> Result<Self, HandlerError> {
        match options.nsqd.is_empty() {
            _ if stream == options.stream => Err(HandlerError::FeedsItself(stream)),
            true => Err(HandlerError::NowhereToForward),
            false => Ok(Self {
                stream,
                nsqd: options.nsqd.clone(),
                connect: options.connect.clone(),
                publisher: OnceCell::new(),
            }),
        }
    }

    /// Creates a handler that publishes to `stream` on nsqds of another cluster, where a stream of
    /// the source's name is another one.
    ///
    /// # Errors
    /// No nsqd is given.
    pub fn elsewhere(stream: TopicName, nsqd: Vec<Address>, connect: ConnectConfig) -> Result<Self, HandlerError> {
        match nsqd.is_empty() {
            true => Err(HandlerError::NowhereToForward),
            false => Ok(Self { stream, nsqd, connect, publisher: OnceCell::new() }),
        }
    }

    fn failed(&self, error: &PublishError) -> Verdict {
        let why = format!("stream {}: {error}", self.stream);
        match error {
            PublishError::Empty | PublishError::TooLarge(_) | PublishError::Refused(_) => Verdict::drop(why),
            PublishError::TimedOut { .. } | PublishError::Closed => Verdict::unavailable(why),
        }
    }
}

impl Handler for ForwardHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let mut verdicts = self.handle_batch(vec![message]).await;
        verdicts.pop().expect("one verdict a message")
    }

    fn batch_size(&self) -> usize {
        MAX_BATCH
    }

    /// Publishes the bodies together. Cancelled, some may have been published.
    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let connecting = || {
            let config =
                PublisherConfig { timeout: TIMEOUT, connect: self.connect.clone(), ..PublisherConfig::default() };
            Publisher::connect(&self.nsqd, config)
        };
        let publisher = match self.publisher.get_or_try_init(connecting).await {
            Ok(publisher) => publisher,
            Err(error) => return vec![Verdict::unavailable(error.to_string()); messages.len()],
        };
        let mut verdicts = vec![Verdict::Done(None); messages.len()];
        let bodies: Vec<Bytes> = messages.into_iter().map(|message| message.body).collect();
        if let Err(PublishManyError(failed)) = publisher.publish_many(&self.stream, bodies).await {
            for (at, error) in failed {
                verdicts[at] = self.failed(&error);
            }
        }
        verdicts
    }
}
