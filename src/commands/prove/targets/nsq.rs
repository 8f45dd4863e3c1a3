//! Clients of NSQ's TCP protocol that reconnect nothing and repeat nothing: what became of each
//! request is known or open.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::read_buf;

use super::{ANSWER_TIMEOUT, DeliveredMessage, PublishEnd, TargetConsumer, TargetPublisher};
use mqueue::proto::{
    ChannelName, Command, Frame, Identify, MAGIC_V2, Message, MessageId, Response, TopicName, WireError, WriteBuffer,
};

/// The topic of the numbered messages.
const TOPIC: &str = "prove";
const CHANNEL: &str = "judge";
/// The topic of the publishes that confirm replies; it has no channel.
const CONFIRMING: &str = "confirm";
const MAX_FRAME: u32 = 16 << 20;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a valid name")
}

/// A connection.
#[derive(Debug)]
struct NsqConnection {
    stream: TcpStream,
    buffer: BytesMut,
    out: WriteBuffer,
}

impl NsqConnection {
    async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, buffer: BytesMut::new(), out: WriteBuffer::new() };
        connection.out.put_slice(MAGIC_V2);
        let identify = Identify {
            client_id: Some("prove".to_owned()),
            heartbeat_interval: Some(60_000),
            output_buffer_timeout: Some(25),
            ..Identify::default()
        };
        let identify = serde_json::to_vec(&identify).expect("it is JSON");
        connection.request(&Command::Identify(identify.into())).await?;
        Ok(connection)
    }

    fn add(&mut self, command: &Command) {
        command.encode(&mut self.out);
    }

    async fn flush(&mut self) -> io::Result<()> {
        while bytes::Buf::has_remaining(&self.out) {
            timeout(ANSWER_TIMEOUT, self.stream.write_buf(&mut self.out)).await??;
        }
        Ok(())
    }

    /// Sends a command and waits for its answer, which must be positive.
    async fn request(&mut self, command: &Command) -> io::Result<()> {
        self.add(command);
        self.flush().await?;
        match timeout(ANSWER_TIMEOUT, self.frame()).await?? {
            Frame::Response(_) => Ok(()),
            Frame::Error(error) => Err(io::Error::other(text(&error))),
            Frame::Message(_) => Err(io::Error::other("a message before it was asked for")),
        }
    }

    /// Reads the next frame. Cancel-safe: what was read stays in the buffer.
    async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            match Frame::decode(&mut self.buffer, MAX_FRAME).map_err(io::Error::other)? {
                Some(Frame::Response(Response::Heartbeat)) => self.add(&Command::Nop),
                Some(frame) => return Ok(frame),
                None => {
                    self.flush().await?;
                    if read_buf(&mut self.stream, &mut self.buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }
}

fn text(error: &WireError) -> String {
    String::from_utf8_lossy(&error.text).escape_debug().to_string()
}

/// A publisher.
#[derive(Debug)]
pub(in crate::commands::prove) struct NsqPublisher(NsqConnection);

impl NsqPublisher {
    pub(super) async fn connect(address: &str) -> io::Result<Self> {
        Ok(Self(NsqConnection::open(address).await?))
    }
}

impl TargetPublisher for NsqPublisher {
    async fn publish(&mut self, bodies: &[Bytes], delay: Option<Duration>) -> io::Result<PublishEnd> {
        match (bodies, delay) {
            ([body], None) => self.0.add(&Command::Pub { topic: topic(TOPIC), body: body.clone() }),
            (bodies, None) => Command::encode_mpub(&topic(TOPIC), bodies.iter(), &mut self.0.out),
            (bodies, Some(delay)) => {
                let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                for body in bodies {
                    self.0.add(&Command::Dpub { topic: topic(TOPIC), delay, body: body.clone() });
                }
            }
        }
        self.0.flush().await?;
        let answers = if delay.is_some() { bodies.len() } else { 1 };
        let mut end = PublishEnd::Acknowledged;
        for _ in 0..answers {
            match timeout(ANSWER_TIMEOUT, self.0.frame()).await?? {
                Frame::Response(Response::Ok) => {}
                Frame::Error(error) => end = PublishEnd::Refused(text(&error)),
                frame => return Err(io::Error::other(format!("an answer that is none: {frame:?}"))),
            }
        }
        Ok(end)
    }
}

/// A consumer.
#[derive(Debug)]
pub(in crate::commands::prove) struct NsqConsumer {
    connection: NsqConnection,
    received: VecDeque<Message>,
    refused: Vec<Bytes>,
}

impl NsqConsumer {
    pub(super) async fn connect(address: &str, in_flight: u32) -> io::Result<Self> {
        let mut connection = NsqConnection::open(address).await?;
        let channel = ChannelName::new(CHANNEL).expect("a valid name");
        connection.request(&Command::Sub { topic: topic(TOPIC), channel }).await?;
        connection.add(&Command::Rdy(in_flight.into()));
        connection.flush().await?;
        Ok(Self { connection, received: VecDeque::new(), refused: Vec::new() })
    }

    /// Takes a frame; returns the answer to a publish, if it is that.
    fn take(&mut self, frame: Frame) -> io::Result<Option<Result<(), String>>> {
        match frame {
            Frame::Message(message) => {
                self.received.push_back(message);
                Ok(None)
            }
            Frame::Response(Response::Ok) => Ok(Some(Ok(()))),
            Frame::Response(_) => Ok(None),
            Frame::Error(error) => {
                let text = text(&error);
                // E_FIN_FAILED FIN 0123456789abcdef failed …
                let id = text.split_whitespace().find(|word| word.len() == MessageId::LENGTH);
                match (text.starts_with("E_FIN_FAILED") || text.starts_with("E_REQ_FAILED"), id) {
                    (true, Some(id)) => self.refused.push(Bytes::copy_from_slice(id.as_bytes())),
                    (true, None) => return Err(io::Error::other(text)),
                    (false, _) => return Ok(Some(Err(text))),
                }
                Ok(None)
            }
        }
    }
}

fn message_id(id: &Bytes) -> MessageId {
    MessageId::from_slice(id).expect("an id of a delivery")
}

impl TargetConsumer for NsqConsumer {
    async fn next(&mut self) -> io::Result<DeliveredMessage> {
        loop {
            if let Some(Message { attempts, id, body, .. }) = self.received.pop_front() {
                let id = Bytes::copy_from_slice(&id.0);
                return Ok(DeliveredMessage { body, attempts: Some(attempts.into()), id });
            }
            let frame = self.connection.frame().await?;
            self.take(frame)?;
        }
    }

    fn finish(&mut self, id: &Bytes) {
        self.connection.add(&Command::Fin(message_id(id)));
    }

    fn requeue(&mut self, id: &Bytes, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.connection.add(&Command::Req { id: message_id(id), delay });
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.connection.flush().await
    }

    /// NSQ does not answer FIN and REQ. Commands of one connection are executed in their order, so
    /// the OK for a publish after them confirms that they were executed, too.
    async fn confirm(&mut self) -> io::Result<Vec<Bytes>> {
        self.connection.add(&Command::Pub { topic: topic(CONFIRMING), body: Bytes::from_static(b"x") });
        self.connection.flush().await?;
        let answered = async {
            loop {
                let frame = self.connection.frame().await?;
                if let Some(answer) = self.take(frame)? {
                    return answer.map_err(io::Error::other);
                }
            }
        };
        timeout(ANSWER_TIMEOUT, answered).await??;
        Ok(std::mem::take(&mut self.refused))
    }
}
