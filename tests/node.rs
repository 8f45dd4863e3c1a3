//! `mqueue node` on real brokers: exactly one node generates under crashes, pauses and disconnects.

mod fleet;
mod redis;

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;

use self::fleet::{EventAuditor, Fleet, node};
use crate::support::{Mqueue, Nsqd, Told, mqueue, needs, wait_until};

/// A fault of a generator.
#[derive(Debug, Clone, Copy)]
enum GeneratorFault {
    Killed,
    Stopped,
    Disconnected,
}

/// Injects `rounds` faults into the generator, and checks all events at the end.
fn inject_faults(rounds: usize) {
    let nsqd = Nsqd::with_channel("foo.token", "token");
    let auditor = EventAuditor::of(&nsqd);
    let mut fleet = Fleet::start(&nsqd, 5, 1, "--interval 20ms --invalid 0.2");
    let mut times = Vec::new();
    for round in 0..rounds {
        let (generator, epoch) = fleet.generator();
        auditor.wait_for_more(10);
        let before = handled(&nsqd);
        let fault = [GeneratorFault::Killed, GeneratorFault::Stopped, GeneratorFault::Disconnected][round % 3];
        match fault {
            GeneratorFault::Killed => fleet.nodes[generator].signal(Signal::SIGKILL),
            GeneratorFault::Stopped => fleet.nodes[generator].signal(Signal::SIGSTOP),
            GeneratorFault::Disconnected => fleet.proxies[generator].cut(),
        }
        let time = fleet.wait_for_generator_after(epoch);
        assert!(time < Duration::from_secs(10), "{fault:?}: taken over after {time:?}");
        times.push(time);
        match fault {
            GeneratorFault::Killed => fleet.replace(generator),
            GeneratorFault::Stopped => fleet.nodes[generator].signal(Signal::SIGCONT),
            GeneratorFault::Disconnected => fleet.proxies[generator].mend(),
        }
        wait_until("consumers to go on", || handled(&nsqd) > before + 10);
    }
    fleet.end();
    let summary = auditor.summary(&nsqd);
    assert!(summary.epochs > rounds && summary.events > 10 * rounds, "{summary:?}");
    let begun = fleet.epochs();
    let distinct: HashSet<u64> = begun.iter().copied().collect();
    assert_eq!(distinct.len(), begun.len(), "each epoch is one node's: {begun:?}");
    assert!(summary.epochs <= distinct.len(), "{summary:?} of {begun:?}");
    let dead = nsqd.published("foo.dead");
    let broker = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let letters = mqueue(&format!("errors --stream foo --get --yes {broker}")).run();
    assert_eq!((letters.code, letters.stdout.lines().count() as u64), (Some(0), dead), "{}", letters.stderr);
    assert!(dead > 0);
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "{rounds} faults, taken over after {median:.2?} (median), {most:.2?} (most), lease 1 s; {summary:?}, {dead} dead letters"
    );
}

/// The number of events that the consumers have finished.
fn handled(nsqd: &Nsqd) -> i64 {
    let group = nsqd.channel("foo", "1");
    i64::try_from(group.message_count).expect("few") - group.depth - group.in_flight_count - group.deferred_count
}

#[test]
fn exactly_one_node_generates_under_faults() {
    needs!("nsqd");
    inject_faults(5);
}

#[test]
#[ignore = "takes two minutes, and prints figures"]
fn exactly_one_node_generates_under_thirty_faults() {
    needs!("nsqd");
    inject_faults(30);
}

#[test]
fn a_generator_hands_over_at_once_at_its_limit_and_at_shutdown() {
    needs!("nsqd");
    let nsqd = Nsqd::with(&["--max-msg-timeout=16s"]);
    let auditor = EventAuditor::of(&nsqd);
    let mut fleet = Fleet::start(&nsqd, 3, 2, "--interval 20ms");
    let (_, first) = fleet.generator();
    fleet.wait_for_generator_after(first);
    let (generator, second) = fleet.generator();
    // 5 s: a release is accepted from a node whose heartbeats came for a whole lease
    auditor.wait_for_more(250);
    fleet.nodes[generator].signal(Signal::SIGTERM);
    fleet.wait_for_generator_after(second);
    auditor.wait_for_more(5);
    fleet.end();
    let summary = auditor.summary(&nsqd);
    assert!(summary.epochs >= 3, "{summary:?}");
    assert!(summary.longest_gap < Duration::from_millis(1900), "less than a lease: {summary:?}");
}

#[test]
fn a_token_lost_with_nsqds_memory_is_published_again() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    let mut fleet = Fleet::start(&nsqd, 2, 1, "--interval 20ms");
    let (_, first) = fleet.generator();
    nsqd.kill();
    nsqd.start_again();
    let auditor = EventAuditor::of(&nsqd);
    fleet.wait_for_generator_after(first);
    auditor.wait_for_more(20);
    fleet.end();
    assert_eq!(auditor.summary(&nsqd).epochs, 1);
    assert_eq!(tokens(&nsqd), 1, "one token");
}

#[test]
fn nodes_with_other_settings_cause_a_warning_and_the_first_fleet_continues() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let auditor = EventAuditor::of(&nsqd);
    let mut fleet = Fleet::start(&nsqd, 2, 1, "--interval 20ms");
    fleet.generator();
    for (other, theirs) in [
        ("--stream foo --ping-interval 2", "stream foo, ping interval 2s"),
        ("--stream bar --token-stream foo.token --ping-interval 1", "stream bar, ping interval 1s"),
    ] {
        let newcomer = node(&nsqd.tcp(), &nsqd, &format!("--group 1 {other}")).start();
        newcomer.wait_to_say("nodes with other settings use foo.token");
        for words in ["(stream foo, ping interval 1s;", &format!("here: {theirs})"), "--token-stream"] {
            assert!(newcomer.stderr().contains(words), "{words:?} is not in {}", newcomer.stderr());
        }
        auditor.wait_for_more(150);
        assert_eq!(newcomer.times_said(" generating epoch="), 0, "{}", newcomer.stderr());
        newcomer.signal(Signal::SIGTERM);
        let ended = newcomer.finish();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!((1..=2).contains(&ended.stderr.matches("with other settings").count()), "{}", ended.stderr);
    }
    // checked before the end, when one node may hand over to the other
    assert_eq!(fleet.epochs().len(), 1, "{}", fleet.nodes.iter().map(Mqueue::stderr).collect::<String>());
    fleet.end();
    auditor.summary(&nsqd);
    assert_eq!(nsqd.published("bar"), 0);
}

#[test]
fn a_fleet_restarted_with_another_ping_interval_replaces_its_token() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let mut fleet = Fleet::start(&nsqd, 1, 2, "--interval 20ms");
    let (_, epoch) = fleet.generator();
    fleet.end();
    let fleet = Fleet::start(&nsqd, 2, 1, "--interval 20ms");
    fleet.wait_for_generator_after(epoch);
    wait_until("one token", || tokens(&nsqd) == 1);
}

/// The number of tokens of the fleet of `foo`: queued, in flight or deferred.
fn tokens(nsqd: &Nsqd) -> i64 {
    let token = nsqd.channel("foo.token", "token");
    token.depth + token.in_flight_count + token.deferred_count
}

/// Forged heartbeats, as lines, made from a real one.
fn forged_heartbeats(heard: &str) -> String {
    let with = |changes: &[(&str, serde_json::Value)]| {
        let mut beat: serde_json::Value = serde_json::from_str(heard).expect("a beat");
        changes.iter().for_each(|(name, value)| beat[*name] = value.clone());
        format!("{beat}\n")
    };
    let forger = || ("node", serde_json::Value::from("forger"));
    let delivery = serde_json::from_str::<serde_json::Value>(heard).expect("a beat")["delivery"].as_u64().expect("few");
    [
        with(&[
            forger(),
            ("token", "0000000000000000".into()),
            ("charter", serde_json::json!({"stream": "x", "lease_ms": 7})),
        ]),
        with(&[forger(), ("charter", serde_json::json!({"stream": "foo", "lease_ms": u64::MAX}))]),
        with(&[forger(), ("token", "0000000000000000".into()), ("role", "leading".into())]),
        with(&[forger(), ("token", "ffffffffffffffff".into()), ("role", "leading".into())]),
        with(&[forger(), ("delivery", (delivery + 1).into()), ("role", "claiming".into())]),
        with(&[forger(), ("delivery", (delivery + 1).into()), ("role", "leading".into())]),
        with(&[forger(), ("role", "released".into()), ("seal", "x".into())]),
        with(&[forger(), ("epoch", ((1_u64 << 53) - 1).into())]),
        with(&[("role", "released".into())]),
        with(&[]),
    ]
    .concat()
}

#[test]
fn forged_heartbeats_do_not_stop_a_fleet() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let auditor = EventAuditor::of(&nsqd);
    let mut fleet = Fleet::start(&nsqd, 3, 1, "--interval 20ms");
    wait_until("one token, of two at times", || fleet.epochs().len() == 1 && tokens(&nsqd) == 1);
    let ((generator, first), made) = (fleet.generator(), nsqd.published("foo.token"));
    let broker = format!("--nsqd-tcp-address {}", nsqd.tcp());
    let heard =
        mqueue(&format!("consumer --stream foo.token.beats --group spy --count 1 --output body {broker}")).run();
    assert_eq!(heard.code, Some(0), "{}", heard.stderr);
    let lines = forged_heartbeats(heard.stdout.trim_end());
    let mut producer = mqueue(&format!("producer --stream foo.token.beats {broker}")).with_stdin().start();
    let mut stdin = producer.stdin();
    let (goes_on, ends) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        while ends.recv_timeout(Duration::from_millis(50)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            std::io::Write::write_all(&mut stdin, lines.as_bytes()).expect("the producer reads");
        }
    });
    for node in &fleet.nodes {
        node.wait_to_say("with other settings");
    }
    auditor.wait_for_more(100);
    assert!(!fleet.nodes[generator].stderr().contains("no longer generating"), "the holder goes on");
    fleet.nodes[generator].signal(Signal::SIGKILL);
    fleet.wait_for_generator_after(first);
    auditor.wait_for_more(100);
    drop(goes_on);
    writing.join().expect("it wrote to the end");
    assert_eq!(producer.finish().code, Some(0));
    let others = fleet.nodes.iter_mut().enumerate().filter(|(at, _)| *at != generator);
    others.for_each(|(_, node)| assert!(!node.has_ended(), "{}", node.stderr()));
    let second = *fleet.epochs().iter().max().expect("two");
    assert!(first < second && second < first + 3_600_000, "{first} {second}");
    assert_eq!((nsqd.published("foo.token"), tokens(&nsqd)), (made, 1), "one token, as before");
    fleet.end();
    auditor.summary(&nsqd);
}

#[test]
fn a_stopped_fleet_leaves_its_token_and_continues_with_it() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), tempfile::tempdir().expect("a temporary folder"));
    let mut last = 0;
    for end in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut fleet = Fleet::start(&nsqd, 3, 1, "--interval 20ms --invalid 0");
        fleet.wait_for_generator_after(last);
        (_, last) = fleet.generator();
        // two nodes may have published one each
        wait_until("one token", || tokens(&nsqd) == 1);
        fleet.end_by(end);
        wait_until("the token in its group", || nsqd.channel("foo.token", "token").depth == 1);
        let folder = sockets.path().display();
        let addresses = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
        let told =
            mqueue(&format!("doctor --json --socket-dir {folder} {addresses}")).env("PATH", &folder.to_string()).run();
        let report: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("a list");
        let of_the_token = |it: &&serde_json::Value| it["subject"].as_str().is_some_and(|it| it.contains("foo.token"));
        let found: Vec<_> = findings.iter().filter(of_the_token).collect();
        assert_eq!(found.len(), 1, "{end}: {report:#}");
        assert_eq!((&found[0]["level"], &found[0]["fix"]), (&"ok".into(), &serde_json::Value::Null), "{end}");
        assert!(
            found[0]["message"].as_str().is_some_and(|what| what.contains("the token of a fleet")),
            "{end}: {report:#}"
        );
        let fixes: Vec<_> = findings.iter().filter_map(|it| it["fix"].as_str()).collect();
        assert!(!fixes.iter().any(|fix| fix.contains("foo.token")), "{end}: {fixes:?}");
        assert_eq!(tokens(&nsqd), 1, "{end}: doctor took it");
    }
    let made = nsqd.published("foo.token");
    let fleet = Fleet::start(&nsqd, 1, 1, "--interval 20ms");
    fleet.wait_for_generator_after(last);
    assert_eq!((nsqd.published("foo.token"), tokens(&nsqd)), (made, 1), "the same token");
}

#[test]
fn a_node_handles_messages_redriven_to_its_group() {
    needs!("nsqd");
    let nsqd = Nsqd::real(&[]);
    nsqd.create("foo", "1");
    nsqd.create("foo", "2");
    nsqd.publish("foo", b"no event");
    let node = node(&nsqd.tcp(), &nsqd, "--stream foo --group 1 --ping-interval 100").start();
    wait_until("a dead letter", || nsqd.published("foo.dead") == 1);
    let addresses = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let back = mqueue(&format!("errors --stream foo --redrive --yes {addresses}")).run();
    assert_eq!(back.code, Some(0), "{}", back.stderr);
    node.wait_to_say("reading messages redriven to this group");
    wait_until("it to be a dead letter again", || nsqd.published("foo.dead") == 2);
}

#[test]
fn a_node_serves_expvar_counters_and_reads_its_environment_variables() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let generator = mqueue("node")
        .env("STREAM", "foo")
        .env("GROUP", "1")
        .env("MODE", "generator")
        .env("MPORT", "0")
        .env("GENERATOR_PING_INTERVAL", "1")
        .env("GENERATOR_INTERVAL", "10")
        .env("CONSUMER_MAX_GOROUTINES", "7")
        .env("NSQD_TCP_ADDRESS", &nsqd.tcp())
        .env("NSQD_HTTP_ADDRESS", &nsqd.http())
        .start();
    let told = Told::by(&generator);
    let vars = || -> serde_json::Value { serde_json::from_str(&told.get("/debug/vars").1).unwrap() };
    wait_until("20 events", || vars()["mqueue"]["published"].as_u64() >= Some(20));
    let vars = vars();
    assert_eq!(vars["mqueue"]["mode"], "generator");
    assert!(vars["cmdline"].is_array() && vars["memstats"]["Alloc"].is_u64(), "{vars}");
    assert!(nsqd.channels("foo").is_empty(), "a generator does not consume");
    // foreign messages are removed, and the warnings about them are rate-limited
    for garbage in [&b"garbage"[..], b"{}", b"[[[[", &[0xff; 100]].into_iter().cycle().take(12) {
        nsqd.publish("foo.token", garbage);
        nsqd.publish("foo.token.beats", garbage);
    }
    for words in ["that is not a token", "that is not a heartbeat"] {
        let told =
            || generator.stderr().lines().filter(|line| line.contains(words)).map(str::to_owned).collect::<Vec<_>>();
        wait_until("a warning about garbage", || told().iter().any(|line| line.contains("count=10")));
        assert_eq!(told().len(), 2, "{:?}", told());
    }
    // a node whose port is taken works without it
    let port = told.address().rsplit(':').next().unwrap();
    let second = node(&nsqd.tcp(), &nsqd, "--stream foo --group 1 --ping-interval 1").env("MPORT", port).start();
    second.wait_to_say("choose another with MPORT");
    nsqd.wait_for_clients("foo", "1", 1);
    wait_until("events to be handled", || handled(&nsqd) > 5);
}

#[test]
fn invalid_settings_are_refused_at_start() {
    needs!("nsqd");
    let nsqd = Nsqd::with(&["--max-msg-timeout=5s"]);
    for (args, code, words) in [
        ("--stream foo --group 1 --ping-interval 1", 2, "--ping-interval"),
        ("--stream foo --group 1 --ping-interval 6", 2, "--ping-interval"),
        ("--stream foo --group 1 --interval 0", 2, "--interval"),
        ("--stream foo --group 1 --invalid 2", 2, "--invalid"),
    ] {
        let refused = node(&nsqd.tcp(), &nsqd, args).run();
        assert_eq!(refused.code, Some(code), "{args}: {}", refused.stderr);
        assert!(refused.stderr.contains(words), "{args}: {}", refused.stderr);
    }
    let long = "s".repeat(55);
    let refused = node(&nsqd.tcp(), &nsqd, &format!("--stream {long} --group 1")).run();
    assert!(refused.code == Some(2) && refused.stderr.contains("--token-stream"), "{}", refused.stderr);
    for (known, words) in [
        ("--lookupd-http-address 127.0.0.1:1", "--token-nsqd-tcp-address"),
        ("--nsqd-tcp-address 127.0.0.1:1", "--token-nsqd-http-address"),
    ] {
        let refused = mqueue(&format!("node --stream foo --group 1 {known}")).run();
        assert!(refused.code == Some(2) && refused.stderr.contains(words), "{known}: {}", refused.stderr);
    }
    let gone = node("127.0.0.1:1", &nsqd, "--stream foo --group 1").run();
    assert_eq!((gone.code, gone.stderr.lines().count()), (Some(69), 1), "{}", gone.stderr);
}

#[test]
fn a_node_runs_without_flags_and_warns_about_unused_variables() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let node = mqueue("node")
        .env("MPORT", "0")
        .env("NSQD_TCP_ADDRESS", &nsqd.tcp())
        .env("NSQD_HTTP_ADDRESS", &nsqd.http())
        .env("REDIS_URL", "redis.internal:6379")
        .env("REDIS_POOL_SIZE", "100")
        .start();
    nsqd.wait_for_clients("a", "1", 1);
    assert_eq!(node.times_said("not used: REDIS_URL, REDIS_POOL_SIZE:"), 1);
    assert_eq!(node.times_said("redis.internal"), 0);
    nsqd.publish("a", b"no event");
    wait_until("a dead letter", || nsqd.published("a.dead") == 1);
    node.signal(Signal::SIGTERM);
    assert_eq!(node.finish().code, Some(0));
}

#[test]
fn a_waiting_generator_logs_and_reports_that() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("a.token", "token");
    let generator = || node(&nsqd.tcp(), &nsqd, "--mode generator --ping-interval 1").start();
    let mode = |told: &Told| -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&told.get("/debug/vars").1).unwrap()["mqueue"]["mode"].clone()
    };
    let first = generator();
    wait_until("the first to generate", || first.times_said(" generating epoch=") == 1);
    let second = generator();
    let (first_told, second_told) = (Told::by(&first), Told::by(&second));
    assert_eq!((mode(&first_told), mode(&second_told)), ("generator".into(), "waiting".into()));
    wait_until("both to have said it", || {
        [&first, &second].iter().all(|node| node.times_said("waiting to generate") == 1)
    });
    first.signal(Signal::SIGTERM);
    wait_until("the second to generate", || mode(&second_told) == "generator");
}
