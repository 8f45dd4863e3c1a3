//! The world: what runs in it, what goes wrong, and what must be true in the end.
//!
//! The promises are those of the README and of docs/architecture.md: an acknowledged message is
//! handled at least once by every group that was there, nothing else is handled, a deferred message
//! is not early, and what was finished is not in the queue any more.

// a run of seeds reports what it did
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::{CURRENT, Network, Surroundings, WallClock, random};
use crate::broker::log::{DiskLog, LogOptions, SyncMode};
use crate::broker::server::{BoundAddresses, BrokerServer};
use crate::broker::state::StatsSelection;
use crate::broker::{Broker, BrokerConfig};
use crate::client::{Address, ConnectConfig, Consumer, ConsumerConfig, Publisher, PublisherConfig};
use crate::handler::Verdict;
use crate::proto::{ChannelName, Identify, Message, TopicName};
use crate::shutdown::Shutdown;
use crate::worker::{Worker, WorkerConfig};

/// Time in which things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// Time in which all that was acknowledged must be handled after that.
const AFTERWARDS: Duration = Duration::from_secs(1800);
/// Time in which nothing may be handled at the end.
const QUIET: Duration = Duration::from_secs(60);
/// The longest time that a handler takes.
const SLOWEST: Duration = Duration::from_secs(12);
/// The largest step of the wall clock, in milliseconds.
const LARGEST_STEP: i64 = 600_000;
/// The message timeout of consumers.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest time from a write to the end of its sync, if syncs are made at intervals: the
/// interval, and three rounds of 20 ms.
const UNSYNCED: Duration = Duration::from_millis(160);
const GROUPS: [&str; 2] = ["1", "2"];

/// A message that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    at: Instant,
    /// When it may be handled first.
    not_before: Instant,
}

/// All that was published and handled.
#[derive(Debug)]
struct Record {
    next: u64,
    /// Messages that were sent, acknowledged or not.
    sent: BTreeSet<u64>,
    acknowledged: BTreeMap<u64, Acknowledged>,
    /// The first handling of a message by a group.
    handled: BTreeMap<(usize, u64), Instant>,
    handlings: u64,
    /// The time from which messages are promised: earlier ones may be lost, although their OK arrives
    /// later.
    promised_from: Instant,
    /// True if the wall clock was stepped: due times after a restart follow it.
    was_stepped: bool,
    violations: Vec<String>,
}

/// The counts of a run, and the broken promises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) acknowledged: usize,
    pub(super) handlings: u64,
    pub(super) troubles: BTreeMap<&'static str, u32>,
    pub(super) violations: Vec<String>,
}

type SharedRecord = Arc<Mutex<Record>>;

fn lock(record: &SharedRecord) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the world of a seed.
pub(super) fn run(seed: u64) -> Outcome {
    let run = move || {
        random::seed_thread(seed);
        let runtime = runtime();
        let outcome = runtime.block_on(async move {
            let (network, wall_clock) = (Network::new(seed), WallClock::start());
            let surroundings = Surroundings { network: network.clone(), wall_clock: wall_clock.clone() };
            CURRENT.set(Some(surroundings));
            World::new(seed, network, wall_clock).run().await
        });
        drop(runtime);
        outcome
    };
    // a thread of its own: its random numbers depend on the seed only
    std::thread::spawn(run).join().unwrap()
}

/// A runtime whose time is virtual.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// A broker's process.
struct BrokerProcess {
    broker: Arc<Broker>,
    server: JoinHandle<()>,
    stop: CancellationToken,
}

/// A process that publishes or consumes.
struct ClientProcess {
    name: String,
    task: JoinHandle<()>,
}

struct World {
    rng: fastrand::Rng,
    network: Network,
    wall_clock: WallClock,
    disk: Disk,
    sync: SyncMode,
    broker: Option<BrokerProcess>,
    publishers: Vec<ClientProcess>,
    consumers: Vec<(usize, ClientProcess)>,
    names: usize,
    begun: Instant,
    record: SharedRecord,
    outcome: Outcome,
}

fn topic() -> TopicName {
    TopicName::new("numbers").unwrap()
}

fn connect_config() -> ConnectConfig {
    let millis = |time: Duration| time.as_millis() as i64;
    let identify = Identify {
        heartbeat_interval: Some(millis(Duration::from_secs(2))),
        msg_timeout: Some(millis(MESSAGE_TIMEOUT)),
        ..ConnectConfig::default().identify
    };
    ConnectConfig::default().with_identify(identify)
}

impl World {
    fn new(seed: u64, network: Network, wall_clock: WallClock) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let sync = [SyncMode::Always, SyncMode::Interval, SyncMode::Never][rng.usize(0..3)];
        Self {
            rng,
            network,
            wall_clock,
            disk: Disk::new(),
            sync,
            broker: None,
            publishers: Vec::new(),
            consumers: Vec::new(),
            names: 0,
            begun: Instant::now(),
            record: Arc::new(Mutex::new(Record {
                next: 0,
                sent: BTreeSet::new(),
                acknowledged: BTreeMap::new(),
                handled: BTreeMap::new(),
                handlings: 0,
                promised_from: Instant::now(),
                was_stepped: false,
                violations: Vec::new(),
            })),
            outcome: Outcome::default(),
        }
    }

    async fn run(mut self) -> Outcome {
        self.start_broker();
        // the groups are there before the first message
        let config = |group: &str| {
            ConsumerConfig::new(topic(), ChannelName::new(group).unwrap()).with_nsqd("broker:4150".parse().unwrap())
        };
        for group in GROUPS {
            let mut consumer = Consumer::connect(config(group).with_max_in_flight(1)).await.unwrap();
            consumer.stop();
            while consumer.recv().await.is_some() {}
        }
        if self.sync != SyncMode::Always {
            sleep(UNSYNCED).await;
        }
        for _ in 0..2 {
            self.start_publisher();
        }
        for group in [0, 1, 0, 1] {
            self.start_consumer(group);
        }
        let end = Instant::now() + TROUBLE;
        while Instant::now() < end {
            sleep(Duration::from_millis(self.rng.u64(1..1500))).await;
            self.trouble().await;
        }
        self.network.set_slowest(Duration::from_millis(2));
        if self.broker.is_none() {
            self.start_broker();
        }
        self.publishers.drain(..).for_each(|publisher| publisher.task.abort());
        for group in [0, 1] {
            self.start_consumer(group);
        }
        self.judge().await;
        self.outcome
    }

    fn count(&mut self, trouble: &'static str) {
        self.say(trouble);
        *self.outcome.troubles.entry(trouble).or_default() += 1;
    }

    /// Prints an event with its time, if VERBOSE is set.
    fn say(&self, event: impl std::fmt::Display) {
        if std::env::var_os("VERBOSE").is_some() {
            let record = lock(&self.record);
            let (time, acknowledged) = (self.begun.elapsed(), record.acknowledged.len());
            eprintln!("{time:?}: {event}; {acknowledged} acknowledged");
        }
    }

    /// Something goes wrong.
    async fn trouble(&mut self) {
        match self.rng.u8(0..10) {
            0 => {
                self.count("broker killed");
                self.kill_broker(false).await;
            }
            1 if self.sync != SyncMode::Never => {
                self.count("power cut");
                self.kill_broker(true).await;
            }
            2 => {
                self.count("connections reset");
                let chosen = self.rng.usize(0..8);
                let index = std::cell::Cell::new(0);
                self.network.reset(|_| index.replace(index.get() + 1) % 8 <= chosen);
            }
            3 => {
                self.count("network cut");
                let cut = Duration::from_millis(self.rng.u64(10..8000));
                self.network.cut(Instant::now() + cut);
            }
            4 => {
                self.count("network slow or fast");
                self.network.set_slowest(Duration::from_millis(self.rng.u64(1..300)));
            }
            5 | 6 if !self.consumers.is_empty() => {
                self.count("consumer killed");
                let (group, consumer) = self.consumers.swap_remove(self.rng.usize(..self.consumers.len()));
                self.kill(&consumer);
                if self.rng.u8(..) < 200 {
                    self.start_consumer(group);
                }
            }
            7 => {
                self.count("publisher killed");
                let publisher = self.publishers.swap_remove(self.rng.usize(..self.publishers.len()));
                self.kill(&publisher);
                self.start_publisher();
            }
            8 => {
                self.count("clock stepped");
                self.wall_clock.step(self.rng.i64(-LARGEST_STEP..LARGEST_STEP));
                lock(&self.record).was_stepped = true;
            }
            _ => {
                self.count("consumer started");
                let group = self.rng.usize(0..GROUPS.len());
                self.start_consumer(group);
            }
        }
    }

    /// Ends a client as kill -9 does: its connections are reset, and nothing of it goes on.
    fn kill(&self, client: &ClientProcess) {
        self.network.reset(|name| name == client.name);
        client.task.abort();
    }

    async fn kill_broker(&mut self, power_cut: bool) {
        if let Some(BrokerProcess { broker, server, stop }) = self.broker.take() {
            self.network.kill_server("broker");
            if power_cut && self.sync == SyncMode::Interval {
                let mut record = lock(&self.record);
                record.acknowledged.retain(|_, message| message.at.elapsed() > UNSYNCED);
                // an OK may still be on its way
                record.promised_from = Instant::now();
            }
            match power_cut {
                true => self.disk.cut_power(&mut self.rng),
                false => self.disk.kill_process(),
            }
            // the rest of the process sees only its old folder
            server.abort();
            stop.cancel();
            drop(broker);
        }
        sleep(Duration::from_millis(self.rng.u64(0..3000))).await;
        self.start_broker();
    }

    fn start_broker(&mut self) {
        let mut options = LogOptions::new(self.disk.path());
        options.sync = self.sync;
        options.segment_bytes = 64 << 10;
        options.reserve_bytes = 0;
        let (log, recovered, report) = DiskLog::open_with(&options, Box::new(self.disk.sync())).unwrap();
        if self.sync == SyncMode::Never && report.is_damaged() {
            lock(&self.record).violations.push(format!("damage without a power cut: {:?}", report.damage));
        }
        self.say(format_args!("broker started, {:?}: {report}", self.sync));
        let synced = (self.sync == SyncMode::Always).then(|| log.synced());
        let broker = Broker::on_disk(BrokerConfig::default(), log, recovered, synced);
        let listening = BoundAddresses::simulated(self.network.listen("broker"));
        let server = BrokerServer::new(broker, listening, None);
        let (broker, stop) = (server.broker.clone(), CancellationToken::new());
        let server = tokio::spawn(server.run(stop.clone()));
        self.broker = Some(BrokerProcess { broker, server, stop });
    }

    fn client(&mut self, kind: &str) -> (String, Address) {
        self.names += 1;
        let name = format!("{kind}{}", self.names);
        let address = format!("broker.{name}:4150").parse().unwrap();
        (name, address)
    }

    fn start_publisher(&mut self) {
        let (name, address) = self.client("p");
        let (record, seed) = (self.record.clone(), self.rng.u64(..));
        let task = tokio::spawn(publish(address, record, fastrand::Rng::with_seed(seed)));
        self.publishers.push(ClientProcess { name, task });
    }

    fn start_consumer(&mut self, group: usize) {
        let (name, address) = self.client("c");
        let task = tokio::spawn(consume(address, group, self.record.clone()));
        self.consumers.push((group, ClientProcess { name, task }));
    }

    async fn judge(&mut self) {
        let deadline = Instant::now() + AFTERWARDS;
        let missing = |record: &Record| {
            let groups = 0..GROUPS.len();
            let of_group = |group| record.acknowledged.keys().map(move |number| (group, *number));
            groups.flat_map(of_group).filter(|key| !record.handled.contains_key(key)).collect::<Vec<_>>()
        };
        while !missing(&lock(&self.record)).is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(500)).await;
        }
        let missing = missing(&lock(&self.record));
        if !missing.is_empty() {
            let some: Vec<_> = missing.iter().take(5).collect();
            for (group, number) in &missing {
                self.say(format_args!("{number} for group {group}: {:?}", lock(&self.record).acknowledged[number]));
            }
            let text = format!("{} acknowledged and not handled, as (group, number): {some:?}", missing.len());
            self.outcome.violations.push(text);
        }
        while self.depth() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(500)).await;
        }
        // handlers of messages that were delivered twice may still run
        sleep(SLOWEST).await;
        let handlings = lock(&self.record).handlings;
        sleep(QUIET).await;
        let (depth, later) = (self.depth(), lock(&self.record).handlings - handlings);
        if depth > 0 || later > 0 {
            self.outcome.violations.push(format!("after the end: {depth} in the queue, {later} handled again"));
        }
        // what is finished stays finished in what is written
        for (_, consumer) in std::mem::take(&mut self.consumers) {
            self.kill(&consumer);
        }
        sleep(Duration::from_secs(1)).await;
        self.kill_broker(false).await;
        let depth = self.depth();
        if depth > 0 {
            self.outcome.violations.push(format!("{depth} finished messages are back after a restart"));
        }
        let mut record = lock(&self.record);
        self.outcome.violations.append(&mut record.violations);
        (self.outcome.acknowledged, self.outcome.handlings) = (record.acknowledged.len(), record.handlings);
    }

    /// Messages in the queues: waiting, deferred and in flight.
    fn depth(&self) -> i64 {
        let Some(process) = &self.broker else { return 0 };
        process.broker.change(|state, now| {
            let of_topic = state.topic_stats(&StatsSelection::default(), now);
            let channels = of_topic.iter().flat_map(|topic| topic.channels.iter());
            let of_channels: i64 = channels.map(|c| c.depth + c.in_flight_count + c.deferred_count).sum();
            of_topic.iter().map(|topic| topic.depth).sum::<i64>() + of_channels
        })
    }
}

/// The body of a message: its number, and some more.
fn body(number: u64, rng: &mut fastrand::Rng) -> Bytes {
    let length = match rng.u8(..) {
        0..4 => rng.usize(0..200_000),
        _ => rng.usize(0..400),
    };
    format!("{number} {}", "x".repeat(length)).into()
}

fn number_of(body: &[u8]) -> Option<u64> {
    let end = body.iter().position(|byte| *byte == b' ')?;
    str::from_utf8(&body[..end]).ok()?.parse().ok()
}

/// Publishes until it is aborted.
async fn publish(address: Address, record: SharedRecord, mut rng: fastrand::Rng) {
    let config = PublisherConfig::default().with_connect(connect_config()).with_timeout(Duration::from_secs(5));
    let publisher = loop {
        match Publisher::connect(std::slice::from_ref(&address), config.clone()).await {
            Ok(publisher) => break publisher,
            Err(_) => sleep(Duration::from_millis(300)).await,
        }
    };
    loop {
        sleep(Duration::from_millis(rng.u64(0..200))).await;
        let count = if rng.bool() { 1 } else { rng.u64(2..20) };
        let numbers: Vec<u64> = {
            let mut record = lock(&record);
            let first = record.next;
            record.next += count;
            record.sent.extend(first..first + count);
            (first..first + count).collect()
        };
        let bodies: Vec<Bytes> = numbers.iter().map(|number| body(*number, &mut rng)).collect();
        let (begun, mut not_before) = (Instant::now(), Instant::now());
        let failed: Vec<usize> = match (count, rng.u8(..)) {
            (1, 0..64) => {
                let delay = Duration::from_millis(rng.u64(1..20_000));
                not_before = begun + delay;
                let result = publisher.publish_deferred(&topic(), bodies[0].clone(), delay).await;
                result.err().map(|_| 0).into_iter().collect()
            }
            (1, _) => publisher.publish(&topic(), bodies[0].clone()).await.err().map(|_| 0).into_iter().collect(),
            _ => match publisher.publish_many(&topic(), bodies).await {
                Ok(()) => Vec::new(),
                Err(failed) => failed.0.into_iter().map(|(index, _)| index).collect(),
            },
        };
        let mut record = lock(&record);
        if begun <= record.promised_from {
            continue;
        }
        let acknowledged = Acknowledged { at: Instant::now(), not_before };
        for (index, number) in numbers.into_iter().enumerate() {
            if !failed.contains(&index) {
                record.acknowledged.insert(number, acknowledged);
            }
        }
    }
}

/// Consumes until it is aborted.
async fn consume(address: Address, group: usize, record: SharedRecord) {
    let handle = move |message: Message| {
        let record = record.clone();
        async move {
            let number = number_of(&message.body);
            sleep(Duration::from_millis(match fastrand::u8(..) {
                0..3 => fastrand::u64(0..SLOWEST.as_millis() as u64),
                _ => fastrand::u64(0..30),
            }))
            .await;
            if fastrand::u8(..) < 10 {
                return Verdict::retry("it fails sometimes");
            }
            let mut record = lock(&record);
            let Some(number) = number.filter(|number| record.sent.contains(number)) else {
                let begin = String::from_utf8_lossy(&message.body[..message.body.len().min(20)]).into_owned();
                record.violations.push(format!("nobody published {begin:?}"));
                return Verdict::done();
            };
            record.handlings += 1;
            let now = Instant::now();
            record.handled.entry((group, number)).or_insert(now);
            if let Some(known) = record.acknowledged.get(&number).copied()
                && !record.was_stepped
                && now < known.not_before
            {
                let early = known.not_before - now;
                record.violations.push(format!("{number} was {early:?} early (acknowledged at {:?})", known.at));
            }
            Verdict::done()
        }
    };
    let handle = Arc::new(handle);
    let config = ConsumerConfig::new(topic(), ChannelName::new(GROUPS[group]).unwrap())
        .with_nsqd(address)
        .with_connect(connect_config())
        .with_max_in_flight(fastrand::u32(1..50));
    let worker = WorkerConfig::default().with_max_attempts(0).with_concurrency(fastrand::usize(1..8));
    let worker = worker.with_retry_delay(Duration::from_millis(300));
    loop {
        if let Ok(Ok(consumer)) = timeout(Duration::from_secs(10), Consumer::connect(config.clone())).await {
            let worker = Worker::new(consumer, handle.clone(), worker.clone()).unwrap();
            let (_, stats) = worker.run(&Shutdown::new()).await;
            tracing::debug!(?stats, "a worker has ended");
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// Seeds that one process runs.
const BATCH: u64 = 50;

/// Runs the seeds of a range within a batch, and prints those that broke a promise.
fn run_batch(seeds: std::ops::Range<u64>) {
    // tokio counts the runtimes and their threads in a process; its random numbers depend on that
    for seed in seeds.start / BATCH * BATCH..seeds.start {
        std::thread::spawn(move || {
            random::seed_thread(seed);
            runtime().block_on(async {});
        })
        .join()
        .unwrap();
    }
    let (mut total, mut broken) = (Outcome::default(), 0);
    for seed in seeds.clone() {
        let outcome = run(seed);
        total.acknowledged += outcome.acknowledged;
        total.handlings += outcome.handlings;
        for (trouble, count) in outcome.troubles {
            *total.troubles.entry(trouble).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            broken += 1;
            eprintln!("SEEDS={seed}..{}: {}", seed + 1, outcome.violations.join("; "));
        }
    }
    let (acknowledged, handlings, troubles) = (total.acknowledged, total.handlings, total.troubles);
    println!("seeds {seeds:?}: {acknowledged} messages acknowledged, {handlings} handled, {troubles:?}");
    assert!(broken == 0, "{broken} of the seeds {seeds:?} broke a promise");
}

/// The range of the variable SEEDS, or another one.
fn seeds_or(other: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(seeds) = std::env::var("SEEDS") else { return other };
    let (first, end) = seeds.split_once("..").expect("SEEDS=0..1000");
    first.parse().unwrap()..end.parse().unwrap()
}

#[test]
#[ignore = "it runs in a process of its own, which the tests below start"]
fn a_batch() {
    run_batch(seeds_or(0..BATCH));
}

/// Runs seeds in other processes; returns what these print.
fn run_processes(seeds: std::ops::Range<u64>) -> (bool, String) {
    let batches: Vec<_> = (seeds.start / BATCH..seeds.end.div_ceil(BATCH)).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let printed = Mutex::new((true, String::new()));
    let processes = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..processes {
            scope.spawn(|| {
                while let Some(batch) = batches.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let (first, end) = (seeds.start.max(batch * BATCH), seeds.end.min((batch + 1) * BATCH));
                    let ended = std::process::Command::new(std::env::current_exe().unwrap())
                        .args(["--exact", "simulated::world::a_batch", "--ignored", "--nocapture"])
                        .env("SEEDS", format!("{first}..{end}"))
                        .output()
                        .unwrap();
                    let mut printed = printed.lock().unwrap();
                    printed.0 &= ended.status.success();
                    let text = [ended.stdout, ended.stderr].concat();
                    let lines = str::from_utf8(&text).unwrap().lines();
                    lines
                        .filter(|line| line.to_lowercase().starts_with("seeds"))
                        .for_each(|line| printed.1 += &format!("{line}\n"));
                }
            });
        }
    });
    printed.into_inner().unwrap()
}

#[test]
fn a_seed_repeats() {
    // in a batch, and alone
    let ((_, batch), (_, alone)) = (run_processes(0..3), run_processes(2..3));
    let (_, first_two) = run_processes(0..2);
    assert_eq!(run_processes(2..3).1, alone);
    assert_eq!(total(&batch), total(&first_two) + total(&alone));
}

/// The number of handled messages that `run_batch` prints.
fn total(printed: &str) -> u64 {
    let words: Vec<&str> = printed.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "handled,").expect("a batch has run");
    words[at - 1].parse().unwrap()
}

#[test]
fn no_promise_is_broken_whatever_goes_wrong() {
    let (is_whole, printed) = run_processes(seeds_or(0..60));
    print!("{printed}");
    assert!(is_whole, "some seeds broke a promise:\n{printed}");
}
