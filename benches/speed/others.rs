//! The clients of other languages, pynsq and nsqjs, publishing and consuming.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measured::{BROKERS, Broker, bench, figure};
use crate::support::peer;
use crate::{Round, compare, report};

/// The other clients get fewer messages: only the rate is compared.
const MESSAGES: &str = "40000";

pub fn run() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/nsqjs/node_modules");
    let (Some(python), true) = (peer("pynsq/bin/python"), modules.exists()) else {
        println!("\nskipped: pynsq or nsqjs is missing (scripts/clients fetches them)");
        return;
    };
    let script = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/speed/peers").join(name);
    let pynsq = move || vec![python.clone(), script("client.py")];
    let nsqjs = move || vec![PathBuf::from("node"), script("client.js")];
    let works = [
        ("publish", ", batches of 200", "publish --batch 200 --duration 2s", "published"),
        ("consume", "", "consume --messages 300000 --max-in-flight 2500", "handled"),
    ];
    for (broker, (what, together, ours, done)) in BROKERS.iter().flat_map(|broker| works.map(|work| (broker, work))) {
        let theirs = |program: Vec<PathBuf>| -> Round<'_> {
            let modules = modules.clone();
            Box::new(move || rate(broker, &program, what, &modules))
        };
        let results = compare(vec![
            ("pynsq", theirs(pynsq())),
            ("nsqjs", theirs(nsqjs())),
            ("mqueue", Box::new(|| figure(&bench(&broker.with_channel(), ours), &format!("/{done}/messages_per_s")))),
        ]);
        let title = format!("{what} 200 B{together}, on {}", broker.name);
        report(&title, "messages/s", &results, &[(2, 0, None), (2, 1, None)]);
    }
}

/// The rate that a client reports, in messages per second.
fn rate(broker: &Broker, program: &[PathBuf], what: &str, modules: &Path) -> f64 {
    let server = broker.with_channel();
    if what == "consume" {
        let lines = format!("{:0200}\n", 7).repeat(1000);
        (0..MESSAGES.parse().unwrap_or(0) / 1000).for_each(|_| server.publish_lines("bench", lines.as_bytes()));
    }
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).args([&server.tcp(), what, MESSAGES]).env("NODE_PATH", modules);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{program:?}: {said} {}", String::from_utf8_lossy(&output.stderr)))
}
