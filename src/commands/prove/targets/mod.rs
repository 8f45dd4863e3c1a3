//! The programs under test, and their clients: small adapters to their wire protocols.

pub(super) mod beanstalkd;
pub(super) mod broker;
mod line_connection;
mod log_damage;
pub(super) mod nats;
mod nsq;
pub(super) mod nsqd;
pub(super) mod port_target;
mod process;
pub(super) mod redis;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use super::faults::{FileDamage, TargetSettings};
use super::history::DamageRecord;
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

    /// Returns the path of the program.
    fn program(&self) -> anyhow::Result<PathBuf>;

    /// Returns what the target promises for acknowledged messages.
    fn durability(&self) -> Durability;

    /// Returns true if the target promises the order of messages.
    fn is_ordered(&self) -> bool;

    /// Returns true if the target can delay messages by milliseconds, and requeue them.
    fn can_defer(&self) -> bool;

    /// Returns true if it is known what damage of the target's files may cost.
    fn knows_damage(&self) -> bool {
        false
    }

    /// Damages a file of the target, which does not run; `None` if there is nothing to damage.
    fn damage(&self, _folder: &Path, _: FileDamage, _seed: u64, _: &mut Rng) -> io::Result<Option<DamageRecord>> {
        Ok(None)
    }

    /// Checks the target's output after its start on a damaged file.
    ///
    /// # Errors
    /// The target does not name the damage; described.
    fn check_damage(&self, _: &DamageRecord, _output: &str) -> Result<(), String> {
        Ok(())
    }

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
