//! Brokers that keep their messages in files, each with its own best client: JetStream with
//! `nats bench`, Redis with redis-benchmark, beanstalkd with a pipelined socket.
//!
//! Each round begins with a new, empty server; the names of the rows tell what an acknowledgement
//! promises. Peers that are missing are left out: nats-server and nats come from `scripts/peers
//! --nats`, the others from Debian.

mod beanstalkd;
mod disk;
mod jet_stream;
mod redis;
mod under_load;

use crate::book::Pair;
use crate::measured::{bench, figure, nsqd};
use crate::support::Nsqd;
use crate::{Goal, Round, compare, report};

use beanstalkd::Beanstalkd;
use jet_stream::JetStream;

/// A contender: its name and what it does in a round.
type Entry = (&'static str, Round<'static>);

/// A goal beside the peer of this name.
type PeerGoal = (&'static str, Option<Goal>);

const INTERVAL: &str = "mqueue broker --sync=interval (100 ms)";
const ALWAYS: &str = "mqueue broker --sync=always";

pub fn run() {
    published();
    consumed();
    published_and_synced();
    singly_synced();
    beside_the_disk();
    under_load::run();
}

/// Returns an entry for our broker.
fn ours(name: &'static str, flags: &'static str, measure: impl Fn(&Nsqd) -> f64 + 'static) -> Entry {
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let round: Round<'static> = Box::new(move || {
        let server = Nsqd::embedded(&flags);
        server.create("bench", "ch");
        measure(&server)
    });
    (name, round)
}

/// Runs the entries in turns, and reports the first beside each of the others.
fn beside(what: &str, entries: Vec<Entry>, goals: &[PeerGoal]) {
    let names: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
    let pairs: Vec<Pair> = (1..names.len())
        .map(|peer| {
            let goal = goals.iter().find(|(name, _)| *name == names[peer]).and_then(|(_, goal)| *goal);
            (0, peer, goal)
        })
        .collect();
    report(what, "messages/s", &compare(entries), &pairs);
}

/// Rates of publishing batches, in the mode that each broker has by default.
fn published() {
    const JET_STREAM: &str = "JetStream, fast batches, synced every 2 min";
    const REDIS: &str = "Redis, LPUSH pipelined, AOF everysec";
    let publish = |server: &Nsqd| published_rate(server, "--batch 200 --connections 2");
    let mut entries = vec![ours(INTERVAL, "--sync=interval", publish)];
    entries.push((
        "nsqd, all through its disk queue, synced every 2,500 or 2 s",
        Box::new(move || {
            let server = nsqd(0);
            server.create("bench", "ch");
            publish(&server)
        }),
    ));
    entries.extend(JetStream::entry(JET_STREAM, "2m", |server| server.publish("fast", 200, 2, 1_000_000)));
    entries.extend(JetStream::entry("JetStream, asynchronous publishing, synced every 2 min", "2m", |server| {
        server.publish("async", 200, 2, 500_000)
    }));
    entries.extend(redis::entry(REDIS, "everysec", |server| redis::push(server, 200, 2, 1_000_000)));
    entries.extend(redis::entry("Redis, LPUSH of 200 values, AOF everysec", "everysec", redis::push_together));
    entries.extend(redis::entry("Redis, XADD pipelined, AOF everysec", "everysec", redis::add));
    entries.extend(Beanstalkd::entry("beanstalkd, put pipelined, synced every 100 ms", "-f100", |server| {
        server.put(200, 300_000)
    }));
    let goals = [(JET_STREAM, Some(Goal::AtLeast(10.0))), (REDIS, Some(Goal::AtLeast(4.0)))];
    beside("publish 200 B to files, batches or pipelines of 200", entries, &goals);
}

/// Rates of consuming with acknowledgements.
fn consumed() {
    const JET_STREAM: &str = "JetStream, durable consumer, acks explicit";
    let consume = |server: &Nsqd| {
        let report = bench(server, "consume --messages 1000000 --connections 2 --max-in-flight 2500");
        figure(&report, "/handled/messages_per_s")
    };
    let mut entries = vec![ours(INTERVAL, "--sync=interval", consume)];
    entries.push((
        "nsqd, all through its disk queue",
        Box::new(move || {
            let server = nsqd(0);
            server.create("bench", "ch");
            consume(&server)
        }),
    ));
    entries.extend(JetStream::entry(JET_STREAM, "2m", |server| {
        server.publish("fast", 200, 2, 500_000);
        server.consume(200, 2, 500_000)
    }));
    entries.extend(redis::entry("Redis, LMOVE and LREM pipelined, AOF everysec", "everysec", redis::move_and_remove));
    entries.extend(redis::entry("Redis, XREADGROUP and XACK of 200, AOF everysec", "everysec", redis::read_group));
    entries.extend(Beanstalkd::entry("beanstalkd, reserve and delete pipelined", "-f100", |server| {
        server.put(200, 300_000);
        server.delete(200, 300_000)
    }));
    beside("consume 200 B from files, with acknowledgements", entries, &[(JET_STREAM, Some(Goal::AtLeast(15.0)))]);
}

/// Rates of publishing where each acknowledged message is on the disk, with 200 under way.
fn published_and_synced() {
    const JET_STREAM: &str = "JetStream, sync_interval always, asynchronous";
    const REDIS: &str = "Redis, LPUSH pipelined, AOF always";
    let publish = |server: &Nsqd| published_rate(server, "--batch 200 --connections 2");
    let mut entries = vec![ours(ALWAYS, "--sync=always", publish)];
    entries.extend(JetStream::entry(JET_STREAM, "always", |server| server.publish("async", 200, 2, 10_000)));
    entries.extend(JetStream::entry("JetStream, sync_interval always, fast batches", "always", |server| {
        server.publish("fast", 200, 2, 10_000)
    }));
    entries.extend(redis::entry(REDIS, "always", |server| redis::push(server, 200, 2, 200_000)));
    entries.extend(Beanstalkd::entry("beanstalkd, put pipelined, synced at each", "-f0", |server| {
        server.put(200, 10_000)
    }));
    let goals = [(JET_STREAM, Some(Goal::AtLeast(50.0))), (REDIS, Some(Goal::AtLeast(3.0)))];
    beside("publish 200 B, all on the disk, batches or pipelines of 200", entries, &goals);
}

/// The same with 8 connections, each of which waits for every acknowledgement.
fn singly_synced() {
    const JET_STREAM: &str = "JetStream, sync_interval always";
    const REDIS: &str = "Redis, AOF always";
    let publish = |server: &Nsqd| published_rate(server, "--batch 1 --connections 8");
    let mut entries = vec![ours(ALWAYS, "--sync=always", publish)];
    entries.extend(redis::entry(REDIS, "always", |server| redis::push(server, 1, 8, 20_000)));
    entries.extend(JetStream::entry(JET_STREAM, "always", |server| server.publish("sync", 1, 8, 8_000)));
    let goals = [(REDIS, Some(Goal::AtLeast(1.2))), (JET_STREAM, Some(Goal::AtLeast(3.0)))];
    beside("publish 200 B, all on the disk, one at a time on 8 connections", entries, &goals);
}

/// The rate with more connections, beside a program that writes a message to a file and syncs it,
/// one after the other.
fn beside_the_disk() {
    const DISK: &str = "a file: write of 200 B, fdatasync";
    let entries = vec![
        ours(ALWAYS, "--sync=always", |server| published_rate(server, "--batch 1 --connections 64")),
        (DISK, Box::new(disk::synced_writes) as Round<'static>),
    ];
    let goals = [(DISK, Some(Goal::AtLeast(20.0)))];
    beside("publish 200 B, all on the disk, one at a time on 64 connections", entries, &goals);
}

fn published_rate(server: &Nsqd, flags: &str) -> f64 {
    figure(&bench(server, &format!("publish {flags} --warm-up 0s --duration 2s")), "/published/messages_per_s")
}
