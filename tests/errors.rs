//! `mqueue errors` on a real broker: letters are listed, printed, redriven and dropped, and none is
//! lost.

use nix::sys::signal::Signal;

use crate::support::{Doors, Finished, Mqueue, Nsqd, at_once_on, consumer, mqueue, needs, wait_until};

/// Makes `count` dead letters of `foo`, with the bodies `body 0`, `body 1` …
fn given_up(count: usize) -> Nsqd {
    let nsqd = Nsqd::start();
    let lines: String = (0..count).map(|n| format!("body {n}\n")).collect();
    nsqd.publish_lines("foo", lines.trim_end().as_bytes());
    let args = format!("--handler exec:false --max-attempts 1 --count {count}");
    let gone = consumer(&nsqd.tcp(), &args).run();
    assert_eq!(gone.code, Some(5), "{}", gone.stderr);
    assert_eq!(nsqd.published("foo.dead"), count as u64);
    nsqd
}

fn errors(nsqd: &Nsqd, args: &str) -> Mqueue {
    mqueue(&format!("errors --stream foo --nsqd-tcp-address {} --nsqd-http-address {} {args}", nsqd.tcp(), nsqd.http()))
}

#[track_caller]
fn done(nsqd: &Nsqd, args: &str) -> Finished {
    let finished = errors(nsqd, args).run();
    assert_eq!(finished.code, Some(0), "{args}: {}", finished.stderr);
    finished
}

/// The lines of the output, sorted.
fn sorted(finished: &Finished) -> Vec<String> {
    let mut lines: Vec<String> = finished.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn letters_are_listed_with_their_reasons_and_stay() {
    needs!("nsqd");
    let nsqd = given_up(3);
    for _ in 0..2 {
        let list = done(&nsqd, "");
        assert_eq!(list.stdout.lines().count(), 3, "{}", list.stdout);
        for words in ["\"body 0\"", "group 1, 1 attempt,", "exit status 1"] {
            assert!(list.stdout.contains(words), "no {words} in {}", list.stdout);
        }
        assert!(list.stderr.contains("3 of 3 letters"), "{}", list.stderr);
    }
    let json = done(&nsqd, "--json --limit 1");
    let letter: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&letter["stream"], &letter["attempts"]), (&"foo".into(), &1.into()));
    assert!(letter["body"].as_str().unwrap().starts_with("body "), "{letter}");
    wait_until("all to be back", || nsqd.channel("foo.dead", "errors").depth == 3);
}

#[test]
fn letters_are_printed_and_removed() {
    needs!("nsqd");
    let nsqd = given_up(250);
    let got = done(&nsqd, "--get --yes");
    let mut expected: Vec<String> = (0..250).map(|n| format!("body {n}")).collect();
    expected.sort();
    assert_eq!(sorted(&got), expected);
    nsqd.wait_for_empty("foo.dead", "errors");
    let none = done(&nsqd, "--get --yes");
    assert!(none.stdout.is_empty() && none.stderr.contains("no dead letters of foo"), "{}", none.stderr);
}

#[test]
fn letters_that_cannot_be_printed_stay() {
    needs!("nsqd");
    let nsqd = given_up(3);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let failed = errors(&nsqd, "--get --yes").with_stdout(full).run();
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("still there"), "{}", failed.stderr);
    wait_until("all to be back", || nsqd.channel("foo.dead", "errors").depth == 3);
}

#[test]
fn redrive_publishes_letters_to_their_stream() {
    needs!("nsqd");
    let nsqd = given_up(20);
    nsqd.publish("foo.dead", b"somebody else's");
    let dry = done(&nsqd, "--redrive --dry-run --filter body");
    assert!(dry.stderr.contains("would redrive"), "{}", dry.stderr);
    let some = done(&nsqd, "--redrive --yes --filter body");
    assert!(some.stderr.contains("20 published again, 1 left"), "{}", some.stderr);
    let back = consumer(&nsqd.tcp(), "--output body --count 20").run();
    let mut expected: Vec<String> = (0..20).map(|n| format!("body {n}")).collect();
    expected.sort();
    assert_eq!(sorted(&back), expected);
    assert_eq!(nsqd.published("foo"), 40);
    wait_until("the other one to be back", || {
        let left = nsqd.channel("foo.dead", "errors");
        (left.depth + left.deferred_count, left.in_flight_count) == (1, 0)
    });
}

#[test]
fn only_letters_that_match_the_filter_are_dropped() {
    needs!("nsqd");
    let nsqd = given_up(12);
    let dropped = done(&nsqd, "--drop --yes --filter 1");
    // all are of group 1
    assert!(dropped.stderr.contains("12 dropped, 0 left"), "{}", dropped.stderr);
    let nsqd = given_up(12);
    let dropped = done(&nsqd, "--drop --yes --filter 9");
    assert!(dropped.stderr.contains("1 dropped, 11 left"), "{}", dropped.stderr);
}

#[test]
fn an_interrupted_redrive_loses_nothing() {
    needs!("nsqd");
    let nsqd = given_up(30);
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let before = nsqd.published("foo");
        let redrive = errors(&nsqd, "--redrive --yes --rate 20").start();
        wait_until("some to be published", || nsqd.published("foo") > before + 2);
        redrive.signal(signal);
        let ended = redrive.finish();
        let said = ended.stderr.contains("published again, the rest is still there");
        assert_eq!((ended.code, said), if signal == Signal::SIGINT { (Some(130), true) } else { (None, false) });
    }
    wait_until("all to be back", || nsqd.channel("foo.dead", "errors").in_flight_count == 0);
    done(&nsqd, "--redrive --yes");
    let args = "--output body --timeout 2";
    let all = consumer(&nsqd.tcp(), args).run();
    let distinct: std::collections::HashSet<&str> = all.stdout.lines().collect();
    assert_eq!(distinct.len(), 30, "{}", all.stdout);
}

#[test]
fn without_a_terminal_actions_need_yes() {
    needs!("nsqd");
    let nsqd = given_up(2);
    for action in ["--get", "--redrive", "--drop"] {
        let refused = errors(&nsqd, action).run();
        assert_eq!(refused.code, Some(2), "{action}");
        assert!(refused.stderr.contains("of 2 in all") && refused.stderr.contains("--yes"), "{}", refused.stderr);
    }
    assert_eq!(errors(&nsqd, "--get --drop").run().code, Some(2));
    assert_eq!(errors(&nsqd, "--rate 0 --redrive").run().code, Some(2));
    let gone = mqueue("errors --stream foo --nsqd-tcp-address 127.0.0.1:1 --nsqd-http-address 127.0.0.1:1").run();
    assert_eq!((gone.code, gone.stderr.lines().count()), (Some(69), 1), "{}", gone.stderr);
}

/// Makes three dead letters of `foo` in group 1; group 2 has handled the messages.
fn given_up_by_one_of_two(nsqd: Nsqd) -> Nsqd {
    nsqd.create("foo", "1");
    nsqd.create("foo", "2");
    nsqd.publish_lines("foo", b"a\nb\nc");
    let handled = mqueue(&format!("consumer --stream foo --group 2 --count 3 --nsqd-tcp-address {}", nsqd.tcp())).run();
    assert_eq!(handled.code, Some(0), "{}", handled.stderr);
    let gone = consumer(&nsqd.tcp(), "--handler exec:false --max-attempts 1 --count 3").run();
    assert_eq!(gone.code, Some(5), "{}", gone.stderr);
    nsqd
}

#[test]
fn mqueues_broker_redrives_letters_to_a_single_group() {
    let mut broker = given_up_by_one_of_two(Nsqd::embedded(&[]));
    let back = done(&broker, "--redrive --yes");
    assert!(back.stderr.contains("3 published again, 0 left"), "{}", back.stderr);
    assert_eq!((broker.channel("foo", "1").depth, broker.channel("foo", "2").depth), (3, 0));
    assert_eq!(broker.channel("foo", "2").message_count, 3, "the other group never gets them again");
    // they are in the log like any message
    broker.kill();
    broker.start_again();
    assert_eq!((broker.channel("foo", "1").depth, broker.channel("foo", "2").depth), (3, 0));
    let again = consumer(&broker.tcp(), "--output body --count 3").run();
    assert_eq!(sorted(&again), ["a", "b", "c"]);
    broker.wait_for_empty("foo", "1");
}

/// A consumer of group 1 that also knows nsqd's HTTP address.
fn of_group_1(nsqd: &Nsqd, args: &str) -> Mqueue {
    consumer(&nsqd.tcp(), &format!("--nsqd-http-address {} {args}", nsqd.http()))
}

/// The stream for letters redriven to group 1 of foo alone, if there is one.
fn retries(nsqd: &Nsqd) -> Option<String> {
    nsqd.stats().topics.into_iter().map(|topic| topic.topic_name).find(|name| name.ends_with(".retry"))
}

#[test]
fn nsqd_redrives_letters_to_a_single_group_by_a_separate_stream() {
    needs!("nsqd");
    let nsqd = given_up_by_one_of_two(Nsqd::real(&[]));
    let dry = done(&nsqd, "--redrive --dry-run");
    assert!(dry.stderr.contains("would redrive 3 of 3 letters: 3 to group 1 by stream foo.1."), "{}", dry.stderr);
    assert_eq!(retries(&nsqd), None, "a dry run changes nothing");
    let published = nsqd.published("foo");
    let back = done(&nsqd, "--redrive --yes");
    assert!(back.stderr.contains("3 published again, 0 left"), "{}", back.stderr);
    let retries = retries(&nsqd).unwrap();
    assert_eq!((nsqd.published("foo"), nsqd.channels(&retries)), (published, vec!["1".to_owned()]));
    assert_eq!(nsqd.channel(&retries, "1").depth, 3);
    // a message that fails there becomes a dead letter of foo
    let failed = of_group_1(&nsqd, "--handler exec:false --max-attempts 1 --count 3").run();
    assert_eq!(failed.code, Some(5), "{}", failed.stderr);
    nsqd.wait_for_empty(&retries, "1");
    done(&nsqd, "--redrive --yes");
    let again = of_group_1(&nsqd, "--output body --timeout 1").run();
    assert_eq!(
        (again.code, sorted(&again)),
        (Some(0), ["a", "b", "c"].map(str::to_owned).to_vec()),
        "{}",
        again.stderr
    );
    assert_eq!(nsqd.published(&format!("{retries}.dead")), 0);
}

#[test]
fn a_running_consumer_receives_letters_redriven_to_its_group() {
    needs!("nsqd");
    let nsqd = given_up_by_one_of_two(Nsqd::real(&[]));
    let running = of_group_1(&nsqd, "--output body --count 4 --concurrency 1").start();
    nsqd.wait_for_clients("foo", "1", 1);
    done(&nsqd, "--redrive --yes");
    running.wait_for_lines(3);
    let retries = retries(&nsqd).unwrap();
    nsqd.wait_for_clients(&retries, "1", 0);
    assert!(!running.stderr().contains("connection lost"), "{}", running.stderr());
    nsqd.publish("foo", b"d");
    let finished = running.finish();
    assert_eq!((finished.code, sorted(&finished)), (Some(0), ["a", "b", "c", "d"].map(str::to_owned).to_vec()));
}

#[test]
fn a_consumer_that_cannot_look_for_what_is_redriven_says_so() {
    needs!("nsqd");
    let nsqd = given_up_by_one_of_two(Nsqd::real(&[]));
    for (http, says) in [(String::new(), 1), (format!("--nsqd-http-address {}", nsqd.http()), 0)] {
        let run = consumer(&nsqd.tcp(), &format!("--timeout 1 {http}")).run();
        assert_eq!(run.stderr.matches("what `mqueue errors --redrive` gives this group").count(), says, "{run:?}");
    }
    let redriven = done(&nsqd, "--redrive --yes");
    assert!(redriven.stderr.contains("that know this nsqd's HTTP address"), "{}", redriven.stderr);
}

#[test]
fn a_sleeping_group_is_woken_for_redriven_letters() {
    needs!("nsqd");
    let nsqd = given_up_by_one_of_two(Nsqd::real(&[]));
    let doors = Doors::new(&["1"]);
    let _wakeup = doors.wakeup(&nsqd, "").start();
    done(&nsqd, "--redrive --yes");
    doors.wait_for_poke("1");
}

#[test]
fn nsqd_redrives_letters_to_all_groups_only_on_request() {
    needs!("nsqd");
    let nsqd = given_up_by_one_of_two(Nsqd::real(&[]));
    let dry = done(&nsqd, "--redrive --dry-run --to-all-groups");
    assert!(dry.stderr.contains("3 to stream foo"), "{}", dry.stderr);
    done(&nsqd, "--redrive --yes --to-all-groups");
    wait_until("both to have them", || [1, 2].map(|n| nsqd.channel("foo", &n.to_string()).depth) == [3, 3]);
}

#[test]
fn a_single_group_stream_with_another_group_is_refused() {
    needs!("nsqd");
    let nsqd = given_up_by_one_of_two(Nsqd::real(&[]));
    done(&nsqd, "--redrive --yes");
    let retries = retries(&nsqd).unwrap();
    assert_eq!(of_group_1(&nsqd, "--handler exec:false --max-attempts 1 --count 3").run().code, Some(5));
    nsqd.create(&retries, "spy");
    let refused = errors(&nsqd, "--redrive --yes").run();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("has a group spy"), "{}", refused.stderr);
    wait_until("all to be back", || nsqd.channel("foo.dead", "errors").depth == 3);
}

#[test]
fn letters_that_name_another_stream_or_group_stay_unless_a_target_is_given() {
    needs!("nsqd");
    at_once_on([Nsqd::real(&[]), Nsqd::embedded(&[])], |nsqd| {
        nsqd.create("foo", "1");
        nsqd.create("payments", "1");
        for (stream, group) in [("payments", "1"), ("foo", "9")] {
            let line = format!(
                r#"{{"mqueue":"dead-letter","stream":"{stream}","group":"{group}","id":"0","attempts":1,"timestamp":1,"died":2,"reason":"x"}}"#
            );
            nsqd.publish("foo.dead", format!("{line}\nforged").as_bytes());
        }
        let dry = done(nsqd, "--redrive --dry-run");
        for words in ["would redrive 0 of 2 letters", "1 of them name another stream"] {
            assert!(dry.stderr.contains(words), "{words}: {}", dry.stderr);
        }
        let none = errors(nsqd, "--redrive --yes").run();
        assert_eq!(none.code, Some(5), "nothing was done: {}", none.stderr);
        for words in ["0 published again, 2 left", "1 of them name another stream", "1 of them name a group"] {
            assert!(none.stderr.contains(words), "{words}: {}", none.stderr);
        }
        assert_eq!((nsqd.published("payments"), nsqd.published("foo")), (0, 0));
        wait_until("both to be back", || nsqd.channel("foo.dead", "errors").deferred_count == 0);
        done(nsqd, "--redrive --yes --to other");
        assert_eq!((nsqd.published("payments"), nsqd.published("foo"), nsqd.published("other")), (0, 0, 2));
    });
}

#[test]
fn letters_are_not_redriven_to_where_they_are() {
    needs!("nsqd");
    let nsqd = given_up(1);
    let refused = errors(&nsqd, "--redrive --yes --to foo.dead").run();
    assert!(refused.code == Some(2) && refused.stderr.contains("the letters are in foo.dead"), "{refused:?}");
    assert_eq!(nsqd.published("foo.dead"), 1);
}
