//! Outages of brokers, and of `mqueue wakeup` itself.

use nix::sys::signal::Signal;

use crate::support::{Doors, Lookupd, Nsqd, Told, needs, wait_until};

#[test]
fn without_a_broker_once_ends_with_69_and_one_line() {
    // a port without a listener
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for broker in ["nsqd", "lookupd"] {
        let finished = Doors::new(&[]).wakeup_by(&format!("--once --{broker}-http-address {free}")).run();
        assert_eq!(finished.code, Some(69), "{}", finished.stderr);
        assert!(finished.stderr.contains(&format!("at {free}")), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
}

#[test]
fn an_nsqd_without_its_http_port_is_a_usage_error() {
    let finished = Doors::new(&[]).wakeup_by("--nsqd-tcp-address 127.0.0.1:4150").run();
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--nsqd-http-address"), "{}", finished.stderr);
}

#[test]
fn an_nsqd_outage_is_logged_once_and_its_subscriptions_resume() {
    needs!("nsqd");
    let (mut nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    wait_until("wakeup listens", || nsqd.is_heard("foo"));
    nsqd.stop();
    let errors = || told.metric("mqueue_wakeup_poll_errors_total");
    wait_until("5 failed polls", || errors() >= 5.0);
    assert_eq!(told.group("foo", "1")["asleep"], true, "what was known is kept");
    nsqd.start_again();
    wakeup.wait_to_say("answers again");
    wait_until("wakeup listens again", || nsqd.is_heard("foo"));
    nsqd.publish("foo", b"x");
    doors.wait_for_poke("1.sock");
    assert_eq!(wakeup.times_said("cannot reach nsqd"), 1, "{}", wakeup.stderr());
    assert_eq!(wakeup.times_said("answers again"), 1, "{}", wakeup.stderr());
}

#[test]
fn a_hanging_nsqd_delays_no_other() {
    needs!("nsqd");
    let (nsqd, hanging, doors) = (Nsqd::start(), Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let args = format!("--poll-interval 50ms --listen 127.0.0.1:0 --nsqd-http-address {}", hanging.http());
    let wakeup = doors.wakeup(&nsqd, &args).start();
    let told = Told::by(&wakeup);
    told.wait_for_polls(4);
    hanging.signal(Signal::SIGSTOP);
    // the hanging nsqd delays nothing: its deadline has not passed yet
    told.wait_for_polls(20);
    nsqd.publish("foo", b"x");
    doors.wait_for_poke("1.sock");
    assert_eq!(told.metric("mqueue_wakeup_poll_errors_total"), 0.0);
    hanging.signal(Signal::SIGCONT);
}

#[test]
fn nsqds_are_discovered_and_survive_an_outage_of_nsqlookupd() {
    needs!("nsqd", "nsqlookupd");
    let mut lookupd = Lookupd::start();
    let doors = Doors::new(&["1.sock"]);
    let args = format!("--lookupd-http-address {} --poll-interval 50ms --listen 127.0.0.1:0", lookupd.http());
    let wakeup = doors.wakeup_by(&args).start();
    let told = Told::by(&wakeup);
    wakeup.wait_to_say("nsqlookupd names no nsqd");
    let nsqd = Nsqd::with(&[&format!("--lookupd-tcp-address={}", lookupd.tcp())]);
    nsqd.create("foo", "1");
    wakeup.wait_to_say(&format!("found nsqd at {}", nsqd.http()));
    lookupd.stop();
    wakeup.wait_to_say("cannot reach nsqlookupd");
    nsqd.publish("foo", b"x");
    doors.wait_for_poke("1.sock");
    assert_eq!(told.get("/healthz").0, 200, "the nsqd that it knows answers");
    lookupd.start_again();
    wakeup.wait_to_say("answers again");
    assert_eq!(wakeup.times_said("cannot reach"), 1, "{}", wakeup.stderr());
}

#[test]
fn a_restarted_wakeup_wakes_for_messages_published_meanwhile() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let wakeup = doors.wakeup(&nsqd, "").start();
    wait_until("wakeup listens", || nsqd.is_heard("foo"));
    wakeup.signal(Signal::SIGKILL);
    wakeup.finish();
    nsqd.publish("foo", b"x");
    let _again = doors.wakeup(&nsqd, "").start();
    doors.wait_for_poke("1.sock");
}

#[test]
fn once_reports_an_unreachable_nsqd_and_wakes_for_the_others() {
    needs!("nsqd");
    let (nsqd, mut away, doors) = (Nsqd::start(), Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    away.stop();
    let finished = doors.wakeup(&nsqd, &format!("--once --nsqd-http-address {}", away.http())).run();
    assert_eq!((finished.code, doors.pokes("1.sock")), (Some(0), 1), "{}", finished.stderr);
    let said = finished.stderr.lines().filter(|line| line.contains(&away.http())).count();
    assert_eq!(said, 1, "{}", finished.stderr);
}

#[test]
fn an_nsqd_with_two_addresses_counts_once() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    (0..3).for_each(|_| nsqd.publish("foo", b"x"));
    let other = nsqd.http().replace("127.0.0.1", "localhost");
    let wakeup = doors.wakeup(&nsqd, &format!("--nsqd-http-address {other} --listen 127.0.0.1:0")).start();
    let told = Told::by(&wakeup);
    told.wait_for_polls(4);
    assert_eq!(told.group("foo", "1")["depth"], 3);
}
