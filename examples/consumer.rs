//! A consumer with its own handler: an async closure.
//!
//! Run: `make up`, then `STREAM=foo make producer` in one shell and
//! `cargo run --example consumer` in another.

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
    let config = ConsumerConfig::new("foo".parse()?, "example".parse()?).with_nsqd(nsqd);

    let handler = |message: Message| async move {
        match std::str::from_utf8(&message.body) {
            Ok(text) => println!("{} (attempt {}): {text}", message.id, message.attempts),
            Err(e) => return Verdict::drop(format!("not UTF-8: {e}")), // to the dead letters, foo.dead
        }
        Verdict::done() // only now the message leaves the queue
    };

    let consumer = Consumer::connect(config).await?;
    let shutdown = Shutdown::on_signals(Duration::from_secs(30))?; // Ctrl-C: finish what runs
    let (ended, stats) = Worker::new(consumer, Arc::new(handler), WorkerConfig::default())?.run(&shutdown).await;
    println!("{ended:?}: {stats:?}");
    Ok(())
}
