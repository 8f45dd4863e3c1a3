//! Tests of the flow against a model of nsqd, over connections with random delays.

use std::collections::{BTreeMap, VecDeque};

use super::*;

fn id(n: u64) -> ConnectionId {
    ConnectionId(n)
}

/// The number of messages that fill nsqd's output buffer, which nsqd then flushes.
const BUFFER: usize = 64;
const OUTPUT_BUFFER_TIMEOUT: Duration = Duration::from_millis(250);

enum Event {
    /// FINs, then RDY.
    ToNsqd {
        finished: u32,
        rdy: Option<u32>,
    },
    /// Messages, each with its publish time.
    ToClient(Vec<Instant>),
    Publish,
    OutputBufferTimeout,
}

/// Draws the delay of one direction.
type Delay = fn(&mut fastrand::Rng) -> Duration;

struct Model {
    flow: Flow,
    rng: fastrand::Rng,
    delay: Delay,
    now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
    /// The arrival of the last bytes at nsqd and at the client: bytes do not overtake each other.
    arrivals: [Instant; 2],
    rdy: u32,
    in_flight: u32,
    queue: VecDeque<Instant>,
    buffer: Vec<Instant>,
    /// The latency of each message from publishing to receiving.
    latencies: Vec<Duration>,
}

impl Model {
    /// `round_trip` is the time that the client measured at its connect.
    fn new(seed: u64, max_in_flight: u32, round_trip: Duration, delay: Delay) -> Self {
        let config = FlowConfig { max_in_flight, first_backoff: Duration::ZERO, max_backoff: Duration::ZERO };
        let now = Instant::now();
        let mut model = Self {
            flow: Flow::new(&config, fastrand::Rng::with_seed(seed)),
            rng: fastrand::Rng::with_seed(seed),
            delay,
            now,
            events: BTreeMap::new(),
            count: 0,
            arrivals: [now; 2],
            rdy: 0,
            in_flight: 0,
            queue: VecDeque::new(),
            buffer: Vec::new(),
            latencies: Vec::new(),
        };
        model.flow.joined(id(0), 2500, round_trip, now);
        model.tell(0);
        model.at(now + OUTPUT_BUFFER_TIMEOUT, Event::OutputBufferTimeout);
        model
    }

    fn at(&mut self, time: Instant, event: Event) {
        self.count += 1;
        self.events.insert((time, self.count), event);
    }

    fn send(&mut self, direction: usize, event: Event) {
        let time = (self.now + (self.delay)(&mut self.rng)).max(self.arrivals[direction]);
        self.arrivals[direction] = time;
        self.at(time, event);
    }

    /// Sends FINs, and RDY if it changed.
    fn tell(&mut self, finished: u32) {
        let rdy = (!self.flow.take_changed().is_empty()).then(|| self.flow.rdy(id(0)));
        if finished > 0 || rdy.is_some() {
            self.send(0, Event::ToNsqd { finished, rdy });
        }
    }

    /// Sends up to RDY messages; like nsqd, flushes only when the client is ready for no more.
    fn pump(&mut self) {
        while self.in_flight < self.rdy
            && let Some(published) = self.queue.pop_front()
        {
            self.in_flight += 1;
            self.buffer.push(published);
            if self.buffer.len() >= BUFFER {
                self.flush();
            }
        }
        if self.in_flight >= self.rdy {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let messages = std::mem::take(&mut self.buffer);
            self.send(1, Event::ToClient(messages));
        }
    }

    /// Runs for `time`; `interval` draws the time between two publishes.
    fn run(&mut self, time: Duration, interval: fn(&mut fastrand::Rng) -> Duration) {
        let end = self.now + time;
        self.at(self.now, Event::Publish);
        loop {
            let event = self.events.first_key_value().map(|((time, _), _)| *time);
            let tick = self.flow.due().filter(|due| event.is_none_or(|event| *due < event));
            let Some(next) = tick.or(event).filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if tick.is_some() {
                self.flow.tick(self.now);
                self.tell(0);
                continue;
            }
            match self.events.pop_first().expect("there is one").1 {
                Event::ToNsqd { finished, rdy } => {
                    self.in_flight -= finished;
                    self.rdy = rdy.unwrap_or(self.rdy);
                    self.pump();
                }
                Event::ToClient(messages) => {
                    let count = messages.len() as u32;
                    self.latencies.extend(messages.iter().map(|published| self.now - *published));
                    self.flow.received(id(0), count, self.now);
                    self.flow.answered(id(0), count, 0, 0, self.now);
                    self.tell(count);
                }
                Event::Publish => {
                    self.queue.push_back(self.now);
                    let next = self.now + interval(&mut self.rng);
                    self.at(next, Event::Publish);
                    self.pump();
                }
                Event::OutputBufferTimeout => {
                    self.flush();
                    self.at(self.now + OUTPUT_BUFFER_TIMEOUT, Event::OutputBufferTimeout);
                }
            }
        }
    }

    /// Publishes `count` messages at once.
    fn backlog(&mut self, count: usize) {
        self.queue.extend(std::iter::repeat_n(self.now, count));
    }
}

fn micros(range: std::ops::Range<u64>, rng: &mut fastrand::Rng) -> Duration {
    Duration::from_micros(rng.u64(range))
}

/// The network at the client's connect, and a network or machine that has become busy since.
const ROUND_TRIP: Duration = Duration::from_micros(150);
const FREE: Delay = |rng| micros(40..100, rng);
const LOADED: Delay = |rng| micros(500..3_000, rng);
const MAX_IN_FLIGHT: u32 = 200;

/// The rate of consuming a backlog, in messages per second.
fn rate(seed: u64, delay: Delay) -> usize {
    const SECONDS: u32 = 3;
    let mut model = Model::new(seed, MAX_IN_FLIGHT, ROUND_TRIP, delay);
    model.backlog(500_000);
    model.run(Duration::from_secs(SECONDS.into()), |_| Duration::from_secs(3600));
    model.latencies.len() / SECONDS as usize
}

/// The networks, each with the least rate in messages per second: about half of `MAX_IN_FLIGHT`
/// messages in each round trip.
#[test]
fn a_backlog_is_consumed_with_full_rdy_on_a_network_that_became_slow() {
    let lines: [(Delay, usize); 4] = [
        (LOADED, 28_000),
        (|rng| micros(2_000..6_000, rng), 12_000),
        (|rng| if rng.u8(0..20) == 0 { micros(3_000..20_000, rng) } else { micros(40..200, rng) }, 30_000),
        (|rng| if rng.u8(0..3) == 0 { micros(1_000..8_000, rng) } else { micros(40..200, rng) }, 15_000),
    ];
    for (line, (delay, least)) in lines.into_iter().enumerate() {
        for seed in 0..5 {
            let rate = rate(seed, delay);
            assert!(rate >= least, "{rate} a second, line {line}, seed {seed}");
        }
    }
}

/// The sorted latencies of messages that are published for a while.
fn latencies(seed: u64, delay: Delay, interval: fn(&mut fastrand::Rng) -> Duration) -> Vec<Duration> {
    let mut model = Model::new(seed, MAX_IN_FLIGHT, ROUND_TRIP, delay);
    model.run(Duration::from_secs(20), interval);
    model.latencies.sort_unstable();
    model.latencies
}

fn exponential(mean: f64, rng: &mut fastrand::Rng) -> Duration {
    Duration::from_secs_f64(-mean * (1.0 - rng.f64()).ln())
}

#[test]
fn messages_published_one_by_one_are_rarely_held_back() {
    let paces: [fn(&mut fastrand::Rng) -> Duration; 4] = [
        |rng| micros(800..1_200, rng),
        |rng| micros(2_500..3_500, rng),
        |rng| exponential(0.003, rng),
        |rng| exponential(0.010, rng),
    ];
    for (pace, interval) in paces.into_iter().enumerate() {
        for seed in 0..3 {
            let latencies = latencies(seed, FREE, interval);
            let of = |share: f64| latencies[(latencies.len() as f64 * share) as usize];
            let context = || format!("pace {pace}, seed {seed}");
            assert!(of(0.95) < 2 * ROUND_TRIP, "{:?}, {}", of(0.95), context());
            assert!(of(0.99) < Duration::from_millis(3), "{:?}, {}", of(0.99), context());
            assert!(of(0.9999) < 2 * connection_flow::LONGEST_WAIT, "{:?}, {}", of(0.9999), context());
        }
    }
}

#[test]
fn messages_published_faster_than_one_per_slow_round_trip_do_not_queue_up() {
    for seed in 0..3 {
        let latencies = latencies(seed, LOADED, |rng| exponential(0.001, rng));
        let longest = *latencies.last().unwrap();
        assert!(longest < Duration::from_secs(1), "{longest:?}, seed {seed}");
    }
}
