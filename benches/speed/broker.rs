//! The embedded broker beside nsqd, by nsq's own `bench_writer` and `bench_reader` (200 B, batches of 200), and the memory of a million
//! messages.

use std::process::Command;

use bytes::Bytes;
use mqueue::proto::{Command as Nsq, TopicName};

use crate::bare::Bare;
use crate::support::{Mqueue, Nsqd, peer};
use crate::{Round, compare, report};

/// How long each program runs, a round.
const WRITING: &str = "--runfor=2s";
const READING: &str = "--runfor=2s";
const QUEUED: usize = 1_000_000;

/// A server that is measured, with its channel made.
enum Server {
    Nsqd(Nsqd),
    /// With its address, and the folder of its log.
    Broker(Mqueue, String, #[allow(dead_code, reason = "it goes with the server")] tempfile::TempDir),
}

impl Server {
    fn nsqd(flags: &[&str]) -> Self {
        let nsqd = Nsqd::with(flags);
        nsqd.create("bench", "ch");
        Self::Nsqd(nsqd)
    }

    fn broker(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("--data-path={}", folder.path().display());
        let mut args = vec!["broker", "--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"];
        args.extend(flags);
        if !flags.contains(&"--memory") {
            args.push(&path);
        }
        let broker = Mqueue::new(&args).start();
        broker.wait_to_say("HTTP: listening on");
        let said = broker.stderr();
        let tcp = said.split("TCP: listening on ").nth(1).unwrap().lines().next().unwrap().to_owned();
        let mut bare = Bare::connect(&tcp);
        let (topic, channel) = ("bench".parse().unwrap(), "ch".parse().unwrap());
        bare.ask(&Nsq::Sub { topic, channel });
        Self::Broker(broker, tcp, folder)
    }

    fn tcp(&self) -> String {
        match self {
            Self::Nsqd(nsqd) => nsqd.tcp(),
            Self::Broker(_, tcp, _) => tcp.clone(),
        }
    }

    fn megabytes(&self) -> f64 {
        let pid = match self {
            Self::Nsqd(nsqd) => nsqd.pid(),
            Self::Broker(broker, ..) => broker.pid(),
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    /// What a program of nsq's measures here, in operations a second.
    fn measure(&self, program: &str, flags: &[&str]) -> f64 {
        let mut command = Command::new(peer(program).expect("make peers"));
        command.args(["--topic=bench", "--size=200"]).args(flags);
        let output = command.arg(format!("--nsqd-tcp-address={}", self.tcp())).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let rate = said.split(" - ").find_map(|part| part.strip_suffix("ops/s"));
        rate.unwrap_or_else(|| panic!("{program} said: {said}")).parse().unwrap()
    }

    fn write(&self) -> f64 {
        self.measure("bench_writer", &[WRITING, "--batch-size=200"])
    }

    fn read(&self) -> f64 {
        self.measure("bench_reader", &[READING, "--channel=ch"])
    }

    fn queue_a_million(&self) -> f64 {
        let (topic, body) = (TopicName::new("bench").unwrap(), Bytes::from(vec![b'x'; 200]));
        let mut bare = Bare::connect(&self.tcp());
        for _ in 0..QUEUED / 200 {
            bare.ask(&Nsq::Mpub { topic: topic.clone(), bodies: vec![body.clone(); 200] });
        }
        self.megabytes()
    }
}

pub fn run() {
    let nsqd = || Server::nsqd(&["--mem-queue-size=100000000"]);
    let memory = || Server::broker(&["--memory", "--max-memory=16000000000"]);
    let interval = || Server::broker(&["--sync=interval"]);
    let servers: [(&str, &dyn Fn() -> Server); 3] = [
        ("nsqd, all in memory", &nsqd),
        ("mqueue broker --memory", &memory),
        ("mqueue broker --sync=interval", &interval),
    ];
    let rounds = |measure: fn(&Server) -> f64| -> Vec<(&str, Round<'_>)> {
        servers.iter().map(|(name, start)| (*name, Box::new(move || measure(&start())) as Round<'_>)).collect()
    };
    let written = compare(rounds(Server::write));
    report("bench_writer, 200 B, batches of 200 (goals: 2x in memory, 1x with a log)", "messages/s", &written);
    let read = compare(rounds(|server| {
        server.write();
        server.read()
    }));
    report("bench_reader, 200 B (goals: 2x in memory, 1x with a log)", "messages/s", &read);
    let spilling = || Server::nsqd(&[]);
    let mut queued = rounds(Server::queue_a_million);
    queued.push(("nsqd, as it comes (10,000 in memory)", Box::new(move || spilling().queue_a_million())));
    report("memory with a million messages of 200 B queued (goal: at most nsqd's)", "MB", &compare(queued));
}
