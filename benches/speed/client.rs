//! mqueue's client beside the crate tokio-nsq, in the same program, by `mqueue bench` (`--features
//! tokio-nsq`).

use crate::measured::{BROKERS, Broker, bench, figure};
use crate::{Goal, Round, compare, report};

/// A measurement: its title, its unit, the arguments of mqueue bench, the JSON pointer of its
/// figure in the report, and the size of a unit.
type Measurement = (&'static str, &'static str, &'static str, &'static str, f64);

const MEASUREMENTS: [Measurement; 6] = [
    ("publish → OK, one at a time, 200 B, p50", "us", ONE, "/published/latency_ms/p50", 1e3),
    ("publish, 200 B, batches of 200", "messages/s", BATCHES, "/published/messages_per_s", 1.0),
    ("publish → handled at 50/s, max-in-flight 200, p50", "us", QUIET, "/handled/latency_ms/p50", 1e3),
    ("publish → handled at 50/s, max-in-flight 200, p99", "us", QUIET, "/handled/latency_ms/p99", 1e3),
    ("consume, 200 B", "messages/s", CONSUME, "/handled/messages_per_s", 1.0),
    ("consume, 200 B, client's CPU", "ns a message", CONSUME, "/client_usage/cpu_us_per_message", 1e3),
];
const ONE: &str = "publish --duration 3s";
const BATCHES: &str = "publish --duration 3s --batch 200";
const QUIET: &str = "both --duration 4s --rate 50";
const CONSUME: &str = "consume --messages 300000 --max-in-flight 2500";

pub fn run() {
    BROKERS.iter().for_each(on);
}

fn on(broker: &Broker) {
    let server = &(broker.start)();
    for (index, (title, unit, args, pointer, units)) in MEASUREMENTS.into_iter().enumerate() {
        let contender = |name: &'static str, client: &'static str| -> (&'static str, Round<'_>) {
            let args = format!("{args} --client {client}");
            (name, Box::new(move || figure(&bench(server, &args), pointer) * units))
        };
        let contenders = vec![contender("tokio-nsq, 1 ms flush", "tokio-nsq"), contender("mqueue's own client", "own")];
        let goal = broker.goal(Goal::AtMost(0.08)).filter(|_| index == 0);
        report(&format!("{title}, on {}", broker.name), unit, &compare(contenders), &[(1, 0, goal)]);
    }
}
