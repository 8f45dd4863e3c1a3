//! `mqueue wakeup --listen`.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use crate::support::{Doors, Nsqd, Told, needs, wait_until};

#[test]
fn state_and_metrics_show_groups_and_pokes() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.create("foo", "served");
    nsqd.publish("foo", b"x");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    doors.wait_for_poke("1.sock");
    assert_eq!(told.get("/healthz"), (200, "ok\n".to_owned()));
    let group = told.group("foo", "1");
    assert_eq!((&group["depth"], &group["asleep"], &group["clients"]), (&1.into(), &true.into(), &0.into()));
    let socket = &group["sockets"][0];
    assert_eq!(socket["path"], doors.at("1.sock").to_str().unwrap());
    assert!(socket["last_poke"].as_f64().unwrap() < 60.0, "{socket}");
    assert!(socket["pokes_without_consumer"].as_u64().unwrap() >= 1, "{socket}");
    assert!(socket["next_poke"].is_number(), "{socket}");
    assert_eq!(told.group("foo", "served")["asleep"], false, "it has no socket");
    assert!(told.metric("mqueue_wakeup_pokes_total") >= 1.0);
    for (name, value) in [("failed_pokes_total", 0.0), ("groups", 2.0), ("streams", 1.0), ("depth", 2.0)] {
        assert_eq!(told.metric(&format!("mqueue_wakeup_{name}")), value, "{name}");
    }
    assert!(told.metric("mqueue_wakeup_poll_duration_seconds_count") >= 1.0);
    assert_eq!(told.get("/nonsense").0, 404);
}

#[test]
fn state_shows_problems() {
    needs!("nsqd");
    let (mut nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    doors.close("1.sock");
    std::fs::write(doors.at("1@1.sock"), "").unwrap();
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    wakeup.wait_to_say("nobody listens");
    let trouble = told.group("foo", "1")["sockets"][0]["trouble"].to_string();
    assert!(trouble.contains("nobody listens"), "{trouble}");
    assert!(told.get("/state").1.contains("1@1.sock is no socket"));
    nsqd.stop();
    wait_until("ill health", || told.get("/healthz").0 == 503);
    let (_, why) = told.get("/healthz");
    assert!(why.starts_with("cannot reach nsqd at"), "{why}");
    assert!(told.get("/state").1.contains("cannot reach nsqd at"));
    assert!(told.metric("mqueue_wakeup_poll_errors_total") >= 1.0);
}

#[test]
fn clients_that_never_read_do_not_delay_pokes() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 1h --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    wait_until("wakeup listens", || nsqd.is_heard("foo"));
    let readers: Vec<TcpStream> = (0..80)
        .map(|number| {
            let mut reader = TcpStream::connect(told.address()).unwrap();
            let request =
                if number % 2 == 0 { "GET /state HT" } else { "GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n" };
            reader.write_all(request.as_bytes()).unwrap();
            reader
        })
        .collect();
    nsqd.publish("foo", b"x");
    doors.wait_for_poke("1.sock");
    // and they are disconnected: another client gets its turn
    assert_eq!(told.get("/healthz").0, 200);
    drop(readers);
}

#[test]
fn an_address_in_use_is_reported_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let finished = Doors::new(&[]).wakeup_by(&format!("--listen {address}")).run();
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.starts_with(&format!("mqueue: cannot listen on {address}: ")), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}
