//! Random messages to sleeping groups with sockets on three hosts, with real consumers: each wake is
//! one host's, and every message is handled in time, also while hosts are killed, hang and come back.
//! `make soak` runs it; MQUEUE_TEST_PROGRAM names an optimised program.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mqueue::proto::stats::Stats;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::support::{Mqueue, Nsqd, PATIENCE, Told, get, mqueue, needs, program, wait_until};

const HOSTS: [&str; 3] = ["a", "b", "c"];
/// wakeup's poll interval, which is its default.
const POLL: Duration = Duration::from_secs(1);
/// The time that a busy machine may add to a poll and a start.
const SLACK: Duration = Duration::from_millis(700);
/// A group's number, and a message's.
type Key = (usize, usize);

/// An event of a consumer.
enum Event {
    Handled {
        key: Key,
        at: Instant,
    },
    Started {
        host: usize,
        overlaps: Option<Overlap>,
    },
    /// The time from the poke until its first message was handled.
    Took(Duration),
}

/// The time from a poke until its consumer's first message was handled, once it was.
type StartTime = Arc<OnceLock<Duration>>;

/// A start while the group has a consumer already.
struct Overlap {
    /// True if nsqd listed that one among the group's clients.
    was_served: bool,
    started_in: StartTime,
}

/// A socket of a sleeping consumer, as systemd holds it.
struct Unit {
    host: usize,
    group: usize,
    socket: OwnedFd,
    consumer: Option<(Child, StartTime)>,
}

/// Starts consumers when their sockets are poked, in place of the systemd of each host.
struct Systemd {
    units: Vec<Unit>,
    brokers: [String; 2],
    http: String,
    events: Sender<Event>,
    /// Hosts that are down: nothing listens on their sockets for long.
    is_down: Arc<[AtomicBool; 3]>,
    ends: Arc<AtomicBool>,
}

impl Systemd {
    fn run(mut self) {
        while !self.ends.load(Ordering::Relaxed) {
            for unit in &mut self.units {
                if unit.consumer.as_mut().is_some_and(|(child, _)| child.try_wait().unwrap().is_some()) {
                    unit.consumer = None;
                }
            }
            for number in self.poked() {
                self.start(number);
            }
        }
        for unit in &mut self.units {
            if let Some((mut child, _)) = unit.consumer.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// Waits briefly for pokes of sleeping units; returns their numbers.
    fn poked(&self) -> Vec<usize> {
        let is_down = |unit: &Unit| self.is_down[unit.host].load(Ordering::Relaxed);
        let asleep = self.units.iter().enumerate().filter(|(_, unit)| unit.consumer.is_none() && !is_down(unit));
        let (numbers, mut sockets): (Vec<usize>, Vec<PollFd>) =
            asleep.map(|(number, unit)| (number, PollFd::new(unit.socket.as_fd(), PollFlags::POLLIN))).unzip();
        poll(&mut sockets, PollTimeout::from(10_u8)).unwrap();
        let is_poked = |socket: &PollFd| socket.any() == Some(true);
        numbers.into_iter().zip(&sockets).filter(|(_, socket)| is_poked(socket)).map(|(number, _)| number).collect()
    }

    fn start(&mut self, number: usize) {
        let (host, group) = (self.units[number].host, self.units[number].group);
        let of_group = |unit: &&Unit| unit.group == group;
        let running = self.units.iter().filter(of_group).find_map(|unit| unit.consumer.as_ref());
        let overlaps = running.map(|(_, started_in)| Overlap {
            was_served: is_served(&self.http, group),
            started_in: started_in.clone(),
        });
        let started_in = StartTime::default();
        let at = Instant::now();
        let mut consumer = Command::new("sh")
            .args(["-c", r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#])
            .arg(program())
            .args(["consumer", "--timeout=1", "--output=body", "--log=warn", "--stream"])
            .args([stream_of(group), format!("--group=g{group}")])
            .args(&self.brokers)
            .stdin(self.units[number].socket.try_clone().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(consumer.stdout.take().unwrap()).lines();
        let (events, first) = (self.events.clone(), started_in.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let now = Instant::now();
                if first.set(now - at).is_ok() {
                    let _ = events.send(Event::Took(now - at));
                }
                let _ = events.send(Event::Handled { key: (group, line.parse().unwrap()), at: now });
            }
        });
        self.units[number].consumer = Some((consumer, started_in));
        let _ = self.events.send(Event::Started { host, overlaps });
    }
}

/// True if the group has a consumer.
fn is_served(http: &str, group: usize) -> bool {
    let (stream, filter) = (stream_of(group), "format=json&include_clients=false");
    let stats = get(http, &format!("/stats?{filter}&topic={stream}&channel=g{group}"));
    let stats: Stats = serde_json::from_str(&stats).unwrap();
    stats.topics.iter().flat_map(|topic| topic.channels.iter()).any(|channel| channel.client_count > 0)
}

/// Two groups have a stream.
fn stream_of(group: usize) -> String {
    format!("s{}", group / 2)
}

/// The events of a run.
#[derive(Default)]
struct Record {
    waiting: HashMap<Key, Instant>,
    /// The time of each publish and its wait.
    waits: Vec<(Instant, Duration)>,
    starts: BTreeMap<usize, usize>,
    overlaps: Vec<Overlap>,
    slowest_start: Duration,
}

impl Record {
    fn take(&mut self, event: Event) {
        match event {
            Event::Handled { key, at } => {
                // a second time: its first consumer was killed
                if let Some(published) = self.waiting.remove(&key) {
                    self.waits.push((published, at - published));
                }
            }
            Event::Started { host, overlaps } => {
                *self.starts.entry(host).or_default() += 1;
                self.overlaps.extend(overlaps);
            }
            Event::Took(time) => self.slowest_start = self.slowest_start.max(time),
        }
    }

    /// Returns the number of starts for messages that had a consumer. On a machine so busy that a
    /// start takes as long as a poll, the next host covers for one that is on its way: those are left
    /// out.
    fn doubles(&self) -> usize {
        let is_slow = |overlap: &Overlap| overlap.started_in.get().is_none_or(|time| *time > POLL / 4);
        self.overlaps.iter().filter(|overlap| overlap.was_served || !is_slow(overlap)).count()
    }

    /// Takes events until then.
    fn take_until(&mut self, events: &Receiver<Event>, until: Instant) {
        loop {
            match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("systemd is gone"),
            }
        }
    }
}

/// Three hosts, their sockets and their wakeups.
struct Cluster {
    folders: Vec<tempfile::TempDir>,
    wakeups: Vec<Mqueue>,
    http: String,
    is_down: Arc<[AtomicBool; 3]>,
    /// The times around a failure, in which a message may wait longer.
    disturbed: Vec<(Instant, Instant)>,
    ends: Arc<AtomicBool>,
    systemd: Option<std::thread::JoinHandle<()>>,
}

impl Cluster {
    fn wakeup(&self, host: usize) -> Mqueue {
        let folder = self.folders[host].path().display();
        mqueue(&format!(
            "wakeup --hostname {} --socket-dir {folder} --nsqd-http-address {} --listen 127.0.0.1:0",
            HOSTS[host], self.http
        ))
        .start()
    }

    fn disturb(&mut self, seconds: u64) {
        let now = Instant::now();
        self.disturbed.push((now - POLL, now + Duration::from_secs(seconds)));
    }

    fn is_disturbed(&self, at: Instant) -> bool {
        self.disturbed.iter().any(|(from, to)| (*from..*to).contains(&at))
    }

    /// One host is killed and comes back, another one hangs meanwhile.
    fn fail(&mut self, step: usize) {
        match step {
            0 => {
                self.is_down[1].store(true, Ordering::Relaxed);
                self.wakeups[1].signal(Signal::SIGKILL);
                self.disturb(5);
            }
            1 => {
                self.wakeups[2].signal(Signal::SIGSTOP);
                self.disturb(8);
            }
            2 => {
                self.wakeups[2].signal(Signal::SIGCONT);
                self.disturb(5);
            }
            _ => {
                self.is_down[1].store(false, Ordering::Relaxed);
                self.wakeups[1] = self.wakeup(1);
                self.disturb(5);
            }
        }
    }
}

impl Cluster {
    /// Starts a systemd with a socket for each group on each host, and the wakeups, and waits until
    /// the hosts take turns. The receiver has the events of consumers.
    fn start(nsqd: &Nsqd, groups: usize) -> (Self, Receiver<Event>) {
        (0..groups).for_each(|group| nsqd.create(&stream_of(group), &format!("g{group}")));
        let (sender, events) = channel();
        let (is_down, ends) = (Arc::<[AtomicBool; 3]>::default(), Arc::<AtomicBool>::default());
        let folders: Vec<tempfile::TempDir> = HOSTS.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        let units = folders.iter().enumerate().flat_map(|(host, folder)| {
            (0..groups).map(move |group| {
                let listener = UnixListener::bind(folder.path().join(format!("g{group}.sock"))).unwrap();
                Unit { host, group, socket: listener.into(), consumer: None }
            })
        });
        let units = units.collect();
        let brokers = [format!("--nsqd-tcp-address={}", nsqd.tcp()), format!("--nsqd-http-address={}", nsqd.http())];
        let systemd =
            Systemd { units, brokers, http: nsqd.http(), events: sender, is_down: is_down.clone(), ends: ends.clone() };
        let systemd = Some(std::thread::spawn(move || systemd.run()));
        let (http, disturbed) = (nsqd.http(), Vec::new());
        let mut cluster = Self { folders, wakeups: Vec::new(), http, is_down, disturbed, ends, systemd };
        cluster.wakeups = (0..HOSTS.len()).map(|host| cluster.wakeup(host)).collect();
        for wakeup in &cluster.wakeups {
            let told = Told::by(wakeup);
            wait_until("the hosts know each other", || told.metric("mqueue_wakeup_hosts") == 3.0);
            told.wait_for_polls(3);
        }
        (cluster, events)
    }

    /// Stops systemd and all consumers.
    fn end(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.systemd.take().unwrap().join().unwrap();
    }
}

/// Plays with this many groups, and a mean time between two messages.
fn play(groups: usize, time: Duration, gap: Duration) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let (nsqd, mut random) = (Nsqd::start(), fastrand::Rng::with_seed(seed));
    let (mut cluster, events) = Cluster::start(&nsqd, groups);
    let (start, mut record, mut number, mut step) = (Instant::now(), Record::default(), 0, 0);
    while start.elapsed() < time {
        if step < 4 && start.elapsed() > time * [3, 5, 6, 8][step] / 10 {
            cluster.fail(step);
            step += 1;
        }
        let stream = random.usize(0..groups / 2);
        // one message, or several while the consumer starts
        let count = if random.u8(0..4) == 0 { random.usize(2..6) } else { 1 };
        for _ in 0..count {
            let now = Instant::now();
            record.waiting.extend([2 * stream, 2 * stream + 1].map(|group| ((group, number), now)));
            nsqd.publish(&format!("s{stream}"), number.to_string().as_bytes());
            number += 1;
            record.take_until(&events, now + Duration::from_millis(random.u64(0..40)));
        }
        let pause = gap.mul_f64(-(1.0 - random.f64()).ln());
        record.take_until(&events, Instant::now() + pause);
    }
    let deadline = Instant::now() + PATIENCE;
    while !record.waiting.is_empty() && Instant::now() < deadline {
        record.take_until(&events, Instant::now() + Duration::from_millis(100));
    }
    cluster.end();
    judge(&record, &cluster);
}

fn judge(record: &Record, cluster: &Cluster) {
    let (starts, doubles) = (record.starts.values().sum::<usize>(), record.doubles());
    let mut waits: Vec<Duration> = record.waits.iter().map(|(_, wait)| *wait).collect();
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    eprintln!(
        "{} handled; {starts} starts by host {:?}, {doubles} double, {} in all beside another; publish to handled p50 {:.0?}, p99 {:.0?}, max {:.0?}; \
         slowest start {:.0?}",
        waits.len(),
        record.starts,
        record.overlaps.len(),
        at(50),
        at(99),
        at(100),
        record.slowest_start
    );
    assert!(record.waiting.is_empty(), "not handled: {:?}", record.waiting);
    let late = |(published, wait): &&(Instant, Duration)| {
        let polls = if cluster.is_disturbed(*published) { 3 } else { 1 };
        *wait > polls * POLL + record.slowest_start + SLACK
    };
    let late: Vec<_> = record.waits.iter().filter(late).collect();
    assert!(late.is_empty(), "late: {late:?}");
    assert!(doubles * 100 <= starts.max(100), "{doubles} of {starts} starts are double");
    for host in 0..HOSTS.len() {
        assert!(record.starts.get(&host).is_some_and(|count| count * 10 >= starts), "{:?}", record.starts);
    }
}

#[test]
#[ignore = "judges times: for a quiet machine"]
fn three_hosts_wake_each_group_once_and_cover_for_each_other() {
    needs!("nsqd");
    play(40, Duration::from_secs(40), Duration::from_millis(500));
}

#[test]
#[ignore = "takes five minutes, and judges times"]
fn three_hosts_wake_200_groups_for_five_minutes() {
    needs!("nsqd");
    play(200, Duration::from_secs(300), Duration::from_millis(200));
}
