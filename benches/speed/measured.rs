//! The brokers on which clients are compared, and measurements by `mqueue bench` on one of them, in
//! another process.

use std::process::Command;

use serde_json::Value;

use crate::Goal;
use crate::support::Nsqd;

/// nsqd with all messages in memory. Its garbage collector scans a queue of `most` entries, so the
/// best size depends on the work.
pub fn nsqd(most: u32) -> Nsqd {
    Nsqd::real(&[&format!("--mem-queue-size={most}")])
}

/// nsqd and the embedded broker, both in memory: the clients are compared, not the disks.
pub const BROKERS: [Broker; 2] = [
    Broker { name: "nsqd", start: || nsqd(100_000_000) },
    Broker { name: "the embedded broker", start: || Nsqd::embedded(&["--memory", "--max-memory=16000000000"]) },
];

#[derive(Clone, Copy)]
pub struct Broker {
    pub name: &'static str,
    pub start: fn() -> Nsqd,
}

impl Broker {
    /// Starts a new broker, with the channel ch of the topic bench.
    pub fn with_channel(&self) -> Nsqd {
        let broker = (self.start)();
        broker.create("bench", "ch");
        broker
    }

    /// A goal that holds for nsqd only.
    pub fn goal(&self, goal: Goal) -> Option<Goal> {
        (self.name == BROKERS[0].name).then_some(goal)
    }
}

/// The report of `mqueue bench ARGS`.
pub fn bench(server: &Nsqd, args: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
    command.arg("bench").args(args.split(' ')).args(["--output", "json", "--log", "error"]);
    command.args(["--nsqd-tcp-address", &server.tcp(), "--nsqd-http-address", &server.http()]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "bench {args}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A figure of a report, by its JSON pointer.
pub fn figure(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

/// Processor time of this process' ended children so far, in seconds.
pub fn children_cpu() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Processor time of a process so far, in seconds.
pub fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // user and system time, in hundredths of a second
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}
