//! A subscription that publishes, too, on the one connection that it has.
//!
//! nsqd does what it is told on a connection in order, and answers in order. So the OK of a publish proves the TOUCH before it, which has no
//! answer of its own, and what was published before a REQ is out before the message is. A [`PublishingSubscription`] never connects again: what is in
//! flight belongs to its connection, and ends with it.

use std::io;
use std::time::{Duration, Instant};

use bytes::Buf;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, answer_heartbeat};
use super::{Address, ConnectConfig, Error};
use crate::proto::{ChannelName, Command, Frame, IdentifyReply, Message, Response, TopicName, WireError};

/// How long nsqd has to end its side of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What nsqd says.
#[derive(Debug)]
pub enum SubscriptionEvent {
    /// A message, in flight on this connection from now on.
    Message(Message),
    /// OK: the oldest publish that was not yet answered.
    Published,
    /// A FIN, REQ or TOUCH came too late.
    Failed(WireError),
}

/// The connection. Dropping it leaves what is in flight to its timeout.
#[derive(Debug)]
pub struct PublishingSubscription {
    connection: Connection,
    /// The longest that nsqd may be silent.
    silence: Duration,
    heard: Instant,
}

impl PublishingSubscription {
    /// Connects and subscribes: creates the topic and the channel. No message comes before RDY was said.
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

    /// What nsqd has granted.
    pub fn granted(&self) -> &IdentifyReply {
        &self.connection.granted
    }

    /// Has something said by the next call of [`next`](Self::next) or [`close`](Self::close).
    pub fn say(&mut self, command: &Command) {
        command.encode(&mut self.connection.out);
    }

    /// Says what is to be said, and waits for what nsqd says; fails when the connection ends. Cancel-safe.
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
                    // what nsqd said before it closed may still be there to read
                    write_failed = wrote.is_err();
                }
                read = incoming.fill(&mut reader) => match read {
                    Ok(0) => return Err(Error::Closed { address: address(), source: None }),
                    Ok(_) => self.heard = Instant::now(),
                    Err(e) => return Err(Error::Closed { address: address(), source: Some(e) }),
                },
                () = sleep(late.unwrap_or_default()), if late.is_some() => return Err(self.connection.slow()),
                () = sleep(silent) => return Err(Error::Silent { address: address(), after: self.silence }),
            }
        }
    }

    /// Says what is left to be said, and ends the connection when nsqd has read it, or does not.
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
            tracing::debug!(nsqd = %self.connection.address, "not closed in order");
        }
    }
}
