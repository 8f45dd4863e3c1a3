//! `--timeout`: an idle consumer ends.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{Lookupd, Nsqd, consumer, get, mqueue, needs, wait_until};

const SECOND: Duration = Duration::from_secs(1);

/// Asserts that `took` is from `seconds` to a second more.
#[track_caller]
fn assert_takes(took: Duration, seconds: u32) {
    assert!((seconds * SECOND..(seconds + 1) * SECOND).contains(&took), "took {took:?}, not {seconds} s and a bit");
}

#[test]
fn an_idle_consumer_ends_after_its_timeout() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let start = Instant::now();
    let by_flag = consumer(&nsqd.tcp(), "--timeout 3").start();
    let by_environment = consumer(&nsqd.tcp(), "").env("TIMEOUT", "3").start();
    let by_both = consumer(&nsqd.tcp(), "--timeout 1s").env("TIMEOUT", "60").start();
    for (consumer, seconds) in [(by_both, 1), (by_flag, 3), (by_environment, 3)] {
        let finished = consumer.finish();
        assert_takes(start.elapsed(), seconds);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
}

#[test]
fn the_timeout_begins_after_the_last_handler_has_ended() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.publish("foo", b"a");
    let start = Instant::now();
    let finished = consumer(&nsqd.tcp(), "--handler sleep:3s --timeout 1").run();
    assert_takes(start.elapsed(), 4);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    nsqd.wait_for_empty("foo", "1");
    assert_eq!(nsqd.channel("foo", "1").requeue_count, 0);
}

#[test]
fn a_consumer_without_nsqd_for_its_timeout_fails_with_a_message() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    let consumer = consumer(&nsqd.tcp(), "--timeout 1").start();
    nsqd.wait_for_clients("foo", "1", 1);
    nsqd.stop();
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(69), "{}", finished.stderr);
    assert!(finished.stderr.contains("no nsqd could be reached"), "{}", finished.stderr);
}

#[test]
fn a_message_restarts_the_idle_timeout() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let consumer = consumer(&nsqd.tcp(), "--timeout 2 --output body").start();
    nsqd.wait_for_clients("foo", "1", 1);
    let subscribed = Instant::now();
    wait_until("one second", || subscribed.elapsed() > SECOND);
    nsqd.publish("foo", b"late");
    let published = Instant::now();
    let finished = consumer.finish();
    assert_takes(published.elapsed(), 2);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "late\n"));
}

#[test]
fn a_consumer_is_idle_once_its_failed_messages_are_gone() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.publish_lines("foo", b"a\nb");
    let args = "--handler exec:false --retry-delay 60s --max-backoff 100ms --timeout 1";
    let finished = consumer(&nsqd.tcp(), args).run();
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert!(finished.stderr.contains("idle: 0 done, 2 to retry"), "{}", finished.stderr);
}

#[test]
fn the_pending_check_asks_nsqds_that_nsqlookupd_names() {
    needs!("nsqd", "nsqlookupd");
    let (lookupd, stats) = (Lookupd::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = stats.local_addr().unwrap().port();
    let nsqd = Nsqd::real(&[
        &format!("--lookupd-tcp-address={}", lookupd.tcp()),
        "--broadcast-address=127.0.0.1",
        &format!("--broadcast-http-port={port}"),
    ]);
    nsqd.create("foo", "1");
    wait_until("nsqlookupd knows the stream", || get(&lookupd.http(), "/lookup?topic=foo").contains("127.0.0.1"));
    let args = format!("consumer --stream foo --group 1 --timeout 1 --lookupd-http-address {}", lookupd.http());
    let consumer = mqueue(&args).start();
    let mut request = String::new();
    let (mut asked, _) = stats.accept().unwrap();
    BufReader::new(&asked).read_line(&mut request).unwrap();
    assert!(
        request.starts_with("GET /stats?") && request.contains("topic=foo") && request.contains("channel=1"),
        "{request}"
    );
    write!(asked, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}").unwrap();
    assert_eq!(consumer.finish().code, Some(0));
}
