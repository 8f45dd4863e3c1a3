//! Graceful shutdown: after the first Ctrl-C (or when the program says so) the worker receives
//! nothing new and finishes its running handlers; after a second Ctrl-C or the grace period it
//! requeues the rest at once.
//!
//! Run: `make up`, then `STREAM=foo make producer` in one shell and
//! `cargo run --example graceful_shutdown` in another.

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
    let config = ConsumerConfig::new("foo".parse()?, "slow".parse()?).with_nsqd(nsqd);
    let handler = |message: Message| async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!("{}", message.id);
        Verdict::done()
    };
    let consumer = Consumer::connect(config).await?;
    let shutdown = Shutdown::on_signals(Duration::from_secs(10))?;
    let after_a_minute = shutdown.draining.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        after_a_minute.cancel(); // as the first Ctrl-C
    });
    let (ended, stats) = Worker::new(consumer, Arc::new(handler), WorkerConfig::default())?.run(&shutdown).await;
    println!("{ended:?}: {} done, {} given back", stats.done, stats.released);
    Ok(())
}
