//! `mqueue tail`: new messages of a stream, by an ephemeral group of its own.
//!
//! ```text
//!  is there a group? ─▶ Consumer (tail-…#ephemeral) ─▶ --grep ─▶ lines ─▶ FIN
//!                              ▲                                  a thread that writes
//!                              └── few messages in flight ◀───────┘
//! ```

pub(crate) mod args;
mod subscription;

use std::time::{Duration, UNIX_EPOCH};

use super::common::exit::{Exit, Failure};
use super::common::message_lines::{MessageFormat, MessageLine};
use super::common::stdout;
use crate::commands::tail::args::Args;
use mqueue::client::{Consumer, Delivery};
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;

/// Bytes of bodies in flight at once, about.
const IN_FLIGHT_BYTES: usize = 16 << 20;
/// Most messages in flight.
const MAX_IN_FLIGHT: usize = 200;
/// Messages in flight before the size of any is known.
const FIRST_IN_FLIGHT: u32 = 10;
/// Time for the orderly end of the connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between two looks whether the reader of a pipe is gone.
const READER_CHECK: Duration = Duration::from_millis(500);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    stdout::check()?;
    // before signals are handled: Ctrl-C answers the question
    let Some(config) = subscription::config(&args, FIRST_IN_FLIGHT).await? else { return Ok(Exit::Failure) };
    let shutdown = Shutdown::on_signals(CLOSE_TIMEOUT)?;
    let group = config.channel.clone();
    let mut consumer = tokio::select! {
        connected = Consumer::connect(config) => connected.map_err(|error| Failure::unavailable(&error))?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    tracing::info!(stream = %args.stream, %group, "waiting for new messages");
    let mut output = TailOutput { args: &args, format: args.format.format(), left: args.count, largest: 1 };
    let ended = tokio::select! {
        ended = output.show(&mut consumer) => ended,
        () = shutdown.draining.cancelled() => Ok(()),
        () = reader_gone() => Ok(()),
    };
    consumer.stop();
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async { while consumer.recv().await.is_some() {} }).await;
    stdout::ended(ended)?;
    Ok(Exit::Success)
}

/// Waits until the reader of standard output is gone: there may be no message for long, whose line
/// could not be written.
async fn reader_gone() {
    while !stdout::reader_is_gone() {
        tokio::time::sleep(READER_CHECK).await;
    }
}

/// The printed messages.
struct TailOutput<'a> {
    args: &'a Args,
    format: MessageFormat,
    /// Messages that may still be printed, if they are counted.
    left: Option<u64>,
    /// Bytes of the largest body.
    largest: usize,
}

impl TailOutput<'_> {
    /// Prints messages until the last one that is wanted.
    async fn show(&mut self, consumer: &mut Consumer) -> std::io::Result<()> {
        while self.left != Some(0) {
            let batch = consumer.recv_many(MAX_IN_FLIGHT).await;
            if batch.is_empty() {
                return Ok(());
            }
            let lines = self.lines(&batch);
            if !lines.is_empty() {
                // on another thread: heartbeats go on while the reader is slow
                tokio::task::spawn_blocking(move || stdout::write(&lines)).await.map_err(std::io::Error::other)??;
            }
            batch.into_iter().for_each(Delivery::finish);
            let most = (IN_FLIGHT_BYTES / self.largest).clamp(1, MAX_IN_FLIGHT);
            consumer.set_max_in_flight(u32::try_from(most).unwrap_or(FIRST_IN_FLIGHT));
        }
        Ok(())
    }

    fn lines(&mut self, batch: &[Delivery]) -> Vec<u8> {
        let mut lines = Vec::new();
        for message in batch.iter().map(Delivery::message) {
            self.largest = self.largest.max(message.body.len());
            let is_wanted = self.args.grep.as_ref().is_none_or(|grep| grep.matches(&message.body));
            if is_wanted && self.left != Some(0) {
                self.left = self.left.map(|left| left - 1);
                self.add(message, &mut lines);
            }
        }
        lines
    }

    fn add(&self, message: &Message, lines: &mut Vec<u8>) {
        let published = UNIX_EPOCH + Duration::from_nanos(u64::try_from(message.timestamp).unwrap_or(0));
        let id = mqueue::proto::excerpt(&message.id.0);
        let line = MessageLine {
            stream: self.args.stream.as_str(),
            id: &id,
            timestamp: message.timestamp,
            attempts: message.attempts,
            text: format!("{}  {id}", humantime::format_rfc3339_seconds(published)),
            body: &message.body,
            ..MessageLine::default()
        };
        self.format.add(&line, lines);
    }
}
