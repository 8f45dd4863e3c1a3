//! The README's example: a consumer with its own handler and dead letters.
//!
//! Run: `make up`, then `STREAM=foo make producer` in one shell and
//! `cargo run --example readme` in another.

use std::sync::Arc;
use std::time::Duration;

use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::handler::Verdict;
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = ConsumerConfig::new("foo".parse()?, "example".parse()?);
    let consumer = Consumer::connect(config.with_nsqd("127.0.0.1:4150".parse()?)).await?;
    let handler = |message: Message| async move {
        match message.body.len() {
            0 => Verdict::retry("empty"), // after three tries: published to foo.dead
            _ => Verdict::done(),         // only now does the message leave the queue
        }
    };
    let tries = WorkerConfig::default().with_max_attempts(3);
    let shutdown = Shutdown::on_signals(Duration::from_secs(30))?;
    Worker::new(consumer, Arc::new(handler), tries)?.run(&shutdown).await;
    Ok(())
}
