//! The world: what runs in it, what goes wrong, and what must be true in the end.
//!
//! The promises are those of the README and of docs/simulated-world.md: an acknowledged message is
//! handled at least once by every group that was there, or becomes its dead letter; nothing else is
//! handled, a deferred message is not early, what was finished is not in the queue any more, and
//! while nothing goes wrong each message is handled once.

// a world prints its events if it is asked to
#![allow(clippy::print_stderr)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::clients::{SLOWEST, consume, dead_topic, publish, take_letters, topic};
use super::disk::Disk;
use super::record::SharedRecord;
use super::{CURRENT, Network, Surroundings, WallClock, random};
use crate::broker::log::{DiskLog, LogOptions, SyncMode};
use crate::broker::server::{BoundAddresses, BrokerServer};
use crate::broker::state::StatsSelection;
use crate::broker::{Broker, BrokerConfig};
use crate::client::{Address, Consumer, ConsumerConfig};
use crate::proto::ChannelName;
use crate::shutdown::Shutdown;

/// Time in which things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// Time in which all that was acknowledged must be handled after that.
const AFTERWARDS: Duration = Duration::from_secs(120);
/// The same, if the wall clock was stepped: due times after a restart follow it.
const AFTER_STEPS: Duration = Duration::from_secs(1800);
/// Time in which the broker ends after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time in which nothing may be handled at the end.
const QUIET: Duration = Duration::from_secs(30);
/// The largest steps of the wall clock, in milliseconds: of most, and of some.
const LARGEST_STEPS: [i64; 2] = [60_000, 600_000];
/// Time in which nothing goes wrong, at the end.
const CALM: Duration = Duration::from_secs(4);
/// The longest time from a write to the end of its sync, if syncs are made at intervals: the
/// interval, and three rounds of 20 ms.
const UNSYNCED: Duration = Duration::from_millis(160);
/// The groups of the topic.
pub(super) const GROUPS: [&str; 2] = ["1", "2"];

/// The counts of a run, and the broken promises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) acknowledged: usize,
    pub(super) handlings: u64,
    pub(super) letters: u64,
    pub(super) troubles: BTreeMap<&'static str, u32>,
    pub(super) violations: Vec<String>,
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
    let panicked = |_| Outcome { violations: vec!["a panic, see above".to_owned()], ..Outcome::default() };
    std::thread::spawn(run).join().unwrap_or_else(panicked)
}

/// A runtime whose time is virtual.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// A broker's process.
struct BrokerProcess {
    broker: Arc<Broker>,
    server: JoinHandle<()>,
    stop: CancellationToken,
}

/// How a broker's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokerEnd {
    /// By SIGTERM.
    Stopped,
    /// By SIGKILL.
    Killed,
    /// With the machine.
    PowerCut,
}

/// A process that publishes or consumes.
struct ClientProcess {
    name: String,
    task: JoinHandle<()>,
    shutdown: Shutdown,
}

struct World {
    rng: fastrand::Rng,
    network: Network,
    wall_clock: WallClock,
    disk: Disk,
    sync: SyncMode,
    /// Threads of the broker that serve connections.
    threads: usize,
    broker: Option<BrokerProcess>,
    publishers: Vec<ClientProcess>,
    consumers: Vec<(usize, ClientProcess)>,
    letters: Option<ClientProcess>,
    names: usize,
    begun: Instant,
    record: SharedRecord,
    outcome: Outcome,
}

impl World {
    fn new(seed: u64, network: Network, wall_clock: WallClock) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let sync = [SyncMode::Always, SyncMode::Interval, SyncMode::Never][rng.usize(0..3)];
        let threads = [1, 2, 4][rng.usize(0..3)];
        let max_tries = [0, 3][rng.usize(0..2)];
        Self {
            rng,
            network,
            wall_clock,
            disk: Disk::new(),
            sync,
            threads,
            broker: None,
            publishers: Vec::new(),
            consumers: Vec::new(),
            letters: None,
            names: 0,
            begun: Instant::now(),
            record: SharedRecord::new(max_tries),
            outcome: Outcome::default(),
        }
    }

    async fn run(mut self) -> Outcome {
        self.start_broker();
        // the groups are there before the first message
        let groups = GROUPS.map(|group| (topic(), group)).into_iter().chain([(dead_topic(), "letters")]);
        for (topic, group) in groups {
            let config = ConsumerConfig::new(topic, ChannelName::new(group).unwrap());
            let config = config.with_nsqd("broker:4150".parse().unwrap()).with_max_in_flight(1);
            let mut consumer = Consumer::connect(config).await.unwrap();
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
        self.start_letters();
        let end = Instant::now() + TROUBLE;
        while Instant::now() < end {
            sleep(Duration::from_millis(self.rng.u64(1..1500))).await;
            self.trouble().await;
        }
        self.network.set_slowest(Duration::from_millis(2));
        self.disk.fail_syncs_until(Instant::now());
        for publisher in std::mem::take(&mut self.publishers) {
            self.kill(&publisher);
        }
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

    fn violation(&mut self, text: String) {
        self.outcome.violations.push(text);
    }

    /// Prints an event with its time, if VERBOSE is set.
    fn say(&self, event: impl std::fmt::Display) {
        if std::env::var_os("VERBOSE").is_some() {
            let (time, acknowledged) = (self.begun.elapsed(), self.record.lock().acknowledged.len());
            eprintln!("{time:?}: {event}; {acknowledged} acknowledged");
        }
    }

    /// Something goes wrong.
    async fn trouble(&mut self) {
        match self.rng.u8(0..13) {
            0 => {
                self.count("broker killed");
                self.end_broker(BrokerEnd::Killed).await;
            }
            1 if self.sync != SyncMode::Never => {
                self.count("power cut");
                self.end_broker(BrokerEnd::PowerCut).await;
            }
            2 => {
                self.count("broker stopped");
                self.end_broker(BrokerEnd::Stopped).await;
            }
            3 => {
                self.count("connections reset");
                let chosen = self.rng.usize(0..8);
                let index = std::cell::Cell::new(0);
                self.network.reset(|_| index.replace(index.get() + 1) % 8 <= chosen);
            }
            4 => {
                self.count("network cut");
                let cut = Duration::from_millis(self.rng.u64(10..8000));
                self.network.cut(Instant::now() + cut);
            }
            5 => {
                self.count("network slow or fast");
                self.network.set_slowest(Duration::from_millis(self.rng.u64(1..300)));
            }
            6 | 7 if !self.consumers.is_empty() => {
                self.count("consumer killed");
                let (group, consumer) = self.consumers.swap_remove(self.rng.usize(..self.consumers.len()));
                self.kill(&consumer);
                if self.rng.u8(..) < 200 {
                    self.start_consumer(group);
                }
            }
            8 if !self.consumers.is_empty() => {
                let (group, consumer) = self.consumers.swap_remove(self.rng.usize(..self.consumers.len()));
                consumer.shutdown.draining.cancel();
                match self.rng.bool() {
                    true => {
                        self.count("consumer ended at once");
                        consumer.shutdown.now.cancel();
                    }
                    false => self.count("consumer stopped"),
                }
                self.start_consumer(group);
            }
            9 => {
                self.count("publisher killed");
                let publisher = self.publishers.swap_remove(self.rng.usize(..self.publishers.len()));
                self.kill(&publisher);
                self.start_publisher();
            }
            10 => {
                self.count("clock stepped");
                let largest = LARGEST_STEPS[usize::from(self.rng.u8(..) < 32)];
                self.wall_clock.step(self.rng.i64(-largest..largest));
                self.record.lock().was_stepped = true;
            }
            11 if self.sync != SyncMode::Never => {
                self.count("syncs fail");
                self.disk.fail_syncs_until(Instant::now() + Duration::from_millis(self.rng.u64(0..3000)));
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
        self.network.kill_client(&client.name);
        client.task.abort();
    }

    async fn end_broker(&mut self, end: BrokerEnd) {
        if let Some(BrokerProcess { broker, mut server, stop }) = self.broker.take() {
            if end == BrokerEnd::Stopped {
                stop.cancel();
                let _ = timeout(STOP_TIMEOUT, &mut server).await;
            }
            self.network.kill_server("broker");
            if end == BrokerEnd::PowerCut {
                if self.sync == SyncMode::Interval {
                    let failing = self.disk.unsynced_since().map_or(Duration::ZERO, |since| since.elapsed());
                    self.record.lock().forget_promises(UNSYNCED + failing);
                }
                self.disk.cut_power(&mut self.rng);
            } else {
                self.disk.kill_process();
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
            self.violation(format!("damage without a power cut: {:?}", report.damage));
        }
        self.say(format_args!("broker started, {:?}, {} threads: {report}", self.sync, self.threads));
        let synced = (self.sync == SyncMode::Always).then(|| log.synced());
        let broker = Broker::on_disk(BrokerConfig::default(), log, recovered, synced);
        let listening = BoundAddresses::simulated(self.network.listen("broker"));
        let mut server = BrokerServer::new(broker, listening, None);
        server.threads = self.threads;
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
        self.publishers.push(ClientProcess { name, task, shutdown: Shutdown::new() });
    }

    fn start_consumer(&mut self, group: usize) {
        let ((name, address), shutdown) = (self.client("c"), Shutdown::new());
        let task = tokio::spawn(consume(address, group, self.record.clone(), shutdown.clone()));
        self.consumers.push((group, ClientProcess { name, task, shutdown }));
    }

    fn start_letters(&mut self) {
        let (name, address) = self.client("d");
        let task = tokio::spawn(take_letters(address, self.record.clone()));
        self.letters = Some(ClientProcess { name, task, shutdown: Shutdown::new() });
    }

    async fn judge(&mut self) {
        let was_stepped = self.record.lock().was_stepped;
        self.judge_handled(if was_stepped { AFTER_STEPS } else { AFTERWARDS }).await;
        self.calm().await;
        // what is finished stays finished in what is written
        let consumers = std::mem::take(&mut self.consumers).into_iter().map(|(_, consumer)| consumer);
        for consumer in consumers.chain(self.letters.take()) {
            self.kill(&consumer);
        }
        sleep(Duration::from_secs(1)).await;
        // the broker compacts its log after each start, and may be ended in its midst
        for _ in 0..4 {
            let end = match self.sync {
                SyncMode::Never => BrokerEnd::Killed,
                SyncMode::Always | SyncMode::Interval => [BrokerEnd::Killed, BrokerEnd::PowerCut][self.rng.usize(0..2)],
            };
            self.end_broker(end).await;
            let depth = self.depth();
            if depth > 0 {
                self.violation(format!("{depth} finished messages are back after a restart ({end:?})"));
            }
            sleep(Duration::from_millis(self.rng.u64(0..100))).await;
        }
        let mut record = self.record.lock();
        self.outcome.violations.append(&mut record.violations);
        self.outcome.acknowledged = record.acknowledged.len();
        (self.outcome.handlings, self.outcome.letters) = (record.handlings, record.letters);
    }

    /// Everything that was acknowledged is handled, and then nothing is left.
    async fn judge_handled(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut missing = self.record.lock().missing(GROUPS.len());
        while !missing.is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(500)).await;
            let record = self.record.lock();
            missing.retain(|key| !record.has_ended(key));
        }
        if !missing.is_empty() {
            let some: Vec<_> = missing.iter().take(5).collect();
            for (group, number) in &missing {
                let acknowledged = self.record.lock().acknowledged[number];
                self.say(format_args!("{number} for group {group}: {acknowledged:?}"));
            }
            let text = format!("{} acknowledged and not handled, as (group, number): {some:?}", missing.len());
            self.violation(text);
        }
        while self.depth() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(500)).await;
        }
        // consumers may still hold second copies of messages, which they handle one after another: none holds any if no handler
        // has begun for more than twice the longest time of a handler
        let (mut begun, deadline) = (self.record.lock().begun, Instant::now() + within);
        loop {
            sleep(2 * SLOWEST).await;
            let before = std::mem::replace(&mut begun, self.record.lock().begun);
            if begun == before || Instant::now() >= deadline {
                break;
            }
        }
        sleep(QUIET).await;
        let (depth, later) = (self.depth(), self.record.lock().begun - begun);
        if depth > 0 || later > 0 {
            self.violation(format!("after the end: {depth} in the queue, {later} begun again"));
        }
    }

    /// Publishes and consumes while nothing goes wrong, and only consumers stop and start: then each
    /// message is handled exactly once by each group.
    async fn calm(&mut self) {
        self.say("calm");
        self.record.lock().begin_calm();
        self.start_publisher();
        let end = Instant::now() + CALM;
        while Instant::now() < end {
            sleep(CALM / 4).await;
            let (group, consumer) = self.consumers.swap_remove(self.rng.usize(..self.consumers.len()));
            consumer.shutdown.draining.cancel();
            self.start_consumer(group);
        }
        for publisher in std::mem::take(&mut self.publishers) {
            self.kill(&publisher);
        }
        self.judge_handled(AFTERWARDS).await;
        let mut record = self.record.lock();
        record.judge_calm(GROUPS.len());
        let is_idle = record.calm_messages() == 0;
        drop(record);
        if is_idle {
            self.violation("nothing could be published in calm".to_owned());
        }
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
