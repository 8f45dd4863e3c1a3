//! `mqueue consumer --create`: creates the group of a consumer that is asleep from the start.

use nix::sys::signal::Signal;

use crate::support::{Lookupd, Nsqd, consumer, mqueue, needs, wait_until};

#[test]
fn a_created_group_gets_what_is_published_before_its_first_consumer_starts() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "another");
    let created = consumer(&nsqd.tcp(), "--create").run();
    assert_eq!((created.code, created.stdout.as_str()), (Some(0), ""), "{}", created.stderr);
    assert!(created.stderr.contains("group exists on 1 nsqd stream=foo group=1"), "{}", created.stderr);
    nsqd.publish("foo", b"x");
    wait_until("the message in both groups", || {
        ["1", "another"].map(|group| nsqd.channel("foo", group).depth) == [1, 1]
    });
    // creating the group again succeeds, and takes no message
    assert_eq!(consumer(&nsqd.tcp(), "--create --timeout 1 --handler exec:false").run().code, Some(0));
    let channel = nsqd.channel("foo", "1");
    assert_eq!((channel.depth, channel.in_flight_count, channel.requeue_count), (1, 0, 0));
    let consumed = consumer(&nsqd.tcp(), "--output body --count 1").run();
    assert_eq!((consumed.code, consumed.stdout.as_str()), (Some(0), "x\n"));
}

#[test]
fn create_once_fails_without_nsqd_and_create_retry_ends_when_every_nsqd_has_the_group() {
    needs!("nsqd");
    let (first, mut second) = (Nsqd::start(), Nsqd::start());
    second.stop();
    let both = format!("{},{}", first.tcp(), second.tcp());
    let once = consumer(&both, "--create").run();
    assert_eq!(once.code, Some(69), "{}", once.stderr);
    assert!(once.stderr.contains(&format!("cannot reach nsqd at {}", second.tcp())), "{}", once.stderr);
    assert_eq!(first.channels("foo"), ["1"], "the one that answers has it");
    let retrying = consumer(&both, "--create=retry").start();
    retrying.wait_to_say("cannot create the group: cannot reach nsqd");
    second.start_again();
    let retried = retrying.finish();
    assert_eq!(retried.code, Some(0), "{}", retried.stderr);
    assert!(retried.stderr.contains("group exists on 2 nsqds"), "{}", retried.stderr);
    assert_eq!(retried.stderr.matches("cannot create the group").count(), 1, "{}", retried.stderr);
    assert_eq!(second.channels("foo"), ["1"]);
}

#[test]
fn a_signal_ends_create_retry_successfully() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.stop();
    let retrying = consumer(&nsqd.tcp(), "--create=retry").start();
    retrying.wait_to_say("cannot create the group");
    retrying.signal(Signal::SIGTERM);
    let stopped = retrying.finish();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
}

#[test]
fn nsqds_of_an_nsqlookupd_get_the_group_and_those_without_the_stream_do_not() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let create = |args: &str| {
        mqueue(&format!("consumer --stream foo --group 1 --lookupd-http-address {} {args}", lookupd.http()))
    };
    let none = create("--create").run();
    assert_eq!(none.code, Some(69), "{}", none.stderr);
    assert!(none.stderr.contains("nsqlookupd names no nsqd"), "{}", none.stderr);
    let retrying = create("--create=retry").start();
    retrying.wait_to_say("nsqlookupd names no nsqd");
    let flags = [&*format!("--lookupd-tcp-address={}", lookupd.tcp()), "--broadcast-address=127.0.0.1"];
    let first = Nsqd::with(&flags);
    assert_eq!(retrying.finish().code, Some(0));
    assert_eq!(first.channels("foo"), ["1"], "no nsqd had the stream, so each of them gets it");

    let second = Nsqd::with(&flags);
    let nodes = || crate::support::get(&lookupd.http(), "/nodes").matches("\"tcp_port\"").count();
    let listed = || crate::support::get(&lookupd.http(), "/lookup?topic=foo").matches("\"tcp_port\"").count();
    wait_until("both nsqds, and the stream of the first", || nodes() == 2 && listed() == 1);
    assert_eq!(create("--create").run().code, Some(0));
    assert!(second.channels("foo").is_empty(), "the stream is elsewhere");
    assert_eq!(first.channels("foo"), ["1"]);
}

#[test]
fn an_ephemeral_group_is_refused() {
    let refused = mqueue("consumer --stream foo --group g#ephemeral --create").run();
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("ephemeral"), "{}", refused.stderr);
}
