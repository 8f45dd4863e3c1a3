//! Restarts and kills of the server in modes of TLS, compression and AUTH: nothing acknowledged is
//! lost.

use crate::support::{Certificates, EventsOutcome, Mode, Nsqd, mqueue, needs, wait_until};

/// Modes of a run, unless MQUEUE_TEST_MODES has another number: there are 48.
const SAMPLE: usize = 3;
/// Messages of one mode.
const EVENTS: u64 = 400;
/// Ends of the server in one mode.
const ENDS: usize = 2;

/// Publishes and consumes in a mode while the server is ended and started again.
fn play(certificates: &Certificates, mode: Mode, random: &mut fastrand::Rng, start: Start, end: fn(&mut Nsqd)) {
    let mut server = mode.serve(certificates, start);
    let nsqd = &mut server.nsqd;
    nsqd.create("foo", "1");
    let common = format!("--nsqd-tcp-address {} {}", nsqd.tcp(), mode.flags(certificates));
    let args = "consumer --stream foo --group 1 --output body --msg-timeout 2s --max-in-flight 200";
    let consumer = mqueue(&format!("{args} {common}")).start();
    consumer.wait_to_say("consuming");
    let args = "producer --stream foo --interval 0 --tasks 20 --report json --publish-timeout 60";
    let mut producer = mqueue(&format!("{args} --count {EVENTS} {common}")).start();
    for _ in 0..ENDS {
        let more = consumer.stdout().len() + random.usize(1..8_000);
        wait_until("more events, or all", || consumer.stdout().len() > more || producer.has_ended());
        end(nsqd);
        nsqd.start_again();
    }
    let outcome = EventsOutcome::of(producer, consumer, nsqd, EVENTS, &format!("{mode:?}"));
    assert_eq!(outcome.handled, EVENTS, "{mode:?}: every acknowledged event is handled");
}

type Start = fn(&[&str]) -> Nsqd;

/// Plays a sample of the modes at once.
fn sample(start: Start, end: fn(&mut Nsqd)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let count = number("MQUEUE_TEST_MODES").map_or(SAMPLE, |count| count as usize);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut modes = Mode::all();
    random.shuffle(&mut modes);
    modes.truncate(count);
    eprintln!("SEED={seed}: {modes:?}");
    let certificates = Certificates::new();
    for modes in modes.chunks(SAMPLE) {
        std::thread::scope(|scope| {
            for mode in modes {
                let (mut random, certificates) = (random.fork(), &certificates);
                scope.spawn(move || play(certificates, *mode, &mut random, start, end));
            }
        });
    }
}

#[test]
fn nothing_acknowledged_is_lost_over_restarts_in_any_mode() {
    needs!("nsqd");
    sample(Nsqd::with, Nsqd::stop);
}

#[test]
fn nothing_acknowledged_is_lost_over_kills_of_the_broker_in_any_mode() {
    sample(Nsqd::embedded, Nsqd::kill);
}
