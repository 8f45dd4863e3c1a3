//! A subscription that also publishes, on one connection.
//!
//! nsqd executes the commands of a connection in order and answers in order. So the OK of a publish
//! proves that an earlier TOUCH, which has no answer of its own, was executed, and a publish before
//! a REQ is stored before the message is requeued. A [`PublishingSubscription`] never reconnects:
//! messages in flight belong to its connection and end with it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::connection::{Connection, Step};
use super::{Address, ConnectConfig, Error};
use crate::proto::{ChannelName, Command, Frame, IdentifyReply, Message, Response, TopicName, WireError};

/// The time limit for nsqd to close its side of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An event on the connection.
#[derive(Debug)]
pub enum SubscriptionEvent {
    /// A message, now in flight on this connection.
    Message(Message),
    /// The OK for the oldest unanswered publish.
    Published,
    /// An error for a late FIN, REQ or TOUCH, or a fenced FPUB.
    Failed(WireError),
}

/// A subscribed connection that can publish. Messages in flight when it is dropped are requeued by
/// nsqd.
#[derive(Debug)]
pub struct PublishingSubscription {
    connection: Connection,
    /// The longest accepted silence of nsqd.
    silence: Duration,
    heard: Instant,
}

impl PublishingSubscription {
    /// Connects and subscribes; creates the topic and the channel if they do not exist. No message
    /// arrives before an RDY.
    pub async fn connect(
        address: &Address,
        config: &ConnectConfig,
        topic: TopicName,
        channel: ChannelName,
    ) -> Result<Self, Error> {
        let mut connection = Connection::open(address, config).await?;
        match connection.ask(&Command::Sub { topic, channel }).await? {
            Response::Ok => {}
            other => return Err(connection.unexpected(format!("{other:?}"))),
        }
        let silence = config.heartbeat().map_or(Duration::from_secs(1 << 30), |every| 2 * every);
        Ok(Self { connection, silence, heard: Instant::now() })
    }

    /// The settings that nsqd granted.
    pub fn granted(&self) -> &IdentifyReply {
        &self.connection.granted
    }

    /// Queues a command; the next call of [`next`](Self::next) or [`close`](Self::close) sends it.
    pub fn queue(&mut self, command: &Command) {
        command.encode(&mut self.connection.out);
    }

    /// Sends queued commands and waits for the next event; fails when the connection ends.
    ///
    /// # Cancel safety
    /// Cancel-safe: no event is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<SubscriptionEvent, Error> {
        loop {
            let late = self.connection.frame_due().map(|due| due.saturating_duration_since(Instant::now()));
            let nsqd = self.connection.address.clone();
            let address = || nsqd.clone();
            let broken = |source| Error::Frame { address: address(), source };
            match self.connection.incoming.next_frame().map_err(broken)? {
                Some(Frame::Message(message)) => return Ok(SubscriptionEvent::Message(message)),
                Some(Frame::Response(Response::Ok)) => return Ok(SubscriptionEvent::Published),
                Some(Frame::Response(Response::Heartbeat)) => self.connection.answer_heartbeat(),
                Some(Frame::Response(other)) => return Err(self.connection.unexpected(format!("{other:?}"))),
                Some(Frame::Error(error)) if !error.code.is_fatal() => return Ok(SubscriptionEvent::Failed(error)),
                Some(Frame::Error(source)) => return Err(Error::Refused { address: address(), source }),
                None => {}
            }
            let silent = self.silence.saturating_sub(self.heard.elapsed());
            tokio::select! {
                biased;
                step = self.connection.exchange(true) => match step {
                    Step::Wrote(_) => {}
                    Step::Read(Ok(0)) => return Err(self.connection.closed(None)),
                    Step::Read(Ok(_)) => self.heard = Instant::now(),
                    Step::Read(Err(e)) => return Err(self.connection.closed(Some(e))),
                },
                () = sleep(late.unwrap_or_default()), if late.is_some() => return Err(self.connection.slow_frame_error()),
                () = sleep(silent) => return Err(Error::Silent { address: address(), after: self.silence }),
            }
        }
    }

    /// Sends queued commands and closes the connection once nsqd has read them, or after 2 s.
    pub async fn close(mut self) {
        if !matches!(timeout(CLOSE_TIMEOUT, self.connection.close()).await, Ok(Ok(()))) {
            tracing::debug!(nsqd = %self.connection.address, "nsqd did not close the connection in time");
        }
    }
}
