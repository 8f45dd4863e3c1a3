//! Tests of the flow with a fake clock, and of its invariants under random operations.

use super::*;

const ROUND_TRIP: Duration = Duration::from_micros(200);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

struct World {
    flow: Flow,
    start: Instant,
    now: Instant,
}

fn id(n: u64) -> ConnectionId {
    ConnectionId(n)
}

impl World {
    fn new(max_in_flight: u32, connections: u64) -> Self {
        let config = FlowConfig { max_in_flight, first_backoff: FIRST_BACKOFF, max_backoff: 60 * FIRST_BACKOFF };
        let start = Instant::now();
        let mut world = Self { flow: Flow::new(&config, fastrand::Rng::with_seed(1)), start, now: start };
        for n in 0..connections {
            world.flow.joined(id(n), 2500, ROUND_TRIP, world.now);
        }
        world
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.flow.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.flow.tick(self.now);
            assert!(self.flow.due().is_none_or(|next| next > self.now), "a tick leaves nothing due");
        }
        self.now = end;
    }

    /// Receives messages as long as RDY allows them, each `gap` after the one before, and answers
    /// each at once.
    fn stream(&mut self, connection: u64, count: u32, gap: Duration) {
        for _ in 0..count {
            self.pass(gap);
            self.flow.received(id(connection), 1, self.now);
            self.flow.answered(id(connection), 1, 0, 0, self.now);
        }
    }

    fn rdys(&self) -> Vec<u32> {
        self.flow.connections.values().map(|connection| connection.rdy).collect()
    }
}

#[test]
fn a_quiet_connection_has_room_for_one() {
    let mut world = World::new(200, 1);
    assert_eq!(world.rdys(), [1]);
    world.stream(0, 50, Duration::from_millis(20));
    assert_eq!(world.rdys(), [1]);
}

#[test]
fn messages_in_flight_leave_room_for_one_more() {
    let mut world = World::new(200, 1);
    for in_flight in 1..10 {
        world.pass(Duration::from_millis(20));
        world.flow.received(id(0), 1, world.now);
        assert_eq!(world.rdys(), [in_flight + 1]);
    }
}

#[test]
fn back_to_back_messages_raise_rdy_to_the_maximum_until_they_cease() {
    let mut world = World::new(200, 1);
    world.stream(0, 64, ROUND_TRIP);
    assert_eq!(world.rdys(), [200]);
    world.pass(Duration::from_millis(5));
    assert_eq!(world.rdys(), [1], "RDY below what nsqd holds makes it send that");
}

/// An interval between back-to-back and late messages.
const STEADY: Duration = Duration::from_millis(1);

#[test]
fn a_backlog_in_a_slow_nsqd_raises_rdy_to_the_maximum() {
    let mut world = World::new(200, 1);
    for _ in 0..100 {
        world.pass(STEADY);
        let count = world.rdys()[0];
        world.flow.received(id(0), count, world.now);
        world.flow.answered(id(0), count, 0, 0, world.now);
    }
    assert_eq!(world.rdys(), [200]);
}

#[test]
fn steadily_published_messages_are_rarely_held_back() {
    const MESSAGES: u32 = 20_000;
    let mut world = World::new(200, 1);
    let (mut held, mut late) = (0, 0);
    for _ in 0..MESSAGES {
        // as nsqd: held-back messages are sent when the client is ready for no more
        world.pass(STEADY);
        held += 1;
        late += u32::from(world.rdys()[0] > held);
        if world.rdys()[0] <= held {
            world.flow.received(id(0), held, world.now);
            world.flow.answered(id(0), held, 0, 0, world.now);
            held = 0;
        }
    }
    assert!((1..MESSAGES / 100).contains(&late), "{late} held back");
}

#[test]
fn slow_handlers_do_not_lower_rdy() {
    let mut world = World::new(100, 1);
    world.stream(0, 64, ROUND_TRIP);
    world.flow.received(id(0), 100, world.now);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.rdys(), [100]);
    world.flow.answered(id(0), 100, 0, 0, world.now);
    assert_eq!(world.rdys(), [100], "handlers were slow, not the channel");
}

#[test]
fn a_busy_connection_gets_the_room_that_quiet_connections_leave() {
    let mut world = World::new(100, 3);
    world.stream(1, 64, ROUND_TRIP);
    assert_eq!(world.rdys(), [1, 98, 1]);
}

#[test]
fn busy_connections_share_the_room_equally() {
    let mut world = World::new(90, 3);
    for _ in 0..64 {
        world.pass(ROUND_TRIP);
        for n in 0..3 {
            world.flow.received(id(n), 1, world.now);
            world.flow.answered(id(n), 1, 0, 0, world.now);
        }
    }
    assert_eq!(world.rdys(), [30, 30, 30]);
}

#[test]
fn with_less_room_than_connections_they_take_turns() {
    let mut world = World::new(2, 5);
    let mut seen = [false; 5];
    for _ in 0..10 {
        let rdys = world.rdys();
        assert_eq!(rdys.iter().sum::<u32>(), 2, "{rdys:?}");
        for (seen, rdy) in seen.iter_mut().zip(rdys) {
            *seen |= rdy > 0;
        }
        world.pass(TURN);
    }
    assert_eq!(seen, [true; 5]);
}

#[test]
fn a_connection_that_ignores_rdy_takes_no_room_from_others() {
    for max_in_flight in [1, 2, 4, 100] {
        let mut world = World::new(max_in_flight, 1);
        // it had all the room before the other one came
        world.stream(0, 100, Duration::ZERO);
        world.flow.received(id(0), max_in_flight + 50, world.now);
        world.flow.joined(id(1), 2500, ROUND_TRIP, world.now);
        let mut handled = 0;
        for _ in 0..1000 {
            world.flow.answered(id(0), 1, 0, 0, world.now);
            world.flow.received(id(0), 1, world.now);
            world.pass(Duration::from_millis(10));
            if world.rdys()[1] > 0 {
                world.stream(1, 1, Duration::ZERO);
                handled += 1;
            }
        }
        assert!(handled > 800, "{handled} of 1000 messages with a maximum of {max_in_flight}");
        world.flow.answered(id(0), max_in_flight + 50, 0, 0, world.now);
        world.pass(TURN);
        let rdys: u32 = world.rdys().iter().sum();
        assert!(rdys > 0 && rdys <= max_in_flight, "{:?}", world.rdys());
    }
}

#[test]
fn empty_connections_do_not_delay_one_that_has_messages() {
    let mut world = World::new(1, 3);
    let (start, mut handled) = (world.now, 0);
    while world.now < start + Duration::from_secs(1) {
        if world.rdys()[1] > 0 {
            world.stream(1, 1, Duration::ZERO);
            handled += 1;
        }
        world.pass(Duration::from_millis(1));
    }
    assert!(handled > 100, "{handled} messages a second");
    // and without messages, the turns are long again
    world.pass(TURN);
    let mut changes = 0;
    for _ in 0..1000 {
        let before = world.rdys();
        world.pass(Duration::from_millis(1));
        changes += usize::from(world.rdys() != before);
    }
    assert!(changes <= 10, "RDY changed {changes} times in a quiet second");
}

#[test]
fn one_failure_stops_nothing_and_repeated_failures_pause_all_connections() {
    let mut world = World::new(10, 2);
    let fail = |world: &mut World| {
        world.flow.received(id(0), 1, world.now);
        world.flow.answered(id(0), 0, 1, 0, world.now);
    };
    fail(&mut world);
    assert_eq!(world.rdys(), [1, 1]);
    fail(&mut world);
    assert_eq!(world.rdys(), [0, 0]);
    world.pass(FIRST_BACKOFF);
    assert_eq!(world.rdys().iter().sum::<u32>(), 1, "one message is tried");
    let probe = world.rdys().iter().position(|rdy| *rdy == 1).unwrap() as u64;
    world.flow.received(id(probe), 1, world.now);
    world.flow.answered(id(probe), 0, 1, 0, world.now);
    assert_eq!(world.rdys(), [0, 0]);
    world.pass(FIRST_BACKOFF / 2);
    assert_eq!(world.rdys(), [0, 0], "the second pause is longer than half of the first one's most");
    world.pass(2 * FIRST_BACKOFF);
    world.flow.received(id(0), 1, world.now);
    world.flow.answered(id(0), 1, 0, 0, world.now);
    assert!(world.rdys().iter().all(|rdy| *rdy > 0));
    assert!(!world.flow.is_backing_off());
}

#[test]
fn messages_requeued_untried_are_not_failures() {
    let mut world = World::new(10, 1);
    world.flow.received(id(0), 5, world.now);
    world.flow.answered(id(0), 0, 0, 5, world.now);
    assert!(!world.flow.is_backing_off());
    assert!(world.rdys()[0] > 0);
}

/// Random operations; after each, every invariant of [`Flow`] must hold.
#[test]
fn invariants_hold_under_random_operations() {
    for seed in 0..200 {
        random_operations(seed);
    }
}

fn random_operations(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(rng.u32(1..50), rng.u64(0..4));
    let mut stopped = false;
    for step in 0..500 {
        let connection = id(rng.u64(0..6));
        let (rdy, in_flight) =
            world.flow.connections.get(&connection).map_or((0, 0), |connection| (connection.rdy, connection.in_flight));
        match rng.u32(0..100) {
            // as nsqd: never above RDY
            0..40 if rdy > in_flight => world.flow.received(connection, rng.u32(1..=rdy - in_flight), world.now),
            40..75 if in_flight > 0 => {
                let count = rng.u32(1..=in_flight);
                let done = rng.u32(0..=count);
                let failed = rng.u32(0..=count - done);
                world.flow.answered(connection, done, failed, count - done - failed, world.now);
            }
            75..80 => world.flow.joined(connection, rng.u32(1..100), ROUND_TRIP, world.now),
            80..83 => world.flow.left(connection, world.now),
            83..86 => world.flow.set_max_in_flight(rng.u32(0..60), world.now),
            86 if rng.u32(0..20) == 0 => {
                stopped = true;
                world.flow.stop(world.now);
            }
            _ => world.pass(Duration::from_micros(rng.u64(0..3_000_000) >> rng.u32(0..16))),
        }
        let context = || format!("seed {seed}, step {step}, {:?} in: {:#?}", world.now - world.start, world.flow);
        let room: u32 =
            world.flow.connections.values().map(|connection| connection.rdy.saturating_sub(connection.in_flight)).sum();
        let free = world.flow.max_in_flight.saturating_sub(world.flow.in_flight());
        assert!(room <= free, "{}", context());
        let paused = stopped || matches!(world.flow.backoff_state, BackoffState::Paused(_));
        assert!(!paused || world.rdys().iter().all(|rdy| *rdy == 0), "{}", context());
        let wants = world.flow.connections.values().any(|connection| connection.in_flight < connection.max_rdy);
        assert!(
            paused || matches!(world.flow.backoff_state, BackoffState::Probing) || free == 0 || !wants || room > 0,
            "{}",
            context()
        );
        assert!(
            world
                .flow
                .connections
                .values()
                .all(|connection| connection.rdy <= connection.max_rdy.max(connection.in_flight)),
            "{}",
            context()
        );
    }
}
