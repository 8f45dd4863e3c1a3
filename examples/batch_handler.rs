//! A handler that takes the waiting messages in one call, which pays if a batch costs little more
//! than a message, as with INSERT.
//!
//! Run: `make up`, then `STREAM=foo make producer` in one shell and
//! `cargo run --example batch_handler` in another.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::handler::{Handler, Verdict};
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

struct Rows;

impl Handler for Rows {
    async fn handle(&self, message: Message) -> Verdict {
        self.handle_batch(vec![message]).await.remove(0)
    }

    fn batch_size(&self) -> usize {
        100
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        println!("INSERT of {} rows", messages.len());
        // one verdict for each message, in their order
        messages
            .iter()
            .map(|message| if message.body.is_empty() { Verdict::drop("empty") } else { Verdict::done() })
            .collect()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::var("NSQD_TCP_ADDRESS").as_deref().unwrap_or("127.0.0.1:4150").parse()?;
    let config = ConsumerConfig::new("foo".parse()?, "rows".parse()?).with_nsqd(nsqd);
    let consumer = Consumer::connect(config).await?;
    let shutdown = Shutdown::on_signals(Duration::from_secs(30))?;
    Worker::new(consumer, Arc::new(Rows), WorkerConfig::default())?.run(&shutdown).await;
    Ok(())
}
