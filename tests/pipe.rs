//! `--handler pipe:COMMAND` in every command that has handlers: one run for many messages, and no
//! loss when it is killed.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Gateway, Mqueue, Nsqd, consumer, mqueue, needs, wait_until};

/// A command that answers each `$line` by a script, and records each of its runs.
struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.at(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// `$body` is the message's body, which may not contain `"`.
    fn handler(&self, answer: &str) -> String {
        let folder = self.folder.path().display();
        let body = r#"body=${line##*\"body\":\"}; body=${body%\"\}}"#;
        format!("pipe:cd {folder}; echo $$ >>runs; while read -r line; do {body}; {answer}; done; echo well >>ends")
    }

    fn runs(&self) -> impl Iterator<Item = Pid> {
        self.lines("runs").into_iter().map(|pid| Pid::from_raw(pid.parse().expect("a process id")))
    }

    fn kill_the_last_run(&self) {
        kill(self.runs().last().expect("there is one"), Signal::SIGKILL).expect("it runs");
    }
}

fn numbers(count: usize) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

#[test]
fn killed_commands_and_consumers_lose_no_message() {
    needs!("nsqd");
    let (nsqd, program) = (Nsqd::with_channel("foo", "1"), Program::new());
    nsqd.publish_lines("foo", numbers(4999).as_bytes());
    // the command hangs on every thousandth message when it first reads it
    let hang = "*000) grep -sqx $body hung || { echo $body >>hung; exec sleep 1000; };;";
    let handler = program.handler(&format!("case $body in {hang} esac; echo $body >>did; echo ok"));
    let args = "--retry-delay 0 --max-backoff 0 --msg-timeout 2s";
    let start = || consumer(&nsqd.tcp(), args).arg("--handler").arg(&handler).start();
    let first = start();
    for turn in 1..=3 {
        wait_until("the command to hang", || program.lines("hung").len() == turn);
        program.kill_the_last_run();
        wait_until("the next run", || program.lines("runs").len() > turn);
    }
    let ended = "the command ended: killed by signal 9; it is restarted";
    wait_until("each end to be told", || first.times_said(ended) == 3);
    wait_until("the command to hang", || program.lines("hung").len() == 4);
    first.signal(Signal::SIGKILL);
    // it hangs forever, and nothing ends it
    program.kill_the_last_run();
    first.finish();
    let second = start();
    nsqd.wait_for_empty("foo", "1");
    second.signal(Signal::SIGTERM);
    let finished = second.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let did = program.lines("did");
    let distinct: HashSet<&String> = did.iter().collect();
    assert_eq!((distinct.len(), nsqd.published("foo.dead")), (4999, 0));
    // a hundred messages are in the pipe at a time
    assert!(did.len() - distinct.len() <= 4 * 100, "{} came again", did.len() - distinct.len());
    wait_until("no run to be left behind", || program.runs().all(|run| kill(run, None).is_err()));
    assert_eq!((program.runs().count(), program.lines("ends").last().map(String::as_str)), (5, Some("well")));
}

#[test]
fn stages_pass_on_the_text_after_ok() {
    needs!("nsqd");
    let (nsqd, program) = (Nsqd::start(), Program::new());
    nsqd.publish_lines("one", b"a\nb\nlost\nc\n");
    let handler = program.handler("case $body in lost) echo drop it is;; b) echo ok;; *) echo ok $body $body!;; esac");
    let args = "stage --from one --group g --to two --timeout 1";
    let stage = mqueue(args).env("NSQD_TCP_ADDRESS", &nsqd.tcp()).arg("--handler").arg(&handler).run();
    assert_eq!(stage.code, Some(0), "{}", stage.stderr);
    let mut passed = taken(&nsqd, "two");
    passed.sort();
    assert_eq!(passed, ["a a!", "b", "c c!"]);
    assert!(taken(&nsqd, "one.dead").concat().contains("it is"));
    assert_eq!((program.lines("runs").len(), program.lines("ends").len()), (1, 1));
}

fn taken(nsqd: &Nsqd, stream: &str) -> Vec<String> {
    let args = format!("consumer --stream {stream} --group look --output body --count {}", nsqd.published(stream));
    mqueue(&args).env("NSQD_TCP_ADDRESS", &nsqd.tcp()).run().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn gateway_workers_support_pipe_as_well() {
    needs!("nsqd");
    let (nsqd, program) = (Nsqd::start(), Program::new());
    let gateway = Gateway::start(&nsqd, "--retry-delay 10ms");
    assert_eq!(gateway.publish_lines("jobs", numbers(1000).as_bytes()).status, 200);
    // every hundredth message fails once
    let handler = program.handler("case $line in *'attempts\":1,'*00\\\"*) echo retry 0;; *) echo ok;; esac");
    let worker = mqueue(&format!("worker --queue {} --count 1000 --handler", gateway.url()));
    let finished = Mqueue::run(worker.arg(&handler));
    assert!(finished.stderr.contains("1000 done, 10 retried, 0 dropped, 0 too late"), "{}", finished.stderr);
    nsqd.wait_for_empty("jobs", "workers");
    assert_eq!((program.lines("runs").len(), program.lines("ends").len()), (1, 1));
}
