//! Other NSQ clients with the embedded broker: publish, defer, consume, touch, requeue, finish. All
//! do the same work (tests/peers/client.*, tests/peers/gonsq).

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Nsqd, peer, skip, wait_within};

/// Runs a client, which must handle its four messages; skips it with a notice if it is not
/// installed.
fn runs(name: &str, is_here: bool, command: &mut Command) {
    if !is_here {
        return skip(&format!("{name} is missing (scripts/clients fetches it)"));
    }
    let broker = Nsqd::embedded(&[]);
    let mut child = command.args([&broker.tcp(), "work"]).stdout(Stdio::piped()).spawn().expect("it is here");
    wait_within(std::time::Duration::from_secs(60), "the client's end", || {
        child.try_wait().expect("it was started").is_some()
    });
    let said = std::io::read_to_string(child.stdout.take().expect("piped")).expect("UTF-8");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines, ["deferred 1 in time", "one 1 in time", "requeued 2 in time", "two 1 in time"], "{name}");
    broker.wait_for_empty("work", "c");
}

fn peers() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers")
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

#[test]
fn go_nsq_works_with_the_broker() {
    let program = peer("gonsq");
    runs("gonsq", program.is_some(), &mut Command::new(program.unwrap_or_default()));
}

#[test]
fn pynsq_works_with_the_broker() {
    let python = peers().join("pynsq/bin/python");
    runs("pynsq", python.exists(), Command::new(&python).arg(script("client.py")));
}

#[test]
fn nsqjs_works_with_the_broker() {
    let modules = peers().join("nsqjs/node_modules");
    runs("nsqjs", modules.exists(), Command::new("node").arg(script("client.js")).env("NODE_PATH", &modules));
}
