//! `mqueue ls` on real brokers.

use serde_json::Value;

use crate::support::{Doors, Mqueue, Nsqd, consumer, mqueue, needs, wait_until};

fn ls(args: &str) -> Mqueue {
    mqueue(&format!("ls --watch 0 {args}"))
}

/// Finds the cells of a row, by the name in the first one.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter().find(|cells| cells.first() == Some(&name)).unwrap_or_else(|| panic!("no {name} in {table}"))
}

#[test]
fn streams_and_groups_of_all_nsqds_are_summed() {
    needs!("nsqd");
    let nsqds = [Nsqd::start(), Nsqd::start()];
    for nsqd in &nsqds {
        nsqd.create("orders", "billing");
        nsqd.publish_lines("orders", b"a\nb");
        nsqd.publish_later("orders", b"later", 3_600_000);
        wait_until("the group to have them", || nsqd.channel("orders", "billing").deferred_count == 1);
    }
    nsqds[0].post("/channel/pause?topic=orders&channel=billing");
    nsqds[1].publish("orders.dead", b"a letter");
    let both = format!("--nsqd-http-address {},{}", nsqds[0].http(), nsqds[1].http());
    let listed = ls(&both).run();
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert_eq!(row(&listed.stdout, "orders"), ["orders", "0", "-", "-", "-", "-", "-", "1"]);
    assert_eq!(
        row(&listed.stdout, "billing"),
        ["billing", "4", "0", "2", "-", "-", "0", "-", "paused", "on", "1", "of", "2"]
    );
    assert!(!listed.stdout.contains("orders.dead"), "{}", listed.stdout);
    assert!(ls(&format!("{both} --all")).run().stdout.contains("orders.dead"));
    let json: Value = serde_json::from_str(&ls(&format!("{both} --json orders")).run().stdout).unwrap();
    let stream = &json["streams"][0];
    assert_eq!((&stream["stream"], &stream["dead_letters"]), (&"orders".into(), &1.into()));
    let group = &stream["groups"][0];
    assert_eq!((&group["depth"], &group["deferred"], &group["paused_on"]), (&4.into(), &2.into(), &1.into()));
    assert_eq!(json["nsqds"].as_array().unwrap().len(), 2);
}

#[test]
fn an_nsqd_with_two_addresses_is_counted_once() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    nsqd.publish_lines("orders", b"a\nb");
    wait_until("the group to have them", || nsqd.channel("orders", "billing").depth == 2);
    let other_name = nsqd.http().replace("127.0.0.1", "localhost");
    let listed = ls(&format!("--nsqd-http-address {},{other_name}", nsqd.http())).run();
    assert_eq!(row(&listed.stdout, "billing")[1], "2");
}

#[test]
fn consumers_are_awake_or_asleep_and_rates_are_measured() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    nsqd.create("foo", "sleeper");
    let doors = Doors::new(&["sleeper"]);
    let running = consumer(&nsqd.tcp(), "--output body").start();
    nsqd.wait_for_clients("foo", "1", 1);
    let flags = format!("--nsqd-http-address {} --socket-dir {}", nsqd.http(), doors.path().display());
    let producer = mqueue(&format!("producer --stream foo --rate 200 --nsqd-tcp-address {}", nsqd.tcp())).start();
    wait_until("messages to flow", || nsqd.published("foo") > 0);
    let listed = mqueue(&format!("ls --watch 500ms {flags}")).run();
    assert_eq!(row(&listed.stdout, "1")[6], "1", "{}", listed.stdout);
    assert_eq!(row(&listed.stdout, "sleeper")[6], "asleep", "{}", listed.stdout);
    let rate = |name: &str, cell: usize| row(&listed.stdout, name)[cell].parse::<f64>().unwrap();
    assert!((50.0..800.0).contains(&rate("foo", 4)) && (50.0..800.0).contains(&rate("1", 5)), "{}", listed.stdout);
    assert_eq!(rate("sleeper", 5), 0.0);
    drop((producer, running));
}

#[test]
fn unreachable_and_unknown_ones_are_one_line() {
    needs!("nsqd");
    let (nsqd, dead) = (Nsqd::start(), Nsqd::start());
    nsqd.create("orders", "billing");
    let address = dead.http();
    drop(dead);
    let half = ls(&format!("--nsqd-http-address {},{address}", nsqd.http())).run();
    assert_eq!(half.code, Some(1));
    assert!(half.stdout.contains("billing"), "{}", half.stdout);
    let said = format!("cannot reach nsqd at {address}");
    assert!(half.stderr.contains(&said) && half.stderr.lines().count() == 1, "{}", half.stderr);
    let none = ls(&format!("--nsqd-http-address {address}")).run();
    assert_eq!((none.code, none.stdout.as_str()), (Some(69), ""));
    assert!(none.stderr.contains(&said), "{}", none.stderr);
    let not_http = ls(&format!("--nsqd-http-address {}", nsqd.tcp())).run();
    assert!(not_http.stderr.contains(": the answer is not HTTP: is this its HTTP port?"), "{}", not_http.stderr);
    let unknown = ls(&format!("--nsqd-http-address {} nope", nsqd.http())).run();
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no nsqd that answered has a stream nope"), "{}", unknown.stderr);
    let by_tcp = ls(&format!("--nsqd-tcp-address {}", nsqd.tcp())).run();
    assert_eq!(by_tcp.code, Some(2));
    assert!(by_tcp.stderr.contains("--nsqd-http-address"), "{}", by_tcp.stderr);
}
