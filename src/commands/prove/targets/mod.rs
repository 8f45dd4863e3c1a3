//! The programs under test, and their clients: small adapters to their wire protocols.

pub(super) mod beanstalkd;
pub(super) mod broker;
mod line_connection;
mod nsq;
pub(super) mod nsqd;
mod process;
pub(super) mod redis;

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::faults::TargetSettings;
use super::judge::Durability;
use crate::commands::broker::args::SyncWhen;
pub(super) use process::TargetProcess;

/// Longest time for an answer of a program under test.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A program under test.
pub(super) trait Target {
    type Publisher: TargetPublisher;
    type Consumer: TargetConsumer;

    /// The program and its settings, for people.
    fn describe(&self) -> String;

    /// The arguments of `mqueue prove` that select this target.
    fn arguments(&self) -> String;

    /// Returns what the target promises for acknowledged messages.
    fn durability(&self) -> Durability;

    /// Returns true if the target promises the order of messages.
    fn is_ordered(&self) -> bool;

    /// Returns true if the target can delay messages by milliseconds, and requeue them.
    fn can_defer(&self) -> bool;

    /// Starts the program on its data in `folder`; returns it when it answers.
    async fn start(&self, folder: &Path, settings: &TargetSettings) -> anyhow::Result<TargetProcess>;

    /// Connects a publisher.
    async fn publisher(&self, process: &TargetProcess) -> io::Result<Self::Publisher>;

    /// Connects a consumer that has at most this many messages in flight.
    async fn consumer(&self, process: &TargetProcess, in_flight: u32) -> io::Result<Self::Consumer>;
}

/// The word for a time of syncing on the command line.
pub(super) fn sync_word(sync: SyncWhen) -> &'static str {
    match sync {
        SyncWhen::Always => "always",
        SyncWhen::Interval => "interval",
        SyncWhen::Never => "never",
    }
}

/// Finds a port that nobody listens on. Another process may take it before the target does.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The end of a request to publish.
#[derive(Debug)]
pub(super) enum PublishEnd {
    Acknowledged,
    /// The target refused the messages and lives on.
    Refused(String),
}

/// A connection that publishes.
pub(super) trait TargetPublisher {
    /// Publishes messages together, and waits for the answer. An error leaves open what became of
    /// them.
    async fn publish(&mut self, bodies: &[Bytes], delay: Option<Duration>) -> io::Result<PublishEnd>;
}

/// A delivered message.
#[derive(Debug)]
pub(super) struct DeliveredMessage {
    pub(super) body: Bytes,
    /// Number of deliveries, this one included; `None` if the target counts none.
    pub(super) attempts: Option<u32>,
    pub(super) id: Bytes,
}

/// A connection that consumes.
pub(super) trait TargetConsumer {
    /// Waits for the next message.
    ///
    /// # Cancel safety
    /// No message is lost if the future is dropped.
    async fn next(&mut self) -> io::Result<DeliveredMessage>;

    /// Finishes a message; the reply may be sent later.
    fn finish(&mut self, id: &Bytes);

    /// Requeues a message with a delay; the reply may be sent later.
    fn requeue(&mut self, id: &Bytes, delay: Duration);

    /// Sends all replies.
    async fn flush(&mut self) -> io::Result<()>;

    /// Sends all replies, and waits until the target has confirmed them as it confirms a publish.
    /// Returns the ids whose reply was refused.
    async fn confirm(&mut self) -> io::Result<Vec<Bytes>>;
}
