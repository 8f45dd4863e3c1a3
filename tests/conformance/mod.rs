//! Transcripts of three brokers: nsqd, `mqueue broker --memory` and `mqueue broker` with its log.
//! nsqd is the reference.

mod delivery;
mod http;
mod secured;
mod tcp;

use std::io::{Read, Write};

use super::support::{Mqueue, Nsqd, mqueue, needs, peer, wait_until};

#[test]
fn a_negative_maximum_of_consumers_allows_none() {
    use super::support::Client;
    needs!("nsqd");
    let flags = ["--max-channel-consumers=-1"];
    let answers = [Nsqd::real(&flags), Nsqd::embedded(&flags)].map(|broker| {
        let (mut client, _) = Client::identified(&broker, "{}");
        client.say("SUB foo c\n");
        (client.frame(), super::support::get(&broker.http(), "/config/max_channel_consumers"))
    });
    assert_eq!(answers[0], answers[1]);
}

/// nsqd and `mqueue broker` with the same flags.
fn both(flags: &str) -> [(Mqueue, tempfile::TempDir); 2] {
    let start = |program: Option<std::path::PathBuf>| {
        let folder = tempfile::tempdir().unwrap();
        let args = format!("--data-path={} --tcp-address=127.0.0.1:0 {flags}", folder.path().display());
        let broker = match program {
            Some(nsqd) => mqueue(&args).program(&nsqd),
            None => mqueue(&format!("broker {args}")),
        };
        (broker.start(), folder)
    };
    [start(peer("nsqd")), start(None)]
}

#[test]
fn a_duration_without_a_unit_is_refused_at_the_start() {
    needs!("nsqd");
    for flag in ["msg-timeout", "max-msg-timeout", "max-req-timeout", "max-heartbeat-interval"] {
        for (broker, _folder) in both(&format!("--http-address=127.0.0.1:0 --{flag}=60000")) {
            let ended = broker.finish();
            assert_eq!(ended.code, Some(2), "{}", ended.stderr);
            assert!(ended.stderr.contains("60000") && ended.stderr.contains(flag), "{}", ended.stderr);
        }
        for value in ["60s", "60000ms", "1m0s"] {
            for (broker, _folder) in both(&format!("--http-address=127.0.0.1:0 --{flag}={value}")) {
                broker.wait_to_say("HTTP: listening on");
            }
        }
    }
}

#[test]
fn an_empty_http_address_disables_http() {
    needs!("nsqd");
    for (broker, _folder) in both("--http-address=") {
        broker.wait_to_say("TCP: listening on");
        let said = broker.stderr();
        let at = said.lines().find_map(|line| line.split_once("TCP: listening on ")).unwrap().1.trim();
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        stream.write_all(b"  V2PUB foo\n\0\0\0\x01x").unwrap();
        let mut ok = [0; 10];
        stream.read_exact(&mut ok).unwrap();
        assert!(ok.ends_with(b"OK"));
        assert!(!broker.stderr().contains("HTTP: listening"), "{}", broker.stderr());
    }
}

/// A broker that has just started has all of its messages on the disk only; new messages that fit
/// into memory are not counted.
#[test]
fn backend_depth_equals_nsqd() {
    needs!("nsqd");
    let depths = [Nsqd::real(&[]), Nsqd::embedded(&[])].map(|mut broker| {
        let depths = |broker: &Nsqd| {
            let stats = broker.stats();
            let topic = stats.topics.iter().find(|topic| topic.topic_name == "foo").unwrap();
            let channel = broker.channel("foo", "c");
            [topic.depth, topic.backend_depth, channel.depth, channel.backend_depth]
        };
        broker.create("foo", "c");
        (0..5).for_each(|_| broker.publish("foo", b"x"));
        // nsqd's goroutines take a moment
        wait_until("all is in the channel", || broker.channel("foo", "c").depth == 5);
        let before = depths(&broker);
        broker.stop();
        broker.start_again();
        [before, depths(&broker)]
    });
    assert_eq!(depths[0], depths[1]);
    assert_eq!(depths[0], [[0, 0, 5, 0], [0, 0, 5, 5]]);
}

/// Plays scripts against each broker; fails with all differences to nsqd's transcripts.
#[track_caller]
fn compare<S: Sync>(scripts: &[S], name: impl Fn(&S) -> String, play: impl Fn(&Nsqd, &S) -> String + Sync) {
    // the scripts' client reads no compressed bytes
    let plain = ["--snappy=false", "--deflate=false"];
    let nsqd = Nsqd::real(&plain);
    let memory = Nsqd::embedded(&["--memory", plain[0], plain[1]]);
    let on_disk = Nsqd::embedded(&plain);
    let mut differences = String::new();
    for script in scripts {
        eprintln!("{}", name(script));
        let [expected, in_memory, logged] = std::thread::scope(|scope| {
            let play = &play;
            let playing = [&nsqd, &memory, &on_disk].map(|broker| scope.spawn(move || play(broker, script)));
            playing.map(|playing| playing.join().expect("a transcript"))
        });
        assert!(!expected.is_empty(), "{}: nsqd said nothing", name(script));
        for (kind, got) in [("--memory", in_memory), ("the log", logged)] {
            if got != expected {
                differences += &format!("{} ({kind})\n  nsqd:   {expected}\n  mqueue: {got}\n", name(script));
            }
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}
