//! Redis: a stream and a consumer group, with the append-only file.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::process::Command;

use super::line_connection::{LineConnection, line};
use super::port_target::PortProgram;
use super::{DeliveredMessage, PublishEnd, TargetConsumer, TargetPublisher};
use crate::commands::broker::args::SyncWhen;
use crate::commands::common::child_process;
use crate::commands::prove::faults::TargetSettings;

/// Redis with the append-only file.
#[derive(Debug)]
pub(in crate::commands::prove) struct Redis;

/// The time that Redis names as the loss of `appendfsync everysec`.
pub(in crate::commands::prove) const EVERYSEC: Duration = Duration::from_secs(1);

fn appendfsync(sync: SyncWhen) -> &'static str {
    match sync {
        SyncWhen::Always => "always",
        SyncWhen::Interval => "everysec",
        SyncWhen::Never => "no",
    }
}

impl PortProgram for Redis {
    const TARGET: &'static str = "redis";
    type Publisher = RedisPublisher;
    type Consumer = RedisConsumer;

    fn describe(sync: SyncWhen) -> String {
        format!("redis-server, a stream, --appendonly yes --appendfsync {}", appendfsync(sync))
    }

    fn command(program: &Path, port: u16, sync: SyncWhen, folder: &Path, _: &TargetSettings) -> io::Result<Command> {
        let number = port.to_string();
        let args = ["--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"];
        let mut command = child_process::command(Command::new(program), &args);
        command.args(["--appendfsync", appendfsync(sync), "--dir"]).arg(folder);
        Ok(command)
    }

    async fn prepare(address: &str) -> io::Result<()> {
        let mut connection = LineConnection::open(address).await?;
        // LOADING until the file is read
        match request(&mut connection, &[b"XGROUP", b"CREATE", b"prove", b"judge", b"0", b"MKSTREAM"]).await? {
            Resp::Error(text) if !text.starts_with("BUSYGROUP") => Err(io::Error::other(text)),
            _ => Ok(()),
        }
    }

    async fn publisher(address: &str) -> io::Result<RedisPublisher> {
        Ok(RedisPublisher(LineConnection::open(address).await?))
    }

    async fn consumer(address: &str, in_flight: u32) -> io::Result<RedisConsumer> {
        let connection = LineConnection::open(address).await?;
        let (received, acknowledging) = Default::default();
        Ok(RedisConsumer {
            connection,
            in_flight,
            from: Some(Bytes::from_static(b"0")),
            received,
            acknowledging,
            is_reading: false,
        })
    }
}

/// A value of Redis's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Resp {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Null,
    List(Vec<Resp>),
}

impl Resp {
    /// Parses a value; `None` if it is not complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        Self::nested(bytes, 0)
    }

    fn nested(bytes: &[u8], depth: usize) -> io::Result<Option<(Self, usize)>> {
        let Some((head, mut at)) = line(bytes) else { return Ok(None) };
        let text = String::from_utf8_lossy(head.get(1..).unwrap_or_default()).into_owned();
        let invalid = || io::Error::other(format!("not Redis's protocol: {:?}", String::from_utf8_lossy(head)));
        let number = || text.parse::<i64>().map_err(|_| invalid());
        let value = match head.first() {
            Some(b'+') => Self::Simple(text),
            Some(b'-') => Self::Error(text),
            Some(b':') => Self::Integer(number()?),
            Some(b'$') => match usize::try_from(number()?) {
                Err(_) => Self::Null,
                Ok(length) => {
                    let Some(data) = bytes.get(at..at.saturating_add(length).saturating_add(2)) else {
                        return Ok(None);
                    };
                    at += data.len();
                    Self::Bulk(Bytes::copy_from_slice(&data[..length]))
                }
            },
            Some(b'*') if depth < 8 => match usize::try_from(number()?) {
                Err(_) => Self::Null,
                Ok(count) => {
                    let mut values = Vec::new();
                    for _ in 0..count {
                        let Some((value, length)) = Self::nested(&bytes[at..], depth + 1)? else { return Ok(None) };
                        values.push(value);
                        at += length;
                    }
                    Self::List(values)
                }
            },
            Some(_) | None => return Err(invalid()),
        };
        Ok(Some((value, at)))
    }

    fn list(&self) -> &[Self] {
        match self {
            Self::List(values) => values,
            _ => &[],
        }
    }

    fn bulk(&self) -> Option<&Bytes> {
        match self {
            Self::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// Appends a command to what is to send.
fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

async fn request(connection: &mut LineConnection, words: &[&[u8]]) -> io::Result<Resp> {
    let mut out = Vec::new();
    command(&mut out, words);
    connection.send(&out).await?;
    connection.answer_in_time(Resp::parse).await
}

/// A publisher.
#[derive(Debug)]
pub(in crate::commands::prove) struct RedisPublisher(LineConnection);

impl TargetPublisher for RedisPublisher {
    /// Publishes with a pipeline of XADD.
    async fn publish(&mut self, bodies: &[Bytes], _: Option<Duration>) -> io::Result<PublishEnd> {
        let mut out = Vec::new();
        bodies.iter().for_each(|body| command(&mut out, &[b"XADD", b"prove", b"*", b"b", body]));
        self.0.send(&out).await?;
        let mut end = PublishEnd::Acknowledged;
        for _ in bodies {
            if let Resp::Error(text) = self.0.answer_in_time(Resp::parse).await? {
                end = PublishEnd::Refused(text);
            }
        }
        Ok(end)
    }
}

/// A consumer of the group. It reads first what it had before and never acknowledged.
#[derive(Debug)]
pub(in crate::commands::prove) struct RedisConsumer {
    connection: LineConnection,
    in_flight: u32,
    /// The id after which pending messages are read; `None` once all were.
    from: Option<Bytes>,
    received: VecDeque<DeliveredMessage>,
    acknowledging: Vec<Bytes>,
    /// True while the answer to XREADGROUP is awaited.
    is_reading: bool,
}

impl RedisConsumer {
    async fn read(&mut self) -> io::Result<()> {
        if !self.is_reading {
            let (count, from) = (self.in_flight.min(100).to_string(), self.from.as_deref().unwrap_or(b">"));
            let mut out = Vec::new();
            let words: [&[u8]; 11] = [
                b"XREADGROUP",
                b"GROUP",
                b"judge",
                b"one",
                b"COUNT",
                count.as_bytes(),
                b"BLOCK",
                b"100",
                b"STREAMS",
                b"prove",
                from,
            ];
            command(&mut out, &words);
            self.connection.send(&out).await?;
            self.is_reading = true;
        }
        let answer = self.connection.answer(Resp::parse).await?;
        self.is_reading = false;
        if let Resp::Error(text) = answer {
            return Err(io::Error::other(text));
        }
        // [[stream, [[id, [field, body]], …]]]
        let entries = answer.list().first().and_then(|stream| stream.list().get(1)).map(Resp::list).unwrap_or_default();
        let last = entries.last().and_then(|entry| entry.list().first()).and_then(Resp::bulk).cloned();
        self.from = self.from.take().and(last);
        for entry in entries {
            let [Resp::Bulk(id), fields] = entry.list() else { continue };
            let body = fields.list().get(1).and_then(Resp::bulk).cloned().unwrap_or_default();
            self.received.push_back(DeliveredMessage { body, attempts: None, id: id.clone() });
        }
        Ok(())
    }
}

impl TargetConsumer for RedisConsumer {
    async fn next(&mut self) -> io::Result<DeliveredMessage> {
        loop {
            if let Some(message) = self.received.pop_front() {
                return Ok(message);
            }
            if !self.is_reading {
                self.confirm().await?;
            }
            self.read().await?;
        }
    }

    fn finish(&mut self, id: &Bytes) {
        self.acknowledging.push(id.clone());
    }

    fn requeue(&mut self, _: &Bytes, _: Duration) {}

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Sends XACK, which Redis answers with the number of messages that were pending.
    async fn confirm(&mut self) -> io::Result<Vec<Bytes>> {
        if self.acknowledging.is_empty() {
            return Ok(Vec::new());
        }
        let ids = std::mem::take(&mut self.acknowledging);
        let mut words: Vec<&[u8]> = vec![b"XACK", b"prove", b"judge"];
        words.extend(ids.iter().map(|id| &id[..]));
        match request(&mut self.connection, &words).await? {
            Resp::Integer(count) if usize::try_from(count) == Ok(ids.len()) => Ok(Vec::new()),
            Resp::Error(text) => Err(io::Error::other(text)),
            _ => Ok(ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed_when_they_are_complete() {
        let bytes = b"*2\r\n$3\r\na\r\n\r\n*2\r\n:7\r\n$-1\r\n+rest";
        let value =
            Resp::List(vec![Resp::Bulk(Bytes::from_static(b"a\r\n")), Resp::List(vec![Resp::Integer(7), Resp::Null])]);
        assert_eq!(Resp::parse(bytes).unwrap(), Some((value, bytes.len() - 5)));
        for end in 0..bytes.len() - 5 {
            assert_eq!(Resp::parse(&bytes[..end]).unwrap(), None, "{end} bytes");
        }
        assert!(Resp::parse(b"HTTP/1.1\r\n").is_err());
    }
}
