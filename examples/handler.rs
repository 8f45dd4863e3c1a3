//! A handler as a struct, which keeps state from message to message.
//!
//! Run: `make up`, then `STREAM=foo make producer` in one shell and
//! `cargo run --example handler` in another.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::handler::{Handler, Verdict};
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

/// Adds up the sizes of all messages.
#[derive(Default)]
struct Sum {
    bytes: AtomicU64,
}

impl Handler for Sum {
    async fn handle(&self, message: Message) -> Verdict {
        let before = self.bytes.fetch_add(message.body.len() as u64, Ordering::Relaxed);
        println!("{} bytes", before + message.body.len() as u64);
        Verdict::done()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::var("NSQD_TCP_ADDRESS").as_deref().unwrap_or("127.0.0.1:4150").parse()?;
    let config = ConsumerConfig::new("foo".parse()?, "sum".parse()?).with_nsqd(nsqd);
    let consumer = Consumer::connect(config).await?;
    let shutdown = Shutdown::on_signals(Duration::from_secs(30))?;
    Worker::new(consumer, Arc::new(Sum::default()), WorkerConfig::default())?.run(&shutdown).await;
    Ok(())
}
