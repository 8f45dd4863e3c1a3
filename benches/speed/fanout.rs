//! The broker with many channels, many consumers and many topics, beside nsqd and beside itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use mqueue::proto::{Command as Nsq, Frame, MAGIC_V2, Response, TopicName, WriteBuffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::bare::Bare;
use crate::measured::{cpu_of, nsqd};
use crate::support::{Nsqd, wait_until};
use crate::{Contender, Goal, ROUNDS, Round, compare, report};

type Start = fn() -> Nsqd;
type Measure = fn(&Nsqd) -> f64;

const SERVERS: [(&str, Start); 2] = [
    ("nsqd, all in memory", || nsqd(100_000_000)),
    ("mqueue broker --memory", || Nsqd::embedded(&["--memory", "--max-memory=16000000000"])),
];

pub fn run() {
    let goal = Some(Goal::AtLeast(2.0));
    for (what, measure) in [
        ("10 topics with 10 channels each, 200 B, published and drained", fan_out as Measure),
        ("1,000 consumers of one channel, 200 B, drained", thousand_consumers),
    ] {
        let round = |start: Start| -> Round<'_> { Box::new(move || measure(&start())) };
        let results = compare(SERVERS.iter().map(|(name, start)| (*name, round(*start))).collect());
        report(what, "messages/s", &results, &[(1, 0, goal)]);
    }
    grow(
        "the broker's processor time for a message of one channel, published and drained, with more channels",
        [("1 channel", |server| cost(server, 1, 1)), ("1,000 channels", |server| cost(server, 1, 1000))],
    );
    grow(
        "the broker's processor time for a message, published, with more topics",
        [("1 topic", |server| publish_cost(server, 1)), ("10,000 topics", |server| publish_cost(server, 10_000))],
    );
}

/// Compares the broker's cost at two sizes.
fn grow(what: &str, sizes: [(&'static str, Measure); 2]) {
    let mut results = sizes.map(|(name, _)| Contender { name, figures: Vec::new() });
    for _ in 0..*ROUNDS {
        for (result, (_, measure)) in results.iter_mut().zip(sizes) {
            result.figures.push(measure(&SERVERS[1].1()));
        }
    }
    report(what, "us", &results, &[(1, 0, Some(Goal::AtMost(1.5)))]);
}

fn name(prefix: &str, n: usize) -> String {
    format!("{prefix}{n}")
}

/// Publishes this number of messages to each topic, 200 together.
fn fill(server: &Nsqd, topics: usize, each: usize) {
    let (mut bare, body) = (Bare::connect(&server.tcp()), Bytes::from(vec![b'x'; 200]));
    let together = each.min(200);
    for _ in 0..each / together {
        for topic in 0..topics {
            let topic = TopicName::new(&name("t", topic)).unwrap();
            bare.ask(&Nsq::Mpub { topic, bodies: std::iter::repeat_n(body.clone(), together).collect() });
        }
    }
}

/// The RDY of each consumer, constant at the maximum of `mqueue consumer`: with a thousand
/// consumers on one channel, a flow that follows the traffic would settle at one message or at many
/// by chance.
const READY: u64 = 200;

/// Subscribes this number of consumers to each of the channels `c0`… of the topics `t0`…, sends
/// RDY, runs `fill` beside them, and returns the time until they have sent FIN for `total`
/// messages.
fn drain(
    server: &Nsqd,
    (topics, channels, each): (usize, usize, usize),
    total: usize,
    fill: impl FnOnce(),
) -> Duration {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let count = Arc::new(Count { left: AtomicUsize::new(total), done: Notify::new() });
    let subscribed = runtime.block_on(join_all((0..topics * channels * each).map(|n| {
        let topic = name("t", n % topics).parse().unwrap();
        let channel = name("c", n / topics % channels).parse().unwrap();
        subscribe(server.tcp(), Nsq::Sub { topic, channel })
    })));
    let start = Instant::now();
    for stream in subscribed {
        runtime.spawn(consume(stream, count.clone()));
    }
    fill();
    runtime.block_on(count.done.notified());
    start.elapsed()
}

struct Count {
    left: AtomicUsize,
    done: Notify,
}

async fn subscribe(address: String, subscribe: Nsq) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut out = WriteBuffer::new();
    out.put_slice(MAGIC_V2);
    subscribe.encode(&mut out);
    stream.write_all_buf(&mut out).await.unwrap();
    let mut incoming = BytesMut::new();
    while Frame::decode(&mut incoming, u32::MAX).unwrap() != Some(Frame::Response(Response::Ok)) {
        stream.read_buf(&mut incoming).await.unwrap();
    }
    stream
}

/// Sends FIN for each message, with one write for all messages of one read.
async fn consume(mut stream: TcpStream, count: Arc<Count>) {
    let (mut incoming, mut out) = (BytesMut::new(), WriteBuffer::new());
    Nsq::Rdy(READY).encode(&mut out);
    loop {
        stream.write_all_buf(&mut out).await.unwrap();
        incoming.reserve(32 * 1024);
        assert!(stream.read_buf(&mut incoming).await.unwrap() > 0, "the broker closed the connection");
        let mut finished = 0;
        while let Some(frame) = Frame::decode(&mut incoming, u32::MAX).unwrap() {
            match frame {
                Frame::Message(message) => {
                    Nsq::Fin(message.id).encode(&mut out);
                    finished += 1;
                }
                Frame::Response(_) => Nsq::Nop.encode(&mut out),
                Frame::Error(error) => panic!("{error}"),
            }
        }
        if finished > 0 && count.left.fetch_sub(finished, Ordering::Relaxed) == finished {
            stream.write_all_buf(&mut out).await.unwrap();
            count.done.notify_one();
        }
    }
}

fn create(server: &Nsqd, topics: usize, channels: usize) {
    for topic in 0..topics {
        for channel in 0..channels {
            server.create(&name("t", topic), &name("c", channel));
        }
    }
}

/// Message copies per second.
fn fan_out(server: &Nsqd) -> f64 {
    const EACH: usize = 10_000;
    create(server, 10, 10);
    let took = drain(server, (10, 10, 1), 100 * EACH, || fill(server, 10, EACH));
    (100 * EACH) as f64 / took.as_secs_f64()
}

fn thousand_consumers(server: &Nsqd) -> f64 {
    const ALL: usize = 500_000;
    create(server, 1, 1);
    fill(server, 1, ALL);
    ALL as f64 / drain(server, (1, 1, 1000), ALL, || {}).as_secs_f64()
}

/// The broker's microseconds for each of 400,000 copies of the messages of one topic with this
/// number of channels.
fn cost(server: &Nsqd, topics: usize, channels: usize) -> f64 {
    const COPIES: usize = 400_000;
    create(server, topics, channels);
    let before = cpu_of(server.pid());
    fill(server, topics, COPIES / channels);
    drain(server, (topics, channels, 1), COPIES, || {});
    (cpu_of(server.pid()) - before) * 1e6 / COPIES as f64
}

/// The broker's microseconds for each of a million messages, 100 together, over this number of
/// topics.
fn publish_cost(server: &Nsqd, topics: usize) -> f64 {
    const ALL: usize = 1_000_000;
    let (mut bare, body) = (Bare::connect(&server.tcp()), Bytes::from(vec![b'x'; 200]));
    let names: Vec<TopicName> = (0..topics).map(|n| TopicName::new(&name("t", n)).unwrap()).collect();
    // creating a topic does not count for the messages
    for topic in &names {
        bare.ask(&Nsq::Pub { topic: topic.clone(), body: body.clone() });
    }
    wait_until("the topics", || server.stats().topics.len() == topics);
    let before = cpu_of(server.pid());
    for n in 0..ALL / 100 {
        let bodies = std::iter::repeat_n(body.clone(), 100).collect();
        bare.ask(&Nsq::Mpub { topic: names[n % topics].clone(), bodies });
    }
    (cpu_of(server.pid()) - before) * 1e6 / ALL as f64
}
