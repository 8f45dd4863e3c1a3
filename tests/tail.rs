//! `mqueue tail`: new messages are shown, and no group misses one.

use std::io::{Read, pipe};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Lookupd, Mqueue, Nsqd, mqueue, needs, wait_until};

fn on(nsqd: &Nsqd, args: &str) -> Mqueue {
    mqueue(&format!("tail {args} --nsqd-http-address {}", nsqd.http()))
}

/// Starts it, and waits until it is subscribed.
#[track_caller]
fn tailing(mqueue: Mqueue) -> Mqueue {
    let tail = mqueue.start();
    tail.wait_to_say("waiting for new messages");
    tail
}

/// The names of the groups of tails.
fn tails(nsqd: &Nsqd, stream: &str) -> Vec<String> {
    nsqd.channels(stream).into_iter().filter(|name| name.starts_with("tail-")).collect()
}

#[test]
fn new_messages_are_shown_and_other_groups_have_them_too() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    nsqd.publish("orders", b"old");
    wait_until("the group to have it", || nsqd.channel("orders", "billing").depth == 1);
    let all = tailing(on(&nsqd, "orders -n 3"));
    let some = tailing(on(&nsqd, "orders --json --grep b$"));
    assert_eq!(tails(&nsqd, "orders").len(), 2, "each has a group of its own");
    nsqd.publish_lines("orders", b"a\nb\nbb\nc");
    let all = all.finish();
    assert_eq!((all.code, all.stdout.lines().count()), (Some(0), 3), "{}", all.stderr);
    let mut seen: Vec<&str> = all.stdout.lines().filter_map(|line| line.rsplit("  ").next()).collect();
    seen.sort_unstable();
    assert!(seen.iter().all(|body| ["a", "b", "bb", "c"].contains(body)), "{}", all.stdout);
    some.wait_for_lines(2);
    some.signal(Signal::SIGINT);
    let some = some.finish();
    assert_eq!(some.code, Some(0));
    assert!(!some.stderr.contains("WARN") && !some.stderr.contains("ERROR"), "{}", some.stderr);
    for line in some.stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["stream"], &line["attempts"]), (&"orders".into(), &1.into()));
        assert!(line["body"].as_str().unwrap().ends_with('b') && line["id"].as_str().unwrap().len() == 16, "{line}");
    }
    wait_until("their groups to vanish", || tails(&nsqd, "orders").is_empty());
    assert_eq!(nsqd.channel("orders", "billing").depth, 5);
}

#[test]
fn messages_of_a_stream_without_a_group_are_taken_only_with_a_yes() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.publish("orders", b"for the first group");
    let refused = on(&nsqd, "orders").run();
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    let said = "to tail orders, which has no group yet, and take its messages (1 now) from the first one";
    assert!(refused.stderr.contains(said) && refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert!(nsqd.channels("orders").is_empty(), "it did not subscribe");
    let taken = on(&nsqd, "orders --yes -n 1 --raw").run();
    assert_eq!((taken.code, taken.stdout.as_str()), (Some(0), "for the first group\n"), "{}", taken.stderr);
}

#[test]
fn a_stream_that_does_not_exist_is_not_created() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let failed = on(&nsqd, "nope").run();
    assert_eq!((failed.code, failed.stderr.lines().count()), (Some(1), 1));
    assert!(failed.stderr.contains("no nsqd that answered has a stream nope"), "{}", failed.stderr);
    assert!(nsqd.stats().topics.is_empty());
    // nor on a second nsqd, which does not have it
    let other = Nsqd::start();
    nsqd.create("orders", "billing");
    let both = format!("tail orders -n 1 --raw --nsqd-http-address {},{}", nsqd.http(), other.http());
    let tail = tailing(mqueue(&both));
    nsqd.publish("orders", b"x");
    assert_eq!(tail.finish().stdout, "x\n");
    assert!(other.stats().topics.is_empty());
    let dead = other.http();
    drop(other);
    let gone = mqueue(&format!("tail orders --nsqd-http-address {dead} --nsqd-tcp-address 127.0.0.1:1")).run();
    assert_eq!(gone.code, Some(69), "{}", gone.stderr);
}

#[test]
fn nsqds_are_found_by_nsqlookupd() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let nsqds = [(); 2]
        .map(|()| Nsqd::with(&[&format!("--lookupd-tcp-address={}", lookupd.tcp()), "--broadcast-address=127.0.0.1"]));
    nsqds.iter().for_each(|nsqd| nsqd.create("orders", "billing"));
    let known = || crate::support::get(&lookupd.http(), "/lookup?topic=orders").matches("tcp_port").count();
    wait_until("both to be known", || known() == 2);
    let tail = tailing(mqueue(&format!("tail orders -n 2 --raw --lookupd-http-address {}", lookupd.http())));
    wait_until("both to have its group", || nsqds.iter().all(|nsqd| tails(nsqd, "orders").len() == 1));
    nsqds.iter().for_each(|nsqd| nsqd.publish("orders", b"x"));
    assert_eq!(tail.finish().stdout, "x\nx\n");
}

#[test]
fn hostile_bodies_and_long_names_are_not_run() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let stream = "s".repeat(64);
    nsqd.create(&stream, &"g".repeat(64));
    let body = b"\x1b[2J\xe2\x80\xae\xff\n";
    let (text, raw) =
        (tailing(on(&nsqd, &format!("{stream} -n 1"))), tailing(on(&nsqd, &format!("{stream} -n 1 --raw"))));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let exact = tailing(on(&nsqd, &format!("{stream} -n 1 --raw")).with_stdout(std::fs::File::create(&path).unwrap()));
    nsqd.publish(&stream, body);
    let text = text.finish();
    assert!(text.stdout.ends_with("  \\x1b[2J\\u202e\\xff\\n\n"), "{:?}", text.stdout);
    assert_eq!(raw.finish().code, Some(0));
    assert_eq!(exact.finish().code, Some(0));
    assert_eq!(std::fs::read(&path).unwrap(), [&body[..], b"\n"].concat());
}

#[test]
fn it_ends_when_its_reader_has_gone_though_nothing_is_published() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    let (mut reader, writer) = pipe().unwrap();
    let tail = tailing(on(&nsqd, "orders --raw").with_stdout(writer));
    nsqd.publish("orders", b"x");
    reader.read_exact(&mut [0; 2]).unwrap();
    drop(reader);
    let ended = tail.finish();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.stderr.contains("WARN") && !ended.stderr.contains("ERROR"), "{}", ended.stderr);
}

#[test]
fn a_slow_reader_costs_no_memory() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    let (mut reader, writer) = pipe().unwrap();
    let tail = tailing(on(&nsqd, "orders --raw").with_stdout(writer));
    let body = vec![b'x'; 1_000_000];
    for _ in 0..120 {
        nsqd.publish("orders", &body);
    }
    let group = tails(&nsqd, "orders").pop().expect("it is there");
    wait_until("as many in flight as it wants", || {
        let it = nsqd.channel("orders", &group);
        (1..=20).contains(&it.in_flight_count) && it.depth >= 90
    });
    assert!(tail.peak() < 100_000, "{} KiB", tail.peak());
    let mut read = vec![0; 120 * 1_000_001];
    reader.read_exact(&mut read).unwrap();
    assert!(tail.peak() < 150_000, "{} KiB", tail.peak());
    tail.signal(Signal::SIGTERM);
    assert_eq!(tail.finish().code, Some(0));
}

#[test]
fn ctrl_c_ends_it_while_its_reader_does_not_read() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    let (reader, writer) = pipe().unwrap();
    let tail = tailing(on(&nsqd, "orders --raw").with_stdout(writer));
    nsqd.publish("orders", &vec![b'x'; 1_000_000]);
    wait_until("it to be stuck", || {
        tails(&nsqd, "orders").first().is_some_and(|group| nsqd.channel("orders", group).in_flight_count == 1)
    });
    tail.signal(Signal::SIGINT);
    assert_eq!(tail.finish().code, Some(0));
    drop(reader);
}

#[test]
fn it_goes_on_after_a_restart() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    let tail = tailing(on(&nsqd, "orders --raw"));
    nsqd.publish("orders", b"before");
    tail.wait_for_lines(1);
    nsqd.stop();
    nsqd.start_again();
    tail.wait_to_say("connected again");
    nsqd.publish("orders", b"after");
    tail.wait_for_lines(2);
    assert_eq!(tail.stdout(), "before\nafter\n");
    tail.signal(Signal::SIGINT);
    assert_eq!(tail.finish().code, Some(0));
}

#[test]
fn without_an_http_address_it_says_what_it_does_not_know() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    let tail = tailing(mqueue(&format!("tail orders -n 1 --raw --nsqd-tcp-address {}", nsqd.tcp())));
    assert!(tail.stderr().contains("it is not known whether orders has a group"), "{}", tail.stderr());
    nsqd.publish("orders", b"x");
    assert_eq!(tail.finish().stdout, "x\n");
}
