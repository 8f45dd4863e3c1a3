//! A consumer without a worker: a stream of deliveries, each answered by the application.
//!
//! Run: `make up`, then `STREAM=foo make producer` in one shell and
//! `cargo run --example deliveries` in another.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use futures_util::StreamExt;
use mqueue::client::{Consumer, ConsumerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::var("NSQD_TCP_ADDRESS").as_deref().unwrap_or("127.0.0.1:4150").parse()?;
    let config = ConsumerConfig::new("foo".parse()?, "deliveries".parse()?).with_nsqd(nsqd);
    let mut consumer = Consumer::connect(config).await?;
    while let Some(delivery) = consumer.next().await {
        let message = delivery.message();
        if message.body.starts_with(b"{") {
            println!("{}: {} bytes", message.id, message.body.len());
            delivery.finish(); // FIN: the message leaves the queue
        } else {
            delivery.requeue(Duration::from_secs(5)); // REQ: it comes again
        }
    }
    Ok(())
}
