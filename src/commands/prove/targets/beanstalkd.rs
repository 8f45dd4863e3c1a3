//! beanstalkd with its write-ahead log.

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

/// beanstalkd. It defers by seconds, which is long for a case.
#[derive(Debug)]
pub(in crate::commands::prove) struct Beanstalkd;

/// The time between two syncs of `-f 100`.
pub(in crate::commands::prove) const SYNC_INTERVAL: Duration = Duration::from_millis(100);

fn sync_flag(sync: SyncWhen) -> &'static str {
    match sync {
        SyncWhen::Always => "-f0",
        SyncWhen::Interval => "-f100",
        SyncWhen::Never => "-F",
    }
}

impl PortProgram for Beanstalkd {
    const TARGET: &'static str = "beanstalkd";
    type Publisher = BeanstalkdPublisher;
    type Consumer = BeanstalkdConsumer;

    fn describe(sync: SyncWhen) -> String {
        format!("beanstalkd -b DIR {}", sync_flag(sync))
    }

    fn command(
        program: &Path,
        port: u16,
        sync: SyncWhen,
        folder: &Path,
        settings: &TargetSettings,
    ) -> io::Result<Command> {
        let (number, file_bytes) = (port.to_string(), settings.file_bytes.to_string());
        let args = ["-l", "127.0.0.1", "-p", &number, "-z", "1000000", "-s", &file_bytes, sync_flag(sync), "-b"];
        let mut command = child_process::command(Command::new(program), &args);
        command.arg(folder);
        Ok(command)
    }

    async fn prepare(address: &str) -> io::Result<()> {
        let mut connection = LineConnection::open(address).await?;
        connection.send(b"list-tube-used\r\n").await?;
        connection.answer_in_time(BeanstalkdAnswer::parse).await.map(drop)
    }

    async fn publisher(address: &str) -> io::Result<BeanstalkdPublisher> {
        Ok(BeanstalkdPublisher(LineConnection::open(address).await?))
    }

    async fn consumer(address: &str, _: u32) -> io::Result<BeanstalkdConsumer> {
        let connection = LineConnection::open(address).await?;
        Ok(BeanstalkdConsumer { connection, deleting: Vec::new(), refused: Vec::new(), is_reserving: false })
    }
}

/// An answer: its words, and the body of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BeanstalkdAnswer {
    words: String,
    body: Bytes,
}

impl BeanstalkdAnswer {
    /// Parses an answer; `None` if it is not complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let Some((head, mut at)) = line(bytes) else { return Ok(None) };
        let words = String::from_utf8_lossy(head).into_owned();
        let mut body = Bytes::new();
        if let Some(rest) = words.strip_prefix("RESERVED ") {
            let length = rest.split(' ').nth(1).and_then(|length| length.parse::<usize>().ok());
            let length = length.ok_or_else(|| io::Error::other(format!("not beanstalkd's protocol: {words:?}")))?;
            let Some(data) = bytes.get(at..at.saturating_add(length).saturating_add(2)) else { return Ok(None) };
            body = Bytes::copy_from_slice(&data[..length]);
            at += data.len();
        }
        Ok(Some((Self { words, body }, at)))
    }
}

/// A publisher.
#[derive(Debug)]
pub(in crate::commands::prove) struct BeanstalkdPublisher(LineConnection);

impl TargetPublisher for BeanstalkdPublisher {
    /// Publishes with a pipeline of put.
    async fn publish(&mut self, bodies: &[Bytes], _: Option<Duration>) -> io::Result<PublishEnd> {
        let mut out = Vec::new();
        for body in bodies {
            // priority, delay and time to run, in seconds
            out.extend_from_slice(format!("put 1024 0 3600 {}\r\n", body.len()).as_bytes());
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
        }
        self.0.send(&out).await?;
        let mut end = PublishEnd::Acknowledged;
        for _ in bodies {
            let answer = self.0.answer_in_time(BeanstalkdAnswer::parse).await?;
            if !answer.words.starts_with("INSERTED ") {
                end = PublishEnd::Refused(answer.words);
            }
        }
        Ok(end)
    }
}

/// A consumer.
#[derive(Debug)]
pub(in crate::commands::prove) struct BeanstalkdConsumer {
    connection: LineConnection,
    deleting: Vec<Bytes>,
    refused: Vec<Bytes>,
    /// True while the answer to reserve is awaited.
    is_reserving: bool,
}

impl BeanstalkdConsumer {
    /// Deletes what is finished, and reads the answers.
    async fn delete(&mut self) -> io::Result<()> {
        let ids = std::mem::take(&mut self.deleting);
        let mut out = Vec::new();
        for id in &ids {
            out.extend_from_slice(b"delete ");
            out.extend_from_slice(id);
            out.extend_from_slice(b"\r\n");
        }
        self.connection.send(&out).await?;
        for id in ids {
            if self.connection.answer_in_time(BeanstalkdAnswer::parse).await?.words != "DELETED" {
                self.refused.push(id);
            }
        }
        Ok(())
    }
}

impl TargetConsumer for BeanstalkdConsumer {
    async fn next(&mut self) -> io::Result<DeliveredMessage> {
        if !self.is_reserving {
            self.delete().await?;
            self.connection.send(b"reserve\r\n").await?;
            self.is_reserving = true;
        }
        let answer = self.connection.answer(BeanstalkdAnswer::parse).await?;
        self.is_reserving = false;
        let mut words = answer.words.split(' ');
        let (Some("RESERVED"), Some(id)) = (words.next(), words.next()) else {
            return Err(io::Error::other(answer.words));
        };
        Ok(DeliveredMessage { body: answer.body, attempts: None, id: Bytes::copy_from_slice(id.as_bytes()) })
    }

    fn finish(&mut self, id: &Bytes) {
        self.deleting.push(id.clone());
    }

    fn requeue(&mut self, _: &Bytes, _: Duration) {}

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn confirm(&mut self) -> io::Result<Vec<Bytes>> {
        self.delete().await?;
        Ok(std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_parsed_when_it_is_complete() {
        let bytes = b"RESERVED 7 3\r\na\r\n\r\nDELETED\r\n";
        let (answer, length) = BeanstalkdAnswer::parse(bytes).unwrap().unwrap();
        assert_eq!((answer.words.as_str(), &answer.body[..], length), ("RESERVED 7 3", &b"a\r\n"[..], 19));
        assert_eq!(BeanstalkdAnswer::parse(&bytes[19..]).unwrap().unwrap().0.words, "DELETED");
        for end in 0..19 {
            assert_eq!(BeanstalkdAnswer::parse(&bytes[..end]).unwrap(), None, "{end} bytes");
        }
    }
}
