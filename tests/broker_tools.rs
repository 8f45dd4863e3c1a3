//! nsq's own programs with the embedded broker.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::support::{Lookupd, Nsqd, get, needs, peer, wait_until};

/// A running program of nsq, killed if the test ends first.
struct Program(Child);

impl Program {
    fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(peer(name).expect("needs! checked it"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it is a program"))
    }

    /// Writes to its stdin and waits for its end; returns its stdout and stderr.
    fn run(mut self, input: &[u8]) -> (String, String) {
        let _ = self.0.stdin.take().expect("piped").write_all(input);
        let (mut out, mut err) = (self.0.stdout.take().expect("piped"), self.0.stderr.take().expect("piped"));
        let reader = std::thread::spawn(move || std::io::read_to_string(&mut err).expect("UTF-8"));
        let out = std::io::read_to_string(&mut out).expect("UTF-8");
        self.0.wait().expect("it was started");
        (out, reader.join().expect("no panic"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn to_nsq_and_nsq_tail_work_with_the_broker() {
    needs!("to_nsq", "nsq_tail");
    let broker = Nsqd::embedded(&[]);
    broker.create("foo", "tail");
    let address = format!("--nsqd-tcp-address={}", broker.tcp());
    Program::start("to_nsq", &["--topic=foo", &address]).run(b"one\ntwo\nthree\n");
    let (out, _) = Program::start("nsq_tail", &["--topic=foo", "--channel=tail", "-n=3", &address]).run(b"");
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "three", "two"]);
}

#[test]
fn nsq_to_file_works_with_the_broker() {
    needs!("nsq_to_file");
    let broker = Nsqd::embedded(&[]);
    broker.create("foo", "nsq_to_file");
    for n in 0..100 {
        broker.publish("foo", format!("line {n}").as_bytes());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder_flag = format!("--output-dir={}", folder.path().display());
    let address = format!("--nsqd-tcp-address={}", broker.tcp());
    let _writing = Program::start("nsq_to_file", &["--topic=foo", "--sync-interval=100ms", &folder_flag, &address]);
    broker.wait_for_empty("foo", "nsq_to_file");
    let written = || {
        let files = std::fs::read_dir(folder.path()).expect("a folder");
        let texts = files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("UTF-8"));
        texts.map(|text| text.lines().count()).sum::<usize>()
    };
    wait_until("100 lines", || written() == 100);
}

#[test]
fn bench_writer_and_bench_reader_work_with_the_broker() {
    needs!("bench_writer", "bench_reader");
    let broker = Nsqd::embedded(&[]);
    broker.create("bench", "ch");
    let address = format!("--nsqd-tcp-address={}", broker.tcp());
    for (program, flag) in [("bench_writer", "--batch-size=20"), ("bench_reader", "--channel=ch")] {
        let (_, said) = Program::start(program, &["--topic=bench", "--runfor=300ms", flag, &address]).run(b"");
        let rate = said.split(" - ").find_map(|part| part.strip_suffix("ops/s")).and_then(|rate| rate.parse().ok());
        assert!(rate.is_some_and(|rate: f64| rate > 100.0), "{program} said {said}");
    }
}

#[test]
fn nsq_stat_and_nsqadmin_find_the_broker_by_nsqlookupd() {
    needs!("nsq_stat", "nsqadmin", "nsqlookupd");
    let lookupd = Lookupd::start();
    let broker = Nsqd::embedded(&[&format!("--lookupd-tcp-address={}", lookupd.tcp())]);
    broker.create("foo", "bar");
    for n in 0..7 {
        broker.publish("foo", format!("{n}").as_bytes());
    }
    let lookup = format!("--lookupd-http-address={}", lookupd.http());
    let stat = || {
        let args = ["--topic=foo", "--channel=bar", "--interval=100ms", "--count=1", &lookup];
        Program::start("nsq_stat", &args).run(b"").0
    };
    // it exits at once if nsqlookupd does not know the channel yet
    wait_until("seven messages in nsq_stat", || stat().lines().last().is_some_and(|line| line.contains('7')));
    let mut admin = Program::start("nsqadmin", &["--http-address=127.0.0.1:0", &lookup]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(admin.0.stderr.take().expect("piped")));
    let address =
        lines.find_map(|line| line.ok()?.split("listening on ").nth(1).map(str::to_owned)).expect("it listens");
    let shown = get(&address, "/api/topics/foo");
    assert!(shown.contains(r#""channel_name":"bar""#) && shown.contains(r#""depth":7"#), "{shown}");
    broker.post("/topic/delete?topic=foo");
    wait_until("the topic to go", || !get(&lookupd.http(), "/nodes").contains("foo"));
}

#[test]
fn a_new_topic_gets_the_channels_known_to_nsqlookupd() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let to = format!("--lookupd-tcp-address={}", lookupd.tcp());
    let nsqd = Nsqd::real(&[&to, "--broadcast-address=127.0.0.1"]);
    for channel in ["one", "two", "three#ephemeral"] {
        nsqd.create("foo", &channel.replace('#', "%23"));
    }
    let known = || get(&lookupd.http(), "/channels?topic=foo");
    wait_until("nsqlookupd knows the channels", || ["one", "two"].iter().all(|name| known().contains(name)));
    let broker = Nsqd::embedded(&[&to]);
    wait_until("nsqlookupd knows the broker", || get(&lookupd.http(), "/nodes").matches("tcp_port").count() == 2);
    broker.publish("foo", b"first");
    let has_one = |channel: &&str| broker.channel("foo", channel).depth == 1;
    wait_until("the message in each channel", || ["one", "two"].iter().all(has_one));
    assert_eq!(broker.channels("foo"), ["one", "two"], "an ephemeral channel is its consumers'");
}

#[test]
fn unresponsive_nsqlookupds_delay_a_new_topic_only_briefly() {
    needs!("nsqlookupd");
    let mut lookupd = Lookupd::start();
    let broker = Nsqd::embedded(&[&format!("--lookupd-tcp-address={}", lookupd.tcp())]);
    wait_until("nsqlookupd knows the broker", || get(&lookupd.http(), "/nodes").contains("tcp_port"));
    lookupd.stop();
    broker.create("foo", "bar");
    broker.publish("foo", b"first");
    wait_until("the message in its channel", || broker.channel("foo", "bar").depth == 1);
}
