//! One transcript, three brokers: nsqd, `mqueue broker --memory` and `mqueue broker` with its log. nsqd is the judge.

mod delivery;
mod http;
mod tcp;

use super::support::Nsqd;

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
            if got != expected {
                differences += &format!("{} ({kind})\n  nsqd:   {expected}\n  mqueue: {got}\n", name(script));
            }
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}
