//! Peers that are no nsqd, or a broken one: an error and a new connection, little memory, and no wrong answer.

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqueue::proto::{Command, Frame, Response};
use nix::sys::signal::Signal;

use crate::support::fake_nsqd::{FakeNsqd, Peer, error, message, message_id, ok};
use crate::support::{Mqueue, consumer, wait_until};

/// The most memory that a process has had at once, in KiB.
fn peak(consumer: &Mqueue) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", consumer.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn assert_small(consumer: &Mqueue) {
    let peak = peak(consumer);
    assert!(peak < 40_000, "{peak} KiB");
}

/// A message arrives on this connection and is answered.
#[track_caller]
fn assert_works(peer: &mut Peer) {
    peer.until_ready();
    handles(peer, 77);
}

#[track_caller]
fn handles(peer: &mut Peer, id: u64) {
    peer.send(&message(id, 1, b"body"));
    peer.until(|command| *command == Command::Fin(message_id(id)));
}

#[test]
fn after_bytes_that_are_no_frame_the_consumer_connects_anew_and_took_no_memory_for_them() {
    let fake = FakeNsqd::start();
    let consumer = consumer(&fake.tcp(), "").start();
    let huge = [&u32::MAX.to_be_bytes()[..], &2_u32.to_be_bytes(), b"and what follows"].concat();
    let large = [&(200_u32 << 20).to_be_bytes()[..], &2_u32.to_be_bytes(), b"and no more"].concat();
    let half = [&100_u32.to_be_bytes()[..], &2_u32.to_be_bytes(), b"half of a mess"].concat();
    let short = [&10_u32.to_be_bytes()[..], &2_u32.to_be_bytes(), b"shorty"].concat();
    for (name, bytes, closes) in [
        ("a frame of 4 GB", huge, false),
        ("a frame of 200 MB that ends early", large, true),
        ("half a frame", half, true),
        ("a message without its header", short, false),
        ("a frame of no bytes", vec![0; 100], false),
        ("a frame of type 9", [&4_u32.to_be_bytes()[..], &9_u32.to_be_bytes()].concat(), false),
        ("garbage", b"garbage that is no frame\r\n\r\n".to_vec(), false),
        ("a web server's answer", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false),
    ] {
        let mut peer = fake.subscribed();
        assert_works(&mut peer);
        let lost = consumer.stderr().matches("connection lost").count();
        peer.send_raw(&bytes);
        if closes {
            drop(peer);
        } else {
            peer.rest();
        }
        wait_until(name, || consumer.stderr().matches("connection lost").count() > lost);
    }
    assert_works(&mut fake.subscribed());
    assert_small(&consumer);
}

#[test]
fn an_announced_size_alone_allocates_nothing() {
    let fake = FakeNsqd::start();
    let consumer = consumer(&fake.tcp(), "").start();
    let mut peer = fake.subscribed();
    peer.until_ready();
    peer.send_raw(&[&(250_u32 << 20).to_be_bytes()[..], &2_u32.to_be_bytes()].concat());
    for _ in 0..4 {
        peer.send_raw(&[0; 1 << 20]);
    }
    // nothing can be asked in the middle of a frame: closing is the sign that all was read
    drop(peer);
    fake.subscribed();
    assert_small(&consumer);
}

#[test]
fn a_huge_answer_to_identify_ends_the_consumer_with_one_line() {
    let fake = FakeNsqd::start();
    let consumer = consumer(&fake.tcp(), "").start();
    let mut peer = fake.accept();
    peer.identify();
    peer.send_raw(&[0xff; 64]);
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(69), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("4294967295 bytes"), "{}", finished.stderr);
}

#[test]
fn a_peer_that_never_answers_is_given_up_in_time() {
    let fake = FakeNsqd::start();
    let start = Instant::now();
    let consumer = consumer(&fake.tcp(), "").start();
    let _silent = fake.accept();
    let finished = consumer.finish();
    let took = start.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(7)).contains(&took), "{took:?}");
    assert_eq!(finished.code, Some(69), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("did not answer for 5 s"), "{}", finished.stderr);
}

#[test]
fn a_heartbeat_may_come_before_any_answer() {
    let fake = FakeNsqd::start();
    let _consumer = consumer(&fake.tcp(), "").start();
    let mut peer = fake.accept();
    peer.identify();
    peer.send(&Frame::Response(Response::Heartbeat));
    assert_eq!(peer.command(), Command::Nop);
    peer.send(&ok());
    assert!(matches!(peer.command(), Command::Sub { .. }));
    peer.send(&Frame::Response(Response::Heartbeat));
    peer.send(&ok());
    assert_eq!(peer.command(), Command::Nop);
    assert_works(&mut peer);
}

#[test]
fn a_late_answer_is_refused_and_the_connection_goes_on() {
    let fake = FakeNsqd::start();
    let consumer = consumer(&fake.tcp(), "").start();
    let mut peer = fake.subscribed();
    assert_works(&mut peer);
    for text in ["E_FIN_FAILED FIN failed", "E_REQ_FAILED REQ failed", "E_TOUCH_FAILED TOUCH failed"] {
        peer.send(&error(text));
    }
    handles(&mut peer, 2);
    assert!(!consumer.stderr().contains("connection lost"), "{}", consumer.stderr());
}

#[test]
fn any_other_error_and_any_unexpected_answer_make_a_new_connection() {
    let fake = FakeNsqd::start();
    let consumer = consumer(&fake.tcp(), "").start();
    for wrong in [error("E_INVALID cannot RDY in current state"), ok(), Frame::Response(Response::Data(Bytes::new()))] {
        let mut peer = fake.subscribed();
        assert_works(&mut peer);
        peer.send(&wrong);
        peer.rest();
    }
    assert_works(&mut fake.subscribed());
    assert!(consumer.stderr().contains("E_INVALID cannot RDY"), "{}", consumer.stderr());
}

#[test]
fn a_copy_of_what_is_worked_on_is_not_handed_out_and_gets_its_answer() {
    let (fake, folder) = (FakeNsqd::start(), tempfile::tempdir().unwrap());
    let path = folder.path().display();
    // each run begins with a file of its own, ends when there is another, and fails if there is a third
    let script = format!(
        "exec:n=$MQUEUE_ID-$MQUEUE_ATTEMPTS; touch {path}/begun-$n; while ! [ -e {path}/end-$n ]; do sleep 0.02; done; ! [ -e {path}/fail-$n ]"
    );
    let args = "--concurrency 2 --max-attempts 2 --max-backoff 0";
    let consumer = consumer(&fake.tcp(), args).arg("--handler").arg(&script).start();
    let file = |what: &str, id: u64, attempts: u16| folder.path().join(format!("{what}-{id:016x}-{attempts}"));
    let deliver = |peer: &mut Peer, id, attempts| {
        peer.send(&message(id, attempts, b"body"));
        wait_until("its handler runs", || file("begun", id, attempts).exists());
    };
    let end = |id, attempts| fs::write(file("end", id, attempts), "").unwrap();
    let mut peer = fake.subscribed();
    peer.until_ready();
    deliver(&mut peer, 1, 1);
    peer.send(&message(1, 2, b"body"));
    // read after the copy, which would have had the second place
    deliver(&mut peer, 2, 1);
    end(1, 1);
    let said = peer.until(|command| *command == Command::Fin(message_id(1)));
    assert!(!said.iter().any(|command| matches!(command, Command::Req { .. })), "{said:?}");
    // one that was in the socket: finished once more
    peer.send(&message(1, 3, b"body"));
    peer.until(|command| *command == Command::Fin(message_id(1)));

    peer.send(&message(2, 2, b"body"));
    peer.send(&message(1, 4, b"body"));
    peer.until(|command| *command == Command::Fin(message_id(1)));
    fs::write(file("fail", 2, 1), "").unwrap();
    end(2, 1);
    let said = peer.until(|command| matches!(command, Command::Req { id, .. } if *id == message_id(2)));
    assert!(!said.contains(&Command::Fin(message_id(2))), "{said:?}");
    // nobody tried the copy: this is the second try of two
    deliver(&mut peer, 2, 3);
    end(2, 3);
    peer.until(|command| *command == Command::Fin(message_id(2)));
    let begun = fs::read_dir(folder.path()).unwrap().filter_map(|file| file.unwrap().file_name().into_string().ok());
    let mut begun: Vec<String> = begun.filter(|name| name.starts_with("begun")).collect();
    begun.sort();
    assert_eq!(begun, ["begun-0000000000000001-1", "begun-0000000000000002-1", "begun-0000000000000002-3"]);
    consumer.signal(Signal::SIGTERM);
    let rest = peer.rest();
    assert!(!rest.iter().any(|command| matches!(command, Command::Fin(_) | Command::Req { .. })), "{rest:?}");
    assert_eq!(consumer.finish().code, Some(0));
}

#[test]
fn a_peer_that_heeds_no_rdy_is_disconnected_whatever_it_says_of_itself() {
    for max_rdy_count in [2500, u32::MAX] {
        let fake = FakeNsqd::start();
        let consumer = consumer(&fake.tcp(), "--handler sleep:1h").start();
        let mut peer = fake.accept();
        peer.identify();
        let reply = format!(r#"{{"max_rdy_count":{max_rdy_count}}}"#);
        peer.send(&Frame::Response(Response::Data(reply.into())));
        assert!(matches!(peer.command(), Command::Sub { .. }));
        peer.send(&ok());
        peer.until_ready();
        let taken = (0..200_000).take_while(|id| peer.try_send(&message(*id, 1, &[b'x'; 1000]))).count();
        // sockets hold some thousands
        assert!(taken < 50_000, "{taken} messages were taken at max_rdy_count {max_rdy_count}");
        assert_small(&consumer);
    }
}

#[test]
fn a_msg_timeout_of_a_millisecond_makes_no_storm_of_touches() {
    let fake = FakeNsqd::start();
    let _consumer = consumer(&fake.tcp(), "--handler sleep:1h").start();
    let mut peer = fake.accept();
    peer.identify();
    peer.send(&Frame::Response(Response::Data(r#"{"max_rdy_count":2500,"msg_timeout":1}"#.into())));
    assert!(matches!(peer.command(), Command::Sub { .. }));
    peer.send(&ok());
    peer.until_ready();
    peer.send(&message(1, 1, b"body"));
    let start = Instant::now();
    for _ in 0..5 {
        peer.until(|command| *command == Command::Touch(message_id(1)));
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(400), "5 TOUCHes in {took:?}");
}
