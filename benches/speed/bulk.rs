//! Draining a channel of 200-byte messages: `mqueue consumer` beside nsq_tail, and beside a bare
//! socket at a fixed RDY.

use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use mqueue::proto::{ChannelName, Command as Nsq, Frame, TopicName};

use crate::bare::Bare;
use crate::measured::{BROKERS, Broker};
use crate::support::{Nsqd, peer};
use crate::{Goal, compare, median, report};

const MESSAGES: u64 = 1_000_000;
/// nsq_tail gets fewer messages: only the rate is compared.
const TAILED: u64 = 300_000;

pub fn run() {
    BROKERS.iter().for_each(on);
}

fn on(broker: &Broker) {
    let server = (broker.start)();
    let address = server.tcp();
    let mut memory = Vec::new();
    let results = compare(vec![
        (
            "nsq_tail",
            Box::new(|| {
                let mut command = Command::new(peer("nsq_tail").unwrap());
                command.args(["--topic=bulk", "--channel=g", &format!("-n={TAILED}"), "--max-in-flight=1000"]);
                rate(&server, TAILED, command.arg(format!("--nsqd-tcp-address={address}"))).0
            }),
        ),
        (
            "mqueue consumer --output body",
            Box::new(|| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
                command.args(["consumer", "--stream=bulk", "--group=g", "--output=body", "--count"]);
                let (rate, kib) =
                    rate(&server, MESSAGES, command.args([&MESSAGES.to_string(), "--nsqd-tcp-address", &address]));
                memory.push(kib / 1024.0);
                rate
            }),
        ),
        ("bare socket, RDY 1000, nothing printed", Box::new(|| bare_rate(&server))),
    ]);
    let what = format!("consume 200 B to stdout, on {}", broker.name);
    report(&what, "messages/s", &results, &[(1, 0, broker.goal(Goal::AtLeast(3.0))), (1, 2, None)]);
    println!(
        "  memory of mqueue consumer while draining a million: {:.1} MB at most (goal: below 30)",
        median(&memory)
    );
}

fn fill(server: &Nsqd, count: u64) {
    server.delete_topic("bulk");
    server.create("bulk", "g");
    let (topic, body) = (TopicName::new("bulk").unwrap(), Bytes::from(vec![b'x'; 200]));
    let mut bare = Bare::connect(&server.tcp());
    for _ in 0..count / 1000 {
        bare.ask(&Nsq::Mpub { topic: topic.clone(), bodies: std::iter::repeat_n(body.clone(), 1000).collect() });
    }
    crate::support::wait_until("all messages in the channel", || server.channel("bulk", "g").depth == count as i64);
}

/// Messages per second, and the peak memory in KiB.
fn rate(server: &Nsqd, count: u64, command: &mut Command) -> (f64, f64) {
    fill(server, count);
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut memory = 0.0_f64;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        memory = memory.max(peak.unwrap_or(0.0));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    (count as f64 / start.elapsed().as_secs_f64(), memory)
}

fn bare_rate(server: &Nsqd) -> f64 {
    fill(server, MESSAGES);
    let start = Instant::now();
    let mut bare = Bare::connect(&server.tcp());
    let (topic, channel) = (TopicName::new("bulk").unwrap(), ChannelName::new("g").unwrap());
    bare.ask(&Nsq::Sub { topic, channel });
    bare.send(&[Nsq::Rdy(1000)]);
    let mut received = 0;
    while received < MESSAGES {
        let mut answers = Vec::new();
        let mut next = Some(bare.frame());
        while let Some(frame) = next {
            match frame {
                Frame::Message(message) => answers.push(Nsq::Fin(message.id)),
                Frame::Response(_) => answers.push(Nsq::Nop),
                Frame::Error(error) => panic!("{error}"),
            }
            next = bare.ready();
        }
        received += answers.len() as u64;
        bare.send(&answers);
    }
    MESSAGES as f64 / start.elapsed().as_secs_f64()
}
