//! NATS JetStream: a stream in files and a durable pull consumer, over the NATS protocol.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::process::Command;
use tokio::time::timeout;

use super::line_connection::{LineConnection, line};
use super::port_target::PortProgram;
use super::{ANSWER_TIMEOUT, DeliveredMessage, PublishEnd, TargetConsumer, TargetPublisher};
use crate::commands::broker::args::SyncWhen;
use crate::commands::common::child_process;
use crate::commands::prove::faults::TargetSettings;

/// nats-server with JetStream.
#[derive(Debug)]
pub(in crate::commands::prove) struct JetStream;

/// The default of `sync_interval`.
pub(in crate::commands::prove) const SYNC_INTERVAL: Duration = Duration::from_secs(120);

/// Creates the stream.
const STREAM: &str = r#"{"name":"prove","subjects":["prove"],"retention":"workqueue","storage":"file"}"#;
/// Creates the consumer; what is not acknowledged comes again after a second.
const CONSUMER: &str = r#"{"stream_name":"prove","config":{"durable_name":"judge","ack_policy":"explicit","ack_wait":1000000000,"max_ack_pending":100000}}"#;

fn sync_interval(sync: SyncWhen) -> &'static str {
    match sync {
        SyncWhen::Always => "always",
        // its default
        SyncWhen::Interval => "2m",
        SyncWhen::Never => "24h",
    }
}

impl PortProgram for JetStream {
    const TARGET: &'static str = "jet-stream";
    type Publisher = NatsPublisher;
    type Consumer = NatsConsumer;

    fn describe(sync: SyncWhen) -> String {
        format!("nats-server, JetStream, sync_interval: {}", sync_interval(sync))
    }

    fn command(program: &Path, port: u16, sync: SyncWhen, folder: &Path, _: &TargetSettings) -> io::Result<Command> {
        let data = folder.join("jetstream");
        let settings = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {:?}, sync_interval: {:?} }}\n",
            data.display().to_string(),
            sync_interval(sync)
        );
        let file = folder.join("nats.conf");
        std::fs::write(&file, settings)?;
        let mut command = child_process::command(Command::new(program), &["-c"]);
        command.arg(&file);
        Ok(command)
    }

    async fn prepare(address: &str) -> io::Result<()> {
        let mut connection = NatsConnection::open(address).await?;
        connection.api("STREAM.CREATE.prove", STREAM).await?;
        connection.api("CONSUMER.DURABLE.CREATE.prove.judge", CONSUMER).await
    }

    async fn publisher(address: &str) -> io::Result<NatsPublisher> {
        Ok(NatsPublisher(NatsConnection::open(address).await?))
    }

    async fn consumer(address: &str, in_flight: u32) -> io::Result<NatsConsumer> {
        let connection = NatsConnection::open(address).await?;
        let (received, finishing) = Default::default();
        Ok(NatsConsumer { connection, in_flight: in_flight.clamp(1, 100), received, finishing, pulled: 0 })
    }
}

/// A message or another line of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NatsFrame {
    Message {
        /// The subject to which an acknowledgement goes.
        reply_to: Bytes,
        /// The status in the header, such as 404, if there is one.
        status: Option<u16>,
        body: Bytes,
    },
    Ping,
    Error(String),
    Other,
}

impl NatsFrame {
    /// Parses a frame; `None` if it is not complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let Some((head, at)) = line(bytes) else { return Ok(None) };
        let text = String::from_utf8_lossy(head).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        let frame = match words.first().copied() {
            // MSG subject sid [reply] size; HMSG subject sid [reply] header-size size
            Some(kind @ ("MSG" | "HMSG")) => {
                let sizes = if kind == "HMSG" { 2 } else { 1 };
                let size = |n: usize| words.get(words.len().checked_sub(n)?)?.parse::<usize>().ok();
                let (Some(total), Some(header), true) =
                    (size(1), if sizes == 2 { size(2) } else { Some(0) }, words.len() >= 3 + sizes)
                else {
                    return Err(io::Error::other(format!("not NATS's protocol: {text:?}")));
                };
                let Some(data) = bytes.get(at..at.saturating_add(total).saturating_add(2)) else { return Ok(None) };
                let header = &data[..header.min(total)];
                let status = String::from_utf8_lossy(header).split_whitespace().nth(1).and_then(|it| it.parse().ok());
                let reply_to = words.get(3).filter(|_| words.len() > 3 + sizes).copied().unwrap_or_default();
                let frame = Self::Message {
                    reply_to: Bytes::copy_from_slice(reply_to.as_bytes()),
                    status,
                    body: Bytes::copy_from_slice(&data[header.len()..total]),
                };
                return Ok(Some((frame, at + total + 2)));
            }
            Some("PING") => Self::Ping,
            Some("-ERR") => Self::Error(text),
            Some(_) | None => Self::Other,
        };
        Ok(Some((frame, at)))
    }
}

/// A connection. All answers come to one inbox, in the order of the requests.
#[derive(Debug)]
struct NatsConnection {
    lines: LineConnection,
    inbox: String,
}

impl NatsConnection {
    async fn open(address: &str) -> io::Result<Self> {
        let lines = LineConnection::open(address).await?;
        let mut connection = Self { lines, inbox: format!("_INBOX.{:016x}", fastrand::u64(..)) };
        let hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}";
        let hello = format!("{hello}\r\nSUB {} 1\r\n", connection.inbox);
        connection.lines.send(hello.as_bytes()).await?;
        Ok(connection)
    }

    /// Appends a request whose answer comes to the inbox.
    fn request(&self, out: &mut Vec<u8>, subject: &[u8], body: &[u8]) {
        out.extend_from_slice(b"PUB ");
        out.extend_from_slice(subject);
        out.extend_from_slice(format!(" {} {}\r\n", self.inbox, body.len()).as_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }

    /// Reads the next message.
    ///
    /// # Cancel safety
    /// Bytes that were read stay in the buffer.
    async fn message(&mut self) -> io::Result<(Bytes, Option<u16>, Bytes)> {
        loop {
            match self.lines.answer(NatsFrame::parse).await? {
                NatsFrame::Message { reply_to, status, body } => return Ok((reply_to, status, body)),
                NatsFrame::Ping => self.lines.send(b"PONG\r\n").await?,
                NatsFrame::Error(text) => return Err(io::Error::other(text)),
                NatsFrame::Other => {}
            }
        }
    }

    /// Asks JetStream's API.
    async fn api(&mut self, subject: &str, body: &str) -> io::Result<()> {
        let mut out = Vec::new();
        self.request(&mut out, format!("$JS.API.{subject}").as_bytes(), body.as_bytes());
        self.lines.send(&out).await?;
        let (_, status, body) = timeout(ANSWER_TIMEOUT, self.message()).await??;
        let text = String::from_utf8_lossy(&body);
        match status.is_some() || text.contains("\"error\"") {
            true => Err(io::Error::other(format!("{subject}: {status:?} {text}"))),
            false => Ok(()),
        }
    }
}

/// A publisher.
#[derive(Debug)]
pub(in crate::commands::prove) struct NatsPublisher(NatsConnection);

impl TargetPublisher for NatsPublisher {
    /// Publishes with one request for each message, without waiting in between.
    async fn publish(&mut self, bodies: &[Bytes], _: Option<Duration>) -> io::Result<PublishEnd> {
        let mut out = Vec::new();
        bodies.iter().for_each(|body| self.0.request(&mut out, b"prove", body));
        self.0.lines.send(&out).await?;
        let mut end = PublishEnd::Acknowledged;
        for _ in bodies {
            let (_, status, body) = timeout(ANSWER_TIMEOUT, self.0.message()).await??;
            let text = String::from_utf8_lossy(&body);
            if status.is_some() || text.contains("\"error\"") {
                end = PublishEnd::Refused(format!("{status:?} {text}"));
            }
        }
        Ok(end)
    }
}

/// A consumer.
#[derive(Debug)]
pub(in crate::commands::prove) struct NatsConsumer {
    connection: NatsConnection,
    in_flight: u32,
    received: VecDeque<DeliveredMessage>,
    finishing: Vec<Bytes>,
    /// Messages that were asked for and did not come yet.
    pulled: u32,
}

impl NatsConsumer {
    /// Reads the next message; returns true if it confirms an acknowledgement.
    async fn take(&mut self) -> io::Result<bool> {
        let (reply_to, status, body) = self.connection.message().await?;
        if reply_to.starts_with(b"$JS.ACK") {
            self.pulled = self.pulled.saturating_sub(1);
            self.received.push_back(DeliveredMessage { body, attempts: None, id: reply_to });
            return Ok(false);
        }
        if status.is_some() {
            // the request to pull has ended
            self.pulled = 0;
        }
        Ok(status.is_none())
    }
}

impl TargetConsumer for NatsConsumer {
    async fn next(&mut self) -> io::Result<DeliveredMessage> {
        loop {
            if let Some(message) = self.received.pop_front() {
                return Ok(message);
            }
            if self.pulled == 0 {
                let (mut out, count) = (Vec::new(), self.in_flight);
                let pull = format!("{{\"batch\":{count},\"expires\":500000000}}");
                self.connection.request(&mut out, b"$JS.API.CONSUMER.MSG.NEXT.prove.judge", pull.as_bytes());
                self.pulled = count;
                self.connection.lines.send(&out).await?;
            }
            self.take().await?;
        }
    }

    fn finish(&mut self, id: &Bytes) {
        self.finishing.push(id.clone());
    }

    fn requeue(&mut self, _: &Bytes, _: Duration) {}

    async fn flush(&mut self) -> io::Result<()> {
        self.confirm().await.map(drop)
    }

    /// Sends +ACK as requests, which JetStream answers.
    async fn confirm(&mut self) -> io::Result<Vec<Bytes>> {
        let ids = std::mem::take(&mut self.finishing);
        let mut out = Vec::new();
        ids.iter().for_each(|id| self.connection.request(&mut out, id, b"+ACK"));
        self.connection.lines.send(&out).await?;
        let mut confirmed = 0;
        while confirmed < ids.len() {
            confirmed += usize::from(timeout(ANSWER_TIMEOUT, self.take()).await??);
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_parsed_when_they_are_complete() {
        let message = |reply_to: &str, status, body: &str| NatsFrame::Message {
            reply_to: Bytes::copy_from_slice(reply_to.as_bytes()),
            status,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        for (bytes, frame) in [
            ("MSG prove 1 $JS.ACK.7 3\r\na\r\n\r\n", message("$JS.ACK.7", None, "a\r\n")),
            ("MSG _INBOX.1 1 0\r\n\r\n", message("", None, "")),
            ("HMSG _INBOX.1 1 16 16\r\nNATS/1.0 404\r\n\r\n\r\n", message("", Some(404), "")),
            ("PING\r\n", NatsFrame::Ping),
            ("INFO {}\r\n", NatsFrame::Other),
        ] {
            assert_eq!(NatsFrame::parse(bytes.as_bytes()).unwrap(), Some((frame, bytes.len())), "{bytes:?}");
            for end in 0..bytes.len() {
                assert_eq!(NatsFrame::parse(&bytes.as_bytes()[..end]).unwrap(), None, "{end} of {bytes:?}");
            }
        }
        assert!(NatsFrame::parse(b"MSG 1\r\n").is_err());
    }
}
