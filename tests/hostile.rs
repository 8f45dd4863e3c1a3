//! Malicious or broken nsqds: the client logs an error and reconnects, uses little memory, and
//! sends no wrong reply.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::proto::{ChannelName, Command, Frame, Response, TopicName};
use nix::sys::signal::Signal;

use crate::support::fake_nsqd::{FakeNsqd, Peer, encoded, error, message, message_id, ok};
use crate::support::{Mqueue, consumer, mqueue, wait_until};

fn assert_small(consumer: &Mqueue) {
    // an idle debug build has some 40 MB: nearly all are the program itself
    let peak = consumer.peak();
    assert!(peak < 50_000, "{peak} KiB");
}

/// A consumer of two nsqds, a malicious and a good one; the good one must be served in any case.
struct Both {
    liar: FakeNsqd,
    good: Peer,
    consumer: Mqueue,
}

impl Both {
    fn start(args: &str) -> Self {
        let (liar, good) = (FakeNsqd::start(), FakeNsqd::start());
        let consumer = consumer(&format!("{},{}", liar.tcp(), good.tcp()), args).start();
        let good = good.subscribed();
        Self { liar, good, consumer }
    }

    /// Asserts that the good nsqd's heartbeat is answered at once, that memory is small, and that
    /// no loop spins.
    #[track_caller]
    fn assert_sound(&mut self) {
        let start = Instant::now();
        self.good.said();
        assert!(start.elapsed() < Duration::from_secs(10), "the good nsqd waited: {:?}", start.elapsed());
        // what is in the sockets may still be worked on
        wait_until("it has nothing to do", || {
            let (start, before) = (Instant::now(), self.consumer.processor_time());
            while start.elapsed() < Duration::from_millis(400) {
                self.good.said();
                std::thread::sleep(Duration::from_millis(20));
            }
            self.consumer.processor_time() - before < Duration::from_millis(100)
        });
        assert_small(&self.consumer);
    }
}

const FLOOD: Duration = Duration::from_millis(1500);

/// Asserts that a message sent on this connection is answered.
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
fn invalid_frames_make_the_consumer_reconnect_without_using_memory() {
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
    // no command can be sent in the middle of a frame, so closing tells that all was read
    drop(peer);
    fake.subscribed();
    assert_small(&consumer);
}

#[test]
fn a_huge_identify_response_ends_the_consumer_with_one_line() {
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
fn a_peer_that_never_answers_is_given_up_after_a_timeout() {
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
fn heartbeats_before_responses_are_accepted() {
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
fn refused_late_replies_keep_the_connection() {
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
fn other_errors_and_unexpected_responses_cause_a_reconnect() {
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
fn a_copy_of_a_message_in_progress_is_answered_without_being_handled() {
    let (fake, folder) = (FakeNsqd::start(), tempfile::tempdir().unwrap());
    let path = folder.path().display();
    // each run creates a file and ends when there is another; the third one fails
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
    // sent after the copy, which would have taken the second slot
    deliver(&mut peer, 2, 1);
    end(1, 1);
    let said = peer.until(|command| *command == Command::Fin(message_id(1)));
    assert!(!said.iter().any(|command| matches!(command, Command::Req { .. })), "{said:?}");
    // a copy that was still in the socket is finished once more
    peer.send(&message(1, 3, b"body"));
    peer.until(|command| *command == Command::Fin(message_id(1)));

    peer.send(&message(2, 2, b"body"));
    peer.send(&message(1, 4, b"body"));
    peer.until(|command| *command == Command::Fin(message_id(1)));
    fs::write(file("fail", 2, 1), "").unwrap();
    end(2, 1);
    let said = peer.until(|command| matches!(command, Command::Req { id, .. } if *id == message_id(2)));
    assert!(!said.contains(&Command::Fin(message_id(2))), "{said:?}");
    // the copy was not tried, so this is the second of two tries
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
fn a_peer_that_ignores_rdy_is_disconnected() {
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
fn valid_identify_settings_are_used_and_invalid_ones_reported_in_one_line() {
    for (reply, says) in [
        (r#"{"msg_timeout":0}"#, "grants a msg_timeout of 0 ms"),
        (r#"{"msg_timeout":-1}"#, "IDENTIFY reply that cannot be read"),
        (r#"{"msg_timeout":1e30}"#, "IDENTIFY reply that cannot be read"),
        (r#"{"max_rdy_count":0}"#, "grants a max_rdy_count of 0"),
        (r#"{"max_rdy_count":-5}"#, "IDENTIFY reply that cannot be read"),
        (r#"{"version":5}"#, "IDENTIFY reply that cannot be read"),
        ("\u{1b}[2J\n\nmqueue: all is well", "IDENTIFY reply that cannot be read"),
    ] {
        let fake = FakeNsqd::start();
        let consumer = consumer(&fake.tcp(), "").start();
        let mut peer = fake.accept();
        peer.grants(reply);
        let finished = consumer.finish();
        assert_eq!((finished.code, finished.stderr.lines().count()), (Some(69), 1), "{reply}: {}", finished.stderr);
        assert!(finished.stderr.contains(says), "{reply}: {}", finished.stderr);
        assert!(!finished.stderr.contains('\u{1b}'), "{reply}: {:?}", finished.stderr);
    }
    let huge = r#"{"msg_timeout":18446744073709551615,"max_msg_timeout":18446744073709551615,"max_rdy_count":18446744073709551615}"#;
    for reply in [huge, r#"{"msg_timeout":1}"#, "{}"] {
        let fake = FakeNsqd::start();
        let consumer = consumer(&fake.tcp(), "").start();
        let mut peer = fake.accept();
        peer.grants(reply);
        assert!(matches!(peer.command(), Command::Sub { .. }), "{reply}");
        peer.send(&ok());
        assert_works(&mut peer);
        assert_eq!(consumer.times_said("WARN"), 0, "{reply}: {}", consumer.stderr());
    }
}

#[test]
fn a_msg_timeout_of_a_millisecond_causes_no_flood_of_touches() {
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

#[test]
fn a_message_redelivered_endlessly_uses_no_memory_and_does_not_block_others() {
    let same = || encoded((0..1000).map(|_| message(1, 1, b"body")));
    let later = || encoded((0..1000).map(|n| message(1, 2 + n, b"body")));
    for (handler, bytes) in [("sleep:1h", same()), ("sleep:1h", later()), ("print", same()), ("print", later())] {
        let mut both = Both::start(&format!("--handler {handler}"));
        let mut peer = both.liar.subscribed();
        peer.until_ready();
        peer.send(&message(1, 1, b"body"));
        let times = peer.flood(&bytes, FLOOD);
        eprintln!("{handler}: {times} thousand times, {} KiB", both.consumer.peak());
        both.assert_sound();
    }
}

/// Asserts that a good nsqd's messages are handled, without a rest, beside this liar.
#[track_caller]
fn good_is_served_beside(what: &str, lies: impl Fn(Peer) + Send + 'static) {
    const MESSAGES: u64 = 20;
    let Both { liar, mut good, consumer } = Both::start("--handler exec:exit --max-in-flight 4");
    let done = Arc::new(AtomicBool::new(false));
    let (ends, begun) = (done.clone(), Arc::new(AtomicBool::new(false)));
    let begins = begun.clone();
    let lying = std::thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            if let Some(mut peer) = liar.subscribed_within(Duration::from_millis(100)) {
                peer.until_ready();
                begins.store(true, Ordering::Relaxed);
                lies(peer);
            }
        }
    });
    wait_until("the liar is connected", || begun.load(Ordering::Relaxed));
    let (start, mut rdy, mut handled) = (Instant::now(), 0, 0);
    let heed = |rdy: &mut u32, said: &[Command]| {
        for command in said {
            if let Command::Rdy(count) = command {
                *rdy = u32::try_from(*count).unwrap();
            }
        }
    };
    while handled < MESSAGES {
        assert!(
            start.elapsed() < Duration::from_secs(25),
            "{what}: {handled} of {MESSAGES}, RDY {rdy}: {}",
            consumer.stderr()
        );
        heed(&mut rdy, &good.said());
        if rdy > 0 {
            let id = 1000 + handled;
            good.send(&message(id, 1, b"good"));
            heed(&mut rdy, &good.until(|command| *command == Command::Fin(message_id(id))));
            handled += 1;
        }
    }
    eprintln!("{what}: {MESSAGES} messages in {:?}", start.elapsed());
    done.store(true, Ordering::Relaxed);
    drop(consumer);
    lying.join().unwrap();
}

#[test]
fn an_nsqd_that_repeats_messages_or_ignores_rdy_does_not_keep_others_waiting() {
    let same = encoded((0..1000).map(|_| message(1, 1, b"body")));
    good_is_served_beside("one message again and again", move |mut peer| {
        peer.flood(&same, FLOOD);
    });
    good_is_served_beside("50 messages at a time, whatever RDY is", |mut peer| {
        peer.send_all((0..50).map(|id| message(id, 1, b"body")));
        let mut next = 50;
        while let Some(command) = peer.next() {
            if let Command::Fin(_) = command {
                peer.send(&message(next, 1, b"body"));
                next += 1;
            }
        }
    });
}

#[test]
fn large_messages_beyond_rdy_are_bounded_over_all_connections() {
    static MEGABYTE: [u8; 1 << 20] = [b'x'; 1 << 20];
    let mut both = Both::start("--handler sleep:1h");
    let (mut sent, mut connections) = (0, 0);
    while let Some(mut peer) = both.liar.subscribed_within(Duration::from_secs(3)) {
        sent += (0..2000).take_while(|id| peer.try_send(&message(*id, 1, &MEGABYTE))).count();
        connections += 1;
        assert!(connections < 20, "it connects more and more rarely");
    }
    eprintln!("{sent} MB on {connections} connections: {} KiB", both.consumer.peak());
    assert!(both.consumer.peak() < 200_000, "{} KiB", both.consumer.peak());
    both.good.said();
    assert!(both.consumer.times_said("beyond RDY") > 0, "{}", both.consumer.stderr());
}

#[test]
fn a_flood_of_messages_is_bounded_over_all_connections() {
    const CONNECTIONS: u64 = 60;
    let mut both = Both::start("--handler sleep:1h");
    let mut connections = 0;
    // fewer messages on each connection than allowed; each is closed at once, as if nsqd had
    // restarted
    while connections < CONNECTIONS
        && let Some(mut peer) = both.liar.subscribed_within(Duration::from_secs(3))
    {
        let ids = connections * 1500..(connections + 1) * 1500;
        peer.send_all(ids.map(|id| message(id, 1, &[b'x'; 1000])));
        connections += 1;
    }
    eprintln!("1,500 messages on each of {connections} connections: {} KiB", both.consumer.peak());
    assert!(connections > 1, "it connects again");
    both.assert_sound();
}

/// A frame's size and type, without data.
fn head(size: u32, kind: u32) -> Vec<u8> {
    [size.to_be_bytes(), kind.to_be_bytes()].concat()
}

#[test]
fn a_frame_that_arrives_byte_by_byte_times_out() {
    // the limit is 5 s during setup
    let fake = FakeNsqd::start();
    let consumer = consumer(&fake.tcp(), "").start();
    let mut peer = fake.accept();
    peer.identify();
    let drips = std::iter::repeat_n(b'x', 60_000);
    assert!(peer.drip(head(60_000, 0).into_iter().chain(drips), Duration::from_secs(30)), "it is not disconnected");
    let finished = consumer.finish();
    assert_eq!((finished.code, finished.stderr.lines().count()), (Some(69), 1), "{}", finished.stderr);

    // later it is nsqd's maximum silence of two heartbeats, here 2 s
    let drips = || head(12_000, 2).into_iter().chain(std::iter::repeat_n(b'x', 12_000));
    let (fake, start) = (FakeNsqd::start(), Instant::now());
    let address = fake.tcp().parse().unwrap();
    let dripping = std::thread::spawn(move || {
        let mut peer = fake.subscribed();
        peer.until_ready();
        let closed = peer.drip(drips(), Duration::from_secs(30));
        assert_works(&mut fake.subscribed());
        closed
    });
    let mut config = ConsumerConfig::new(TopicName::new("foo").unwrap(), ChannelName::new("1").unwrap());
    config.nsqd = vec![address];
    config.connect.identify.heartbeat_interval = Some(1000);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut consumer = Consumer::connect(config).await.unwrap();
        consumer.recv().await.unwrap().finish();
        // until the connection is gone
        consumer.stop();
        assert!(consumer.recv().await.is_none());
    });
    assert!(dripping.join().unwrap(), "it is not disconnected");
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_frame_of_an_impossible_size_is_logged_in_one_line() {
    let mut both = Both::start("");
    for size in [1 << 31, u32::MAX, -2_i32 as u32, 0, 3] {
        let mut peer = both.liar.subscribed();
        assert_works(&mut peer);
        let said = both.consumer.stderr().lines().count();
        peer.send_raw(&head(size, 2));
        peer.rest();
        wait_until("it is said", || both.consumer.stderr().lines().count() > said);
        let stderr = both.consumer.stderr();
        let last = stderr.lines().nth(said).unwrap();
        assert!(last.contains(&format!("a frame of {size} bytes")), "{last}");
    }
    assert_works(&mut both.liar.subscribed());
    both.assert_sound();
}

#[test]
fn a_megabyte_error_is_logged_as_one_short_line() {
    let mut both = Both::start("");
    let text = format!("E_INVALID \u{1b}[31m\nWARN forged\r{}", "y".repeat((1 << 20) - 100));
    for _ in 0..3 {
        let mut peer = both.liar.subscribed();
        assert_works(&mut peer);
        peer.send(&error(text.clone().leak()));
        peer.rest();
    }
    assert_works(&mut both.liar.subscribed());
    let stderr = both.consumer.stderr();
    assert!(!stderr.contains('\u{1b}') && !stderr.contains('\r'), "{stderr:?}");
    assert!(!stderr.lines().any(|line| line.starts_with("WARN forged")), "{stderr}");
    assert!(stderr.contains("E_INVALID") && stderr.lines().all(|line| line.len() < 500), "{stderr}");
    both.assert_sound();
}

/// A producer of two nsqds, of which the first one is malicious.
#[test]
fn a_producer_leaves_an_nsqd_that_answers_only_with_heartbeats() {
    let (liar, good) = (FakeNsqd::start(), FakeNsqd::start());
    let args = format!("producer --stream foo --generate --rate 5 --nsqd-tcp-address {},{}", liar.tcp(), good.tcp());
    let producer = mqueue(&args).start();
    let mut good = good.accept();
    good.identified();
    let mut peer = liar.accept();
    peer.identified();
    let start = Instant::now();
    let mut heard = peer.another();
    // it receives only heartbeats, and there is always more to send
    let lying = std::thread::spawn(move || {
        while heard.try_send(&Frame::Response(Response::Heartbeat)) && start.elapsed() < Duration::from_secs(50) {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let answering = std::thread::spawn(move || {
        while good.next().is_some() {
            good.send(&ok());
        }
    });
    while peer.next().is_some() {}
    let took = start.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&took), "{took:?}");
    wait_until("it is said", || producer.times_said("connection lost") == 1);
    assert!(producer.stderr().contains("did not answer for 1"), "{}", producer.stderr());
    assert_small(&producer);
    drop(producer);
    lying.join().unwrap();
    answering.join().unwrap();
}

#[test]
fn a_producer_ignores_unexpected_messages_and_oks() {
    let large = [&(200_u32 << 20).to_be_bytes()[..], &2_u32.to_be_bytes(), &[0; 100]].concat();
    for (bytes, says) in [(encoded([ok()]), "OK without a command"), (large, "a message")] {
        let fake = FakeNsqd::start();
        let producer = mqueue(&format!("producer --stream foo --nsqd-tcp-address {}", fake.tcp())).with_stdin().start();
        let mut peer = fake.accept();
        peer.identified();
        peer.send_raw(&bytes);
        assert!(peer.next().is_none(), "nothing was to be published");
        producer.wait_to_say(says);
        assert_eq!(producer.times_said("connection lost"), 1, "{}", producer.stderr());
        // and goes on
        fake.accept().identified();
        assert_small(&producer);
    }
}
