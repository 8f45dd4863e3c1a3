//! The publish path: the publisher, its connection, the codec, tokio, and a peer in the same thread
//! that answers OK.

use bytes::{Buf, BytesMut};
use futures_util::future::join_all;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::proto::{Command, Frame, Limits, MAGIC_V2, Response, TopicName, WriteBuffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use crate::Work;
use crate::codec::body;

pub const ONE: u64 = 500;
pub const BATCHED: u64 = 4000;
/// Messages published concurrently.
const BATCH: usize = 200;

/// Publishes one message at a time.
pub fn one() -> Work {
    let (runtime, publisher, topic) = connected();
    Box::new(move || {
        runtime.block_on(async {
            for _ in 0..ONE {
                publisher.publish(&topic, body()).await.unwrap();
            }
        });
    })
}

/// Publishes many messages concurrently, each by its own call: they share commands.
pub fn batched() -> Work {
    let (runtime, publisher, topic) = connected();
    Box::new(move || {
        runtime.block_on(async {
            for _ in 0..BATCHED as usize / BATCH {
                let published = join_all((0..BATCH).map(|_| publisher.publish(&topic, body()))).await;
                assert!(published.iter().all(Result::is_ok));
            }
        });
    })
}

fn connected() -> (Runtime, Publisher, TopicName) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let publisher = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move { say_ok(listener.accept().await.unwrap().0).await });
        Publisher::connect(&[address], PublisherConfig::default()).await.unwrap()
    });
    (runtime, publisher, TopicName::new("bench").unwrap())
}

/// A peer that accepts all messages.
async fn say_ok(mut stream: TcpStream) {
    let (mut incoming, mut magic) = (BytesMut::new(), [0; MAGIC_V2.len()]);
    stream.read_exact(&mut magic).await.unwrap();
    while stream.read_buf(&mut incoming).await.is_ok_and(|count| count > 0) {
        let mut out = WriteBuffer::new();
        while let Some(command) = Command::decode(&mut incoming, &Limits::default()).unwrap() {
            if !matches!(command, Command::Nop) {
                Frame::Response(Response::Ok).encode(&mut out);
            }
        }
        if stream.write_all(&out.copy_to_bytes(out.remaining())).await.is_err() {
            return;
        }
    }
}
