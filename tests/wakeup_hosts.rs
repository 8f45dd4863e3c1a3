//! Several hosts that wake the same groups: one wakeup each, with sockets and a name of its own.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Doors, Mqueue, Nsqd, Told, is_optimised, mqueue, needs, processor_time, wait_until, wait_within};

/// The stream whose clients are the hosts.
const LIST: &str = "mqueue-wakeup#ephemeral";

/// A host's sockets and its wakeup.
struct Host {
    doors: Doors,
    wakeup: Mqueue,
    told: Told,
}

impl Host {
    fn start(nsqd: &Nsqd, name: &str, sockets: &[&str], flags: &str) -> Self {
        Self::with(Doors::new(sockets), nsqd, name, flags)
    }

    fn with(doors: Doors, nsqd: &Nsqd, name: &str, flags: &str) -> Self {
        let wakeup = doors.wakeup(nsqd, &format!("--hostname {name} --listen 127.0.0.1:0 {flags}")).start();
        let told = Told::by(&wakeup);
        Self { doors, wakeup, told }
    }

    fn hosts(&self) -> f64 {
        self.told.metric("mqueue_wakeup_hosts")
    }
}

/// Waits until all of these hosts know each other, and each has its turns.
fn wait_for_acquaintance(hosts: &[&Host]) {
    wait_until("the hosts know each other", || hosts.iter().all(|host| host.hosts() == hosts.len() as f64));
    // of which the last one was listed before: after one poll more the hosts take turns
    hosts.iter().for_each(|host| host.told.wait_for_polls(3));
}

/// Returns the time of each host's first poke of a socket, once all have poked it.
fn first_pokes(hosts: &[&Host], socket: &str) -> Vec<Instant> {
    let before: Vec<usize> = hosts.iter().map(|host| host.doors.pokes(socket)).collect();
    let mut times = vec![None; hosts.len()];
    wait_until("a poke by each host", || {
        for ((host, before), time) in hosts.iter().zip(&before).zip(&mut times) {
            if time.is_none() && host.doors.pokes(socket) > *before {
                *time = Some(Instant::now());
            }
        }
        times.iter().all(Option::is_some)
    });
    times.into_iter().flatten().collect()
}

#[test]
fn one_host_pokes_at_once_and_the_next_ones_cover_for_it_poll_by_poll() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let hosts = ["a", "b", "c"].map(|name| Host::start(&nsqd, name, &["1.sock"], "--poll-interval 1s"));
    let hosts: Vec<&Host> = hosts.iter().collect();
    wait_for_acquaintance(&hosts);
    wait_until("the first host listens", || nsqd.is_heard("foo"));
    let listening = nsqd.channels("foo").iter().filter(|name| name.starts_with("wakeup-")).count();
    assert_eq!(listening, 1, "the others do not: {:?}", nsqd.channels("foo"));
    nsqd.publish("foo", b"x");
    let mut times = first_pokes(&hosts, "1.sock");
    times.sort_unstable();
    let after: Vec<Duration> = times.iter().map(|time| *time - times[0]).collect();
    assert!(after[1] > Duration::from_millis(500) && after[2] > after[1], "{after:?}");
    let said = hosts.iter().find(|host| host.wakeup.stderr().contains("a message arrived")).unwrap().wakeup.stderr();
    assert!(said.contains("3 hosts wake these groups now: a, b, c"), "{said}");
}

#[test]
fn a_single_host_is_not_listed() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let host = Host::start(&nsqd, "a", &["1.sock"], "--poll-interval 50ms");
    wait_until("it listens", || nsqd.is_heard("foo"));
    host.told.wait_for_polls(5);
    assert_eq!(host.hosts(), 1.0);
    assert!(nsqd.stats().topics.iter().all(|topic| topic.topic_name != LIST), "a stream more");
    let (_, state) = host.told.get("/state");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&state).unwrap()["hosts"], serde_json::json!([]));
}

#[test]
fn hosts_without_a_socket_or_a_listener_leave_the_group_to_others() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    for group in ["1", "2"] {
        nsqd.create("foo", group);
    }
    let flags = "--poll-interval 500ms";
    // the first for every group, if it had the sockets
    let heavy = Host::start(&nsqd, "heavy", &["2.sock"], &format!("{flags} --weight 1000"));
    let light = Host::start(&nsqd, "light", &["1.sock", "2.sock"], flags);
    wait_for_acquaintance(&[&heavy, &light]);
    let heard = || light.told.metric("mqueue_wakeup_heard_total");
    wait_until("both listen", || nsqd.channels("foo").len() == 4);
    nsqd.publish("foo", b"x");
    light.doors.wait_for_poke("1.sock");
    assert_eq!(heard(), 1.0, "it did not wait for a host without a socket");
    heavy.doors.wait_for_poke("2.sock");
    heavy.doors.close("2.sock");
    heavy.wakeup.wait_to_say("nobody listens on it");
    wait_until("the other host is told", || {
        let (_, state) = light.told.get("/state");
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        state["hosts"].as_array().unwrap().iter().any(|host| host["name"] == "heavy" && host["groups"] == 0)
    });
}

#[test]
fn the_groups_of_a_killed_host_are_woken_by_another_which_hears_of_them_at_once() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let flags = "--poll-interval 500ms";
    let first = Host::start(&nsqd, "first", &["1.sock"], &format!("{flags} --weight 1000"));
    let second = Host::start(&nsqd, "second", &["1.sock"], &format!("{flags} --weight 0"));
    wait_for_acquaintance(&[&first, &second]);
    let listens = |host: &Host| host.told.metric("mqueue_wakeup_subscriptions") == 1.0;
    wait_until("the first host listens", || listens(&first) && !listens(&second));
    first.wakeup.signal(Signal::SIGKILL);
    wait_until("the second host listens", || listens(&second));
    second.wakeup.wait_to_say("no other host wakes these groups now");
    nsqd.publish("foo", b"x");
    second.doors.wait_for_poke("1.sock");
    assert_eq!(second.told.metric("mqueue_wakeup_heard_total"), 1.0);
    // it comes back, and waits its turn
    let back = Host::with(Doors::new(&["1.sock"]), &nsqd, "first", &format!("{flags} --weight 1000"));
    wait_for_acquaintance(&[&back, &second]);
    back.doors.wait_for_poke("1.sock");
    let said = back.wakeup.stderr();
    let (knows, pokes) = (said.find("2 hosts wake these groups now"), said.find("poked: "));
    assert!(knows.is_some() && knows < pokes, "it poked before it knew the other: {said}");
}

#[test]
fn numbered_sockets_count_over_all_hosts() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let flags = "--per-consumer 10 --poll-interval 1s";
    let sockets = ["1@1.sock", "1@2.sock", "1@3.sock", "1@4.sock"];
    let a = Host::start(&nsqd, "a", &sockets, flags);
    let b = Host::start(&nsqd, "b", &sockets, &format!("{flags} --max-consumers 2"));
    wait_for_acquaintance(&[&a, &b]);
    nsqd.publish_lines("foo", "x\n".repeat(31).as_bytes());
    let poked = |host: &Host| host.doors.all_pokes().iter().filter(|pokes| **pokes > 0).count();
    wait_until("four sockets are poked", || poked(&a) + poked(&b) >= 4);
    // no consumer comes, so that further sockets have their turn, but no more than this host may use
    wait_until("all sockets are poked", || poked(&a) == 4 && poked(&b) == 2);
    assert_eq!(b.doors.pokes("1@3.sock") + b.doors.pokes("1@4.sock"), 0);
}

#[test]
fn invalid_flags_are_refused() {
    for (flags, words) in [
        ("--weight 1001", "use a whole number from 0 to 1000"),
        ("--weight -1", "--weight"),
        ("--max-consumers 0", "--max-consumers"),
        ("--hostname a/b", "use letters, digits, dots, dashes and underscores"),
    ] {
        let ran = mqueue(&format!("wakeup --once {flags}")).run();
        assert_eq!(ran.code, Some(2), "{flags}: {ran:?}");
        assert!(ran.stderr.contains(words), "{flags}: {}", ran.stderr);
    }
}

#[test]
fn three_hosts_watch_a_thousand_groups_at_little_cost() {
    needs!("nsqd");
    const STREAMS: usize = 200;
    const REST: Duration = Duration::from_secs(10);
    let nsqd = Nsqd::start();
    let groups: Vec<(String, String)> = (0..1000).map(|n| (format!("s{}", n / 5), format!("g{n}"))).collect();
    groups.iter().for_each(|(stream, group)| nsqd.create(stream, group));
    let names: Vec<String> = groups.iter().map(|(_, group)| format!("{group}.sock")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hosts = ["a", "b", "c"].map(|name| Host::start(&nsqd, name, &names, "--log warn,mqueue::commands=info"));
    let hosts: Vec<&Host> = hosts.iter().collect();
    wait_for_acquaintance(&hosts);
    let subscriptions = |host: &&Host| host.told.metric("mqueue_wakeup_subscriptions");
    // a host listens to the streams of the groups that it is the first to wake
    wait_until("the streams are listened to", || {
        hosts.iter().map(subscriptions).all(|count| (130.0..=STREAMS as f64).contains(&count))
    });
    let before: Vec<Duration> = hosts.iter().map(|host| processor_time(host.wakeup.pid())).collect();
    let start = Instant::now();
    wait_within(2 * REST, "the measured time", || start.elapsed() >= REST);
    for (host, before) in hosts.iter().zip(before) {
        let used = processor_time(host.wakeup.pid()) - before;
        let share = 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64();
        let megabytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
        let (rss, own) = (megabytes(host.wakeup.rss()), megabytes(host.wakeup.own_memory()));
        eprintln!("one of three hosts, 1,000 groups: RSS {rss:.1} MB ({own:.1} its own), {share:.2} % of a core");
        assert!(own <= 16.0, "{own} MB");
        if is_optimised() {
            assert!(own <= 12.0 && rss <= 25.0 && share <= 1.0, "{own} MB of {rss} MB, {share} %");
        }
    }
}
