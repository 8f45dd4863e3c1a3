//! `mqueue node` on real brokers: one node generates, whatever becomes of it, and the others go on.

mod fleet;

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;

use self::fleet::{Fleet, Judge, node};
use crate::support::{Nsqd, Told, mqueue, needs, wait_until};

/// What can happen to a generator.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Stopped,
    CutOff,
}

/// Ends the generator so many times, and looks at all events in the end.
fn ends(rounds: usize) {
    let nsqd = Nsqd::with_channel("foo.token", "token");
    let judge = Judge::of(&nsqd);
    let mut fleet = Fleet::start(&nsqd, 5, 1, "--interval 20ms --invalid 0.2");
    let mut times = Vec::new();
    for round in 0..rounds {
        let (generator, epoch) = fleet.generator();
        judge.wait_for_more(10);
        let before = handled(&nsqd);
        let end = [End::Killed, End::Stopped, End::CutOff][round % 3];
        match end {
            End::Killed => fleet.nodes[generator].signal(Signal::SIGKILL),
            End::Stopped => fleet.nodes[generator].signal(Signal::SIGSTOP),
            End::CutOff => fleet.wires[generator].cut(),
        }
        let time = fleet.wait_for_generator_after(epoch);
        assert!(time < Duration::from_secs(10), "{end:?}: taken over after {time:?}");
        times.push(time);
        match end {
            End::Killed => fleet.replace(generator),
            End::Stopped => fleet.nodes[generator].signal(Signal::SIGCONT),
            End::CutOff => fleet.wires[generator].mend(),
        }
        wait_until("consumers to go on", || handled(&nsqd) > before + 10);
    }
    fleet.end();
    let verdict = judge.verdict(&nsqd);
    assert!(verdict.epochs > rounds && verdict.events > 10 * rounds, "{verdict:?}");
    let begun = fleet.epochs();
    let distinct: HashSet<u64> = begun.iter().copied().collect();
    assert_eq!(distinct.len(), begun.len(), "each epoch is one node's: {begun:?}");
    assert!(verdict.epochs <= distinct.len(), "{verdict:?} of {begun:?}");
    let dead = nsqd.published("foo.dead");
    let broker = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let letters = mqueue(&format!("errors --stream foo --get --yes {broker}")).run();
    assert_eq!((letters.code, letters.stdout.lines().count() as u64), (Some(0), dead), "{}", letters.stderr);
    assert!(dead > 0);
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "{rounds} ends, taken over after {median:.2?} (median), {most:.2?} (most), lease 1 s; {verdict:?}, {dead} dead letters"
    );
}

/// Events that have left the consumers' queue.
fn handled(nsqd: &Nsqd) -> i64 {
    let group = nsqd.channel("foo", "1");
    i64::try_from(group.message_count).expect("few") - group.depth - group.in_flight_count - group.deferred_count
}

#[test]
fn one_node_generates_whatever_becomes_of_it() {
    needs!("nsqd");
    ends(5);
}

#[test]
#[ignore = "takes two minutes, and prints figures"]
fn one_node_generates_thirty_ends() {
    needs!("nsqd");
    ends(30);
}

#[test]
fn a_generator_hands_over_at_once_when_it_is_time_or_when_it_is_to_end() {
    needs!("nsqd");
    let nsqd = Nsqd::with(&["--max-msg-timeout=16s"]);
    let judge = Judge::of(&nsqd);
    let mut fleet = Fleet::start(&nsqd, 3, 2, "--interval 20ms");
    let (_, first) = fleet.generator();
    fleet.wait_for_generator_after(first);
    let (generator, second) = fleet.generator();
    judge.wait_for_more(100);
    fleet.nodes[generator].signal(Signal::SIGTERM);
    fleet.wait_for_generator_after(second);
    judge.wait_for_more(5);
    fleet.end();
    let verdict = judge.verdict(&nsqd);
    assert!(verdict.epochs >= 3, "{verdict:?}");
    assert!(verdict.longest_gap < Duration::from_millis(1900), "less than a lease: {verdict:?}");
}

#[test]
fn a_token_that_is_lost_with_nsqds_memory_is_made_again() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    let mut fleet = Fleet::start(&nsqd, 2, 1, "--interval 20ms");
    let (_, first) = fleet.generator();
    nsqd.kill();
    nsqd.start_again();
    let judge = Judge::of(&nsqd);
    fleet.wait_for_generator_after(first);
    judge.wait_for_more(20);
    fleet.end();
    assert_eq!(judge.verdict(&nsqd).epochs, 1);
    let token = nsqd.channel("foo.token", "token");
    assert_eq!(token.depth + token.in_flight_count, 1, "one token");
}

#[test]
fn a_fleet_with_other_settings_is_told_so_and_the_first_goes_on() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let judge = Judge::of(&nsqd);
    let mut fleet = Fleet::start(&nsqd, 2, 1, "--interval 20ms");
    fleet.generator();
    for other in ["--stream foo --ping-interval 2", "--stream bar --token-stream foo.token --ping-interval 1"] {
        let refused = node(&nsqd.tcp(), &nsqd, &format!("--group 1 {other}")).run();
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        for words in ["other settings", "stream foo, ping interval 1s", "--token-stream"] {
            assert!(refused.stderr.contains(words), "{words:?} is not in {}", refused.stderr);
        }
    }
    judge.wait_for_more(20);
    fleet.end();
    assert_eq!(judge.verdict(&nsqd).epochs, 1);
    assert_eq!(nsqd.published("bar"), 0);
}

#[test]
fn a_node_tells_its_figures_as_expvar_does_and_obeys_the_seeds_environment() {
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
    // somebody else's messages harm nobody
    for garbage in [&b"garbage"[..], b"{}", b"[[[[", &[0xff; 100]] {
        nsqd.publish("foo.token", garbage);
        nsqd.publish("foo.token.beats", garbage);
    }
    wait_until("garbage to be told", || {
        generator.times_said("that is no token") == 4 && generator.times_said("is no beat") == 4
    });
    // its port is taken: it works all the same
    let port = told.address().rsplit(':').next().unwrap();
    let second = node(&nsqd.tcp(), &nsqd, "--stream foo --group 1 --ping-interval 1").env("MPORT", port).start();
    second.wait_to_say("choose another with MPORT");
    nsqd.wait_for_clients("foo", "1", 1);
    wait_until("events to be handled", || handled(&nsqd) > 5);
}

#[test]
fn what_cannot_work_is_said_at_once() {
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
fn a_node_runs_without_settings_and_names_those_that_it_does_not_use() {
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
    node.signal(Signal::SIGTERM);
    assert_eq!(node.finish().code, Some(0));
}

#[test]
fn a_generator_that_waits_says_so() {
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
