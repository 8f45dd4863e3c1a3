//! Retries and dead letters: a message that fails three times is published to `foo.dead`, with the
//! reason.
//!
//! Run: `make up`, then `STREAM=foo make producer` in one shell and `cargo run --example
//! dead_letters` in another. `mqueue errors --stream foo` lists the dead letters.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::handler::Verdict;
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::var("NSQD_TCP_ADDRESS").as_deref().unwrap_or("127.0.0.1:4150").parse()?;
    let config = ConsumerConfig::new("foo".parse()?, "picky".parse()?).with_nsqd(nsqd);
    let handler = |message: Message| async move {
        match message.body.len() {
            0 => Verdict::drop("empty"),                            // a dead letter at once
            odd if odd % 2 == 1 => Verdict::retry("an odd length"), // again after a delay, and a dead letter after the last try
            _ => Verdict::done(),
        }
    };
    let tries = WorkerConfig::default().with_max_attempts(3);
    let consumer = Consumer::connect(config).await?;
    let shutdown = Shutdown::on_signals(Duration::from_secs(30))?;
    let (_, stats) = Worker::new(consumer, Arc::new(handler), tries)?.run(&shutdown).await;
    println!("{} done, {} to retry, {} dead letters", stats.done, stats.retried, stats.dead);
    Ok(())
}
