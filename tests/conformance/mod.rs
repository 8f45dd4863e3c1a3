//! One transcript, three brokers: nsqd, `mqueue broker --memory` and `mqueue broker` with its log. nsqd is the judge.

mod delivery;
mod http;
mod tcp;

use super::support::Nsqd;

#[test]
fn a_negative_number_of_consumers_is_none() {
    use super::support::{Client, needs};
    needs!("nsqd");
    let flags = ["--max-channel-consumers=-1"];
    let answers = [Nsqd::real(&flags), Nsqd::embedded(&flags)].map(|broker| {
        let (mut client, _) = Client::identified(&broker, "{}");
        client.say("SUB foo c\n");
        (client.frame(), super::support::get(&broker.http(), "/config/max_channel_consumers"))
    });
    assert_eq!(answers[0], answers[1]);
}

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
