//! A subscription that also publishes, on one connection.
//!
//! nsqd executes the commands of a connection in order and answers in order. So the OK of a publish
//! proves that an earlier TOUCH, which has no answer of its own, was executed, and a publish before
//! a REQ is stored before the message is requeued. A [`PublishingSubscription`] never reconnects:
//! messages in flight belong to its connection and end with it.

use std::io;
use std::time::{Duration, Instant};

use bytes::Buf;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, answer_heartbeat};
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
        let mut write_failed = false;
        loop {
            let late = self.connection.frame_due().map(|due| due.saturating_duration_since(Instant::now()));
            let Connection { stream, incoming, out, address, .. } = &mut self.connection;
            let address = || address.clone();
            let broken = |source| Error::Frame { address: address(), source };
            match incoming.next_frame().map_err(broken)? {
                Some(Frame::Message(message)) => return Ok(SubscriptionEvent::Message(message)),
                Some(Frame::Response(Response::Ok)) => return Ok(SubscriptionEvent::Published),
                Some(Frame::Response(Response::Heartbeat)) => answer_heartbeat(out),
                Some(Frame::Response(other)) => return Err(self.connection.unexpected(format!("{other:?}"))),
                Some(Frame::Error(error)) if !error.code.is_fatal() => return Ok(SubscriptionEvent::Failed(error)),
                Some(Frame::Error(source)) => return Err(Error::Refused { address: address(), source }),
                None => {}
            }
            let silent = self.silence.saturating_sub(self.heard.elapsed());
            let (mut reader, mut writer) = stream.split();
            tokio::select! {
                biased;
                wrote = writer.write_buf(out), if out.has_remaining() && !write_failed => {
                    // frames that nsqd sent before it closed may still be readable
                    write_failed = wrote.is_err();
                }
                read = incoming.fill(&mut reader) => match read {
                    Ok(0) => return Err(Error::Closed { address: address(), source: None }),
                    Ok(_) => self.heard = Instant::now(),
                    Err(e) => return Err(Error::Closed { address: address(), source: Some(e) }),
                },
                () = sleep(late.unwrap_or_default()), if late.is_some() => return Err(self.connection.slow_frame_error()),
                () = sleep(silent) => return Err(Error::Silent { address: address(), after: self.silence }),
            }
        }
    }

    /// Sends queued commands and closes the connection once nsqd has read them, or after 2 s.
    pub async fn close(mut self) {
        let Connection { stream, incoming, out, .. } = &mut self.connection;
        let closing = async {
            stream.write_all_buf(out).await?;
            stream.shutdown().await?;
            while incoming.fill(stream).await? > 0 {
                while let Ok(Some(_)) = incoming.next_frame() {}
            }
            io::Result::Ok(())
        };
        if !matches!(timeout(CLOSE_TIMEOUT, closing).await, Ok(Ok(()))) {
            tracing::debug!(nsqd = %self.connection.address, "nsqd did not close the connection in time");
        }
    }
}
