//! A server that accepts connections and never answers, beside a real nsqd: it is shown as silent, and
//! delays nothing of the other.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Nsqd, Web, mqueue, needs};

/// The time limit of a request to nsqd: what waits for the silent server takes at least as long.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Listings at an interval of 100 ms; if each waited a second for the silent server, they took longer
/// than [`REQUEST_TIME`].
const LISTINGS: usize = 12;

/// An nsqd with a message, and a server whose connections nobody accepts.
fn beside_a_silent_one() -> (Nsqd, TcpListener, String) {
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    nsqd.publish("orders", b"one");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let flags = format!("--nsqd-http-address {},{}", silent.local_addr().unwrap(), nsqd.http());
    (nsqd, silent, flags)
}

#[test]
fn ls_shows_the_rows_of_the_other() {
    needs!("nsqd");
    let (_nsqd, silent, flags) = beside_a_silent_one();
    for watch in ["0", "100ms"] {
        let begun = Instant::now();
        let listed = mqueue(&format!("ls --watch {watch} {flags}")).run();
        let took = begun.elapsed();
        let row = listed.stdout.lines().find(|row| row.starts_with("  billing ")).expect("a row");
        assert_eq!(row.split_whitespace().nth(1), Some("1"), "{}", listed.stdout);
        let line = format!("nsqd at {}: no answer in time: its messages are not counted", silent.local_addr().unwrap());
        assert_eq!((listed.code, listed.stdout.contains(&line)), (Some(1), true), "{}", listed.stdout);
        assert!(took < REQUEST_TIME, "{took:?}");
    }
}

#[test]
fn a_silent_nsqlookupd_is_said_to_know_others() {
    needs!("nsqd");
    let (nsqd, silent, _) = beside_a_silent_one();
    let lookupd = silent.local_addr().unwrap();
    let flags = format!("--nsqd-http-address {} --lookupd-http-address {lookupd}", nsqd.http());
    let begun = Instant::now();
    let listed = mqueue(&format!("ls --watch 0 {flags}")).run();
    assert!(listed.stdout.contains("billing") && begun.elapsed() < REQUEST_TIME, "{:?}", begun.elapsed());
    let line = format!("nsqlookupd at {lookupd}: no answer in time: nsqds that only it knows are missing");
    assert_eq!((listed.code, listed.stdout.contains(&line)), (Some(1), true), "{}", listed.stdout);
}

/// The listing has the real nsqd's group, and says that the other one is silent.
fn check(listing: &Value) {
    assert_eq!(listing["streams"][0]["groups"][0]["depth"], 1, "{listing}");
    let errors: Vec<bool> = listing["nsqds"].as_array().unwrap().iter().map(|it| it["error"].is_string()).collect();
    assert_eq!(errors, [true, false], "{listing}");
}

#[test]
fn top_goes_on_at_its_interval() {
    needs!("nsqd");
    let (_nsqd, _silent, flags) = beside_a_silent_one();
    let (reader, writer) = std::io::pipe().unwrap();
    let _top = mqueue(&format!("top --json --interval 100ms {flags}")).with_stdout(writer).start();
    let mut lines = BufReader::new(reader).lines();
    check(&serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
    let begun = Instant::now();
    for _ in 0..LISTINGS {
        check(&serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
    }
    assert!(begun.elapsed() < REQUEST_TIME, "{:?}", begun.elapsed());
}

#[test]
fn the_page_goes_on_at_its_interval() {
    needs!("nsqd");
    let (nsqd, _silent, flags) = beside_a_silent_one();
    let web = Web::with(&format!("--poll-interval 100ms {flags}"));
    let mut events = web.events();
    events.wait_for("the group", |stream| stream["groups"][0]["depth"] == 1);
    let begun = Instant::now();
    for number in 2..2 + LISTINGS {
        nsqd.publish("orders", b"more");
        events.wait_for("each message", |stream| stream["groups"][0]["depth"] == number);
    }
    assert!(begun.elapsed() < REQUEST_TIME, "{:?}", begun.elapsed());
}

#[test]
fn doctor_examines_both_at_once() {
    needs!("nsqd");
    let (nsqd, silent, flags) = beside_a_silent_one();
    let begun = Instant::now();
    let report = mqueue(&format!("doctor --json --watch 0 --deadline 2s {flags}")).run();
    assert!(begun.elapsed() < REQUEST_TIME, "{:?}", begun.elapsed());
    let report: Value = serde_json::from_str(&report.stdout).unwrap_or_else(|_| panic!("{report:?}"));
    let findings: Vec<String> = report["findings"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let has = |words: &[&str]| findings.iter().any(|finding| words.iter().all(|word| finding.contains(word)));
    let silent = silent.local_addr().unwrap().to_string();
    assert!(has(&["error", &silent, "no answer"]), "{findings:#?}");
    assert!(has(&["ok", &nsqd.http()]) && has(&["orders", "billing"]), "{findings:#?}");
}
