//! An embedded broker in memory, with a publisher and a consumer.
//!
//! Run: `cargo run --example embedded_broker`. Needs no nsqd.

#![allow(clippy::print_stdout)]

use mqueue::broker::server::BrokerServer;
use mqueue::broker::{Broker, BrokerConfig};
use mqueue::client::{Consumer, ConsumerConfig, Publisher, PublisherConfig};
use mqueue::proto::TopicName;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let any_port = ["127.0.0.1:0".parse()?];
    let server = BrokerServer::bind(Broker::in_memory(BrokerConfig::default()), &any_port, &any_port, None).await?;
    let address = server.tcp[0].to_string().parse()?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(stop.clone()));

    let nsqd = address;
    let config = ConsumerConfig::new("foo".parse()?, "bar".parse()?).with_nsqd(nsqd);
    let mut consumer = Consumer::connect(config.clone()).await?;
    let publisher = Publisher::connect(&config.nsqd, PublisherConfig::default()).await?;
    publisher.publish(&TopicName::new("foo")?, "hello").await?;
    let delivery = consumer.recv().await.ok_or("the consumer ended")?;
    println!("{:?}", delivery.message().body);
    delivery.finish();

    consumer.stop();
    while let Some(delivery) = consumer.recv().await {
        delivery.release();
    }
    stop.cancel();
    serving.await?;
    Ok(())
}
