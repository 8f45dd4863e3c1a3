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
    assert_eq!(row(&listed.stdout, "orders"), ["orders", "0", "-", "-", "-", "-", "-", "-", "1"]);
    let billing = row(&listed.stdout, "billing");
    assert_eq!(billing[..4], ["billing", "4", "0", "2"]);
    assert_eq!(billing[5..], ["-", "-", "0", "-", "paused", "on", "1", "of", "2"]);
    // nsqd does not tell the age of the oldest message
    assert_eq!(billing[4] == "-", nsqds[0].channel("orders", "billing").oldest_ms.is_none());
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
fn the_age_of_the_oldest_message_is_that_of_the_nsqd_with_the_oldest() {
    let brokers = [Nsqd::embedded(&[]), Nsqd::embedded(&[])];
    for broker in &brokers {
        broker.create("orders", "billing");
    }
    let age = |broker: &Nsqd| broker.channel("orders", "billing").oldest_ms;
    assert_eq!([age(&brokers[0]), age(&brokers[1])], [None, None]);
    brokers[1].publish("orders", b"old");
    wait_until("it to get older", || age(&brokers[1]).is_some_and(|age| age > 20));
    brokers[0].publish_later("orders", b"new", 3_600_000);
    let addresses = format!("--nsqd-http-address {},{}", brokers[0].http(), brokers[1].http());
    let listed: Value = serde_json::from_str(&ls(&format!("{addresses} --json")).run().stdout).unwrap();
    let group = &listed["streams"][0]["groups"][0];
    let (new, oldest, older) =
        (age(&brokers[0]).unwrap(), group["oldest_ms"].as_u64().unwrap(), age(&brokers[1]).unwrap());
    assert!(oldest > 20 && oldest <= older && new < older, "{oldest}, {new}, {older}");
    let gauge = crate::support::get(&brokers[1].http(), "/metrics");
    let name = "mqueue_broker_channel_oldest_age_seconds{topic=\"orders\",channel=\"billing\"} ";
    let seconds = gauge.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<f64>().unwrap();
    assert!(seconds > 0.02 && seconds < 60.0, "{seconds}");
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
    assert_eq!(row(&listed.stdout, "1")[7], "1", "{}", listed.stdout);
    assert_eq!(row(&listed.stdout, "sleeper")[7], "asleep", "{}", listed.stdout);
    let rate = |name: &str, cell: usize| row(&listed.stdout, name)[cell].parse::<f64>().unwrap();
    assert!((50.0..800.0).contains(&rate("foo", 5)) && (50.0..800.0).contains(&rate("1", 6)), "{}", listed.stdout);
    assert_eq!(rate("sleeper", 6), 0.0);
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
    let last = half.stdout.lines().last().unwrap();
    assert!(last.starts_with(&said) && last.ends_with("its messages are not counted"), "{}", half.stdout);
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
