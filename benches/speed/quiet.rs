//! The latency from publishing to handling at 50 messages per second, where nsqd holds a message
//! back if its client is ready for more.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mqueue::proto::TopicName;

use crate::bare::Bare;
use crate::measured::{BROKERS, Broker};
use crate::support::{Nsqd, peer};
use crate::{Goal, compare, median, report};

const MESSAGES: usize = 150;
const GAP: Duration = Duration::from_millis(20);

pub fn run() {
    BROKERS.iter().for_each(on);
}

fn on(broker: &Broker) {
    let nsqd = (broker.start)();
    let address = nsqd.tcp();
    let mqueue = |topic: &str, in_flight: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
        command.args(["consumer", "--group=g", "--output=body", "--stream", topic, "--max-in-flight", in_flight]);
        command.args(["--nsqd-tcp-address", &address]);
        command
    };
    let results = compare(vec![
        ("mqueue consumer --max-in-flight 1", Box::new(|| latency(&nsqd, "one", mqueue("one", "1")))),
        ("mqueue consumer --max-in-flight 200", Box::new(|| latency(&nsqd, "many", mqueue("many", "200")))),
        (
            "nsq_tail (go-nsq), max-in-flight 200",
            Box::new(|| {
                let mut command = Command::new(peer("nsq_tail").unwrap());
                command.args(["--topic=tail", "--channel=g", "--max-in-flight=200"]);
                command.arg(format!("--nsqd-tcp-address={address}"));
                latency(&nsqd, "tail", command)
            }),
        ),
    ]);
    let pairs = [(1, 2, broker.goal(Goal::AtMost(0.01))), (1, 0, None)];
    let what = format!("publish → handled at 50/s, max-in-flight 200, p50, on {}", broker.name);
    report(&what, "us", &results, &pairs);
}

/// Measures the latency, and waits until the consumer is gone.
fn latency(nsqd: &Nsqd, topic: &str, mut command: Command) -> f64 {
    let figure = measure(nsqd, topic, &mut command);
    nsqd.wait_for_clients(topic, "g", 0);
    figure
}

/// The median time from PUB to the consumer's line, in microseconds. The group is `g`.
pub fn measure(nsqd: &Nsqd, topic: &str, command: &mut Command) -> f64 {
    let mut consumer = Killed(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    nsqd.wait_for_clients(topic, "g", 1);
    let mut lines = BufReader::new(consumer.0.stdout.take().unwrap()).lines();
    let name = TopicName::new(topic).unwrap();
    let address = nsqd.tcp();
    let publisher = std::thread::spawn(move || {
        let mut bare = Bare::connect(&address);
        let start = Instant::now();
        for n in 0..MESSAGES {
            std::thread::sleep((start + n as u32 * GAP).saturating_duration_since(Instant::now()));
            let body = format!("{}", now_nanos()).into();
            bare.ask(&mqueue::proto::Command::Pub { topic: name.clone(), body });
        }
    });
    let times: Vec<f64> = (0..MESSAGES)
        .map(|_| {
            let published: u128 = lines.next().unwrap().unwrap().parse().unwrap();
            (now_nanos() - published) as f64 / 1e3
        })
        .collect();
    publisher.join().unwrap();
    drop(consumer);
    median(&times)
}

fn now_nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
