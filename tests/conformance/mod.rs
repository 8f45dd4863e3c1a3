//! One transcript, three brokers: nsqd, `mqueue broker --memory` and `mqueue broker` with its log. nsqd is the judge.

mod client;
mod delivery;
mod http;
mod tcp;

use super::support::Nsqd;

/// Scripts that are known to be answered otherwise (docs/broker.md); one that no longer is fails, to be struck from the list.
const KNOWN: &[&str] = &[
    // malformed and before SUB: nsqd looks at the state first
    r"  V2FIN\n",
    r"  V2REQ a 1\n",
    r"  V2TOUCH a\n",
    // the connection ends within a command: nsqd says so to nobody
    r"  V2AUTH\n",
    r"  V2IDENTIFY\n",
    r"  V2SUB a b\nIDENTIFY\n",
    r"  V2MPUB a\n\x00\x10\x00\x01",
    r"  V2IDENTIFY\n\x00\x10\x00\x01",
    r"  V2AUTH\n\x00\x10\x00\x01",
    r"  V2MPUB a\n\x00\x00\x00\t\x00\x00\x00\x01\x00\x00\x00\tx",
    r"  V2MPUB a\n\x00\x00\x00\t\x00\x00\x00\x02\x00\x00\x00\x01x",
    // Go matches the names of JSON fields in any case
    r#"  V2IDENTIFY\n\x00\x00\x00\x19{\"HEARTBEAT_INTERVAL\":-2}"#,
];

/// Plays a script against each broker; what one records otherwise than nsqd fails, all differences at once.
#[track_caller]
fn compare<S>(scripts: &[S], name: impl Fn(&S) -> String, play: impl Fn(&Nsqd, &S) -> String) {
    let nsqd = Nsqd::real(&["--snappy=false", "--deflate=false"]);
    let others = [("--memory", Nsqd::embedded(&["--memory"])), ("the log", Nsqd::embedded(&[]))];
    let mut differences = String::new();
    for script in scripts {
        eprintln!("{}", name(script));
        let expected = play(&nsqd, script);
        assert!(!expected.is_empty(), "{}: nsqd said nothing", name(script));
        for (kind, broker) in &others {
            let got = play(broker, script);
            if (got != expected) != KNOWN.contains(&name(script).as_str()) {
                differences += &format!("{} ({kind})\n  nsqd:   {expected}\n  mqueue: {got}\n", name(script));
            }
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}
