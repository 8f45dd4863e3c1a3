//! Publishes a message and waits until nsqd has acknowledged it.
//!
//! Run: `make up`, then `cargo run --example publisher`.

#![allow(clippy::print_stdout)]

use mqueue::client::{Publisher, PublisherConfig};
use mqueue::proto::TopicName;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("NSQD_TCP_ADDRESS").as_deref().unwrap_or("127.0.0.1:4150").parse()?;
    let publisher = Publisher::connect(&[address], PublisherConfig::default()).await?;
    publisher.publish(&TopicName::new("foo")?, "hello").await?; // nsqd said OK, or this is an error
    println!("published: {:?}", publisher.counts());
    Ok(())
}
