//! `mqueue peek`: messages are shown, and stay as they are.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Client, Finished, Liar, Mqueue, Nsqd, get, is_optimised, mqueue, needs, request, wait_until};

fn on(broker: &Nsqd, args: &str) -> Mqueue {
    mqueue(&format!("peek {args} --nsqd-http-address {}", broker.http()))
}

#[track_caller]
fn shown(broker: &Nsqd, args: &str) -> Finished {
    let finished = on(broker, args).run();
    assert_eq!(finished.code, Some(0), "{args}: {}", finished.stderr);
    finished
}

#[track_caller]
fn json(broker: &Nsqd, args: &str) -> Vec<Value> {
    let finished = shown(broker, &format!("{args} --json"));
    finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn bodies(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["body"].as_str().expect("text")).collect()
}

/// Everything that a delivery would change.
fn counts(broker: &Nsqd) -> Vec<i64> {
    let it = broker.channel("orders", "billing");
    let counted = [it.message_count, it.requeue_count, it.timeout_count].map(|count| count as i64);
    [it.depth, it.in_flight_count, it.deferred_count].into_iter().chain(counted).collect()
}

#[test]
fn messages_in_all_states_are_shown_and_stay() {
    let broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    let hello = r#"{"client_id":"c","hostname":"worker-7","user_agent":"a"}"#;
    let mut consumer = Client::subscribed(&broker, "orders", "billing", hello);
    broker.publish("orders", b"first");
    consumer.say("RDY 1\n");
    assert_eq!(consumer.messages(1).len(), 1);
    broker.publish_lines("orders", b"second\nthird");
    broker.publish_later("orders", b"later", 3_600_000);
    let before = counts(&broker);
    assert_eq!(before[..3], [2, 1, 1]);

    let all = json(&broker, "orders/billing");
    assert_eq!(bodies(&all), ["second", "third", "first", "later"]);
    let states: Vec<_> = all.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["waiting", "waiting", "in_flight", "deferred"]);
    let attempts: Vec<_> = all.iter().map(|line| line["attempts"].as_u64().unwrap()).collect();
    assert_eq!(attempts, [0, 0, 1, 0]);
    assert_eq!((&all[2]["client"]["hostname"], &all[2]["nsqd"]), (&"worker-7".into(), &broker.http().into()));
    assert!((1..=60_000).contains(&all[2]["due_in_ms"].as_u64().unwrap()), "{}", all[2]);
    assert!((3_500_000..=3_600_000).contains(&all[3]["due_in_ms"].as_u64().unwrap()), "{}", all[3]);

    for (flags, expected) in [
        ("--waiting", &["second", "third"][..]),
        ("--in-flight", &["first"]),
        ("--deferred", &["later"]),
        ("--deferred --waiting", &["second", "third", "later"]),
        ("-n 3", &["second", "third", "first"]),
        ("--grep ir", &["third", "first"]),
        ("--grep ^[st] --count 1", &["second"]),
        ("--grep nothing", &[]),
    ] {
        assert_eq!(bodies(&json(&broker, &format!("orders/billing {flags}"))), expected, "{flags}");
    }
    let text = shown(&broker, "orders/billing").stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("waiting ") && lines[0].ends_with("  second"), "{text}");
    assert!(lines[2].contains("  1 attempt ") && lines[2].contains("  to worker-7, times out in "), "{text}");
    assert!(lines[3].contains("  due in 59m") && lines[3].ends_with("  later"), "{text}");
    assert_eq!(shown(&broker, "orders/billing --raw --waiting").stdout, "second\nthird\n");

    assert_eq!(counts(&broker), before);
    consumer.say("RDY 3\n");
    let sent = consumer.messages(2);
    let sent: Vec<_> = sent.iter().map(|message| (message.attempts, message.body.as_str())).collect();
    assert_eq!(sent, [(1, "second"), (1, "third")]);
}

#[test]
fn a_stream_shows_what_no_group_has_yet() {
    let broker = Nsqd::embedded(&[]);
    request(&broker.http(), "POST", "/topic/create?topic=orders", b"");
    let nothing = shown(&broker, "orders");
    assert!(nothing.stdout.is_empty() && nothing.stderr.contains("it has no groups"), "{}", nothing.stderr);
    broker.publish_lines("orders", b"a\nb");
    let held = json(&broker, "orders");
    assert_eq!((bodies(&held), &held[0]["state"]), (vec!["a", "b"], &"held".into()));
    broker.create("orders", "billing");
    let gone = shown(&broker, "orders");
    assert!(gone.stderr.contains("its groups are orders/billing"), "{}", gone.stderr);
    assert_eq!(json(&broker, "orders/billing").len(), 2);
    let wrong = on(&broker, "orders --waiting").run();
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("as in orders/GROUP"), "{}", wrong.stderr);
}

#[test]
fn nsqd_says_what_is_possible_instead() {
    needs!("nsqd");
    let nsqd = Nsqd::real(&[]);
    nsqd.create("orders", "billing");
    nsqd.publish("orders", b"a");
    wait_until("the group to have it", || nsqd.channel("orders", "billing").depth == 1);
    let refused = on(&nsqd, "orders/billing").run();
    assert_eq!((refused.code, refused.stdout.as_str(), refused.stderr.lines().count()), (Some(1), "", 1));
    assert!(refused.stderr.contains("mqueue tail orders shows new ones"), "{}", refused.stderr);
    assert_eq!(nsqd.channel("orders", "billing").depth, 1);

    // beside a broker that can, it is a warning
    let broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    broker.publish("orders", b"shown");
    let both =
        mqueue(&format!("peek orders/billing --raw --nsqd-http-address {},{}", nsqd.http(), broker.http())).run();
    assert_eq!((both.code, both.stdout.as_str()), (Some(1), "shown\n"));
    assert!(both.stderr.contains(&format!("nsqd at {} shows no message", nsqd.http())), "{}", both.stderr);
}

#[test]
fn all_brokers_are_looked_at_and_a_dead_one_is_said() {
    let brokers = [Nsqd::embedded(&[]), Nsqd::embedded(&[]), Nsqd::embedded(&[])];
    for (number, broker) in brokers.iter().enumerate() {
        broker.create("orders", "billing");
        broker.publish("orders", format!("from {number}").as_bytes());
    }
    let addresses = brokers.each_ref().map(Nsqd::http);
    let all = format!("peek orders/billing --nsqd-http-address {}", addresses.join(","));
    let listed = mqueue(&all).run();
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let mut lines: Vec<&str> = listed.stdout.lines().collect();
    lines.sort_by_key(|line| line.rsplit(' ').next());
    assert_eq!(lines.len(), 3);
    for (number, line) in lines.iter().enumerate() {
        assert!(line.ends_with(&format!("  {}  from {number}", addresses[number])), "{line}");
    }
    assert_eq!(mqueue(&format!("{all} -n 2")).run().stdout.lines().count(), 2);
    // each has its share, though the first has enough for all
    brokers[0].publish_lines("orders", &b"more\n".repeat(50));
    for flags in ["-n 3", "-n 3 --grep [a-z]"] {
        let shared = mqueue(&format!("{all} {flags}")).run().stdout;
        assert!(addresses.iter().all(|address| shared.matches(address).count() == 1), "{flags}: {shared}");
    }
    assert_eq!(mqueue(&format!("{all} -n 40 --grep [a-z]")).run().stdout.lines().count(), 40);
    assert_eq!(mqueue(&format!("{all} -n 100")).run().stdout.lines().count(), 53);
    let [alive, dead, third] = brokers;
    drop(dead);
    let two = mqueue(&format!("{all} -n 100")).run();
    assert_eq!((two.code, two.stdout.lines().count()), (Some(1), 52));
    assert!(two.stderr.contains(&format!("cannot reach nsqd at {}", addresses[1])), "{}", two.stderr);
    drop((alive, third));
    assert_eq!(mqueue(&all).run().code, Some(69));
}

#[test]
fn a_missing_stream_or_group_is_one_line() {
    let broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    for (target, said) in [
        ("nope", "no nsqd that answered has a stream nope"),
        ("orders/nope", "no nsqd that answered has a group orders/nope: its groups are orders/billing"),
    ] {
        let failed = on(&broker, target).run();
        assert_eq!((failed.code, failed.stderr.trim_end()), (Some(1), format!("mqueue: {said}").as_str()));
    }
    for wrong in ["orders/billing --grep (", "orders/billing -n 0", "orders/billing --json --raw", "a/b/c", "\u{1b}[2J"]
    {
        let refused = on(&broker, wrong).run();
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{wrong}");
        assert!(!refused.stderr.contains('\u{1b}'), "{}", refused.stderr);
    }
}

#[test]
fn hostile_bodies_and_long_names_are_shown_as_they_are_and_not_run() {
    let broker = Nsqd::embedded(&[]);
    let (stream, group) = ("s".repeat(64), "g".repeat(64));
    broker.create(&stream, &group);
    let all: [&[u8]; 5] =
        [b"\x1b[2J\x1b]0;title\x07", "a\u{202e}b\u{2066}\r\n\tc".as_bytes(), b"\xff\xfe\0", b"\x9b31m", b"\x7f"];
    all.iter().for_each(|body| broker.publish(&stream, body));
    let target = format!("{stream}/{group}");
    let text = shown(&broker, &target).stdout;
    let lines: Vec<&str> = text.lines().collect();
    let expected = [r"\x1b[2J\x1b]0;title\a", r"a\u202eb\u2066\r\n\tc", r"\xff\xfe\x00", r"\x9b31m", r"\x7f"];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.ends_with(&format!("  {expected}")), "{line}");
    }
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let back: Vec<Vec<u8>> = json(&broker, &target)
        .iter()
        .map(|line| match line["encoding"].as_str() {
            Some("base64") => STANDARD.decode(line["body"].as_str().unwrap()).unwrap(),
            other => {
                assert_eq!(other, None);
                line["body"].as_str().unwrap().as_bytes().to_vec()
            }
        })
        .collect();
    assert_eq!(back, all);
    assert_eq!(bodies(&json(&broker, &format!("{target} --grep title")))[0].as_bytes(), all[0]);
}

/// A client may call itself anything.
#[test]
fn a_consumers_name_is_data_too() {
    let broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    let hello = r#"{"client_id":"\u001b[2J","hostname":"\u001b[31m","user_agent":"a"}"#;
    let mut consumer = Client::subscribed(&broker, "orders", "billing", hello);
    broker.publish("orders", b"x");
    consumer.say("RDY 1\n");
    assert_eq!(consumer.messages(1).len(), 1);
    let text = shown(&broker, "orders/billing").stdout;
    assert!(text.contains(r"to \x1b[31m, times out in ") && !text.contains('\u{1b}'), "{text}");
    drop(consumer);
    wait_until("its end", || broker.channel("orders", "billing").client_count == 0);
    assert!(shown(&broker, "orders/billing").stdout.contains("to a client that is gone, times out in"));
}

#[test]
fn bodies_of_ten_megabytes_are_shown_whole_or_cut_from_memory_and_from_the_log() {
    for memory in ["--max-memory=100000000", "--max-memory=0"] {
        let broker = Nsqd::embedded(&["--max-msg-size=16777216", "--max-body-size=67108864", memory]);
        broker.create("large", "group");
        let mut large = vec![b'x'; 10_000_000];
        large[9_999_990..].copy_from_slice(b"the end...");
        let zeros = vec![0; 10_000_000];
        for body in [&large, &zeros, &large] {
            broker.publish("large", body);
        }
        let (all, peak) = on(&broker, "large/group --json").run_watched();
        assert_eq!(all.code, Some(0), "{}", all.stderr);
        assert!(peak < 200_000, "{peak} KiB");
        let all: Vec<Value> = all.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0]["body"].as_str().unwrap().len(), large.len());
        assert_eq!(all[1]["body"].as_str().unwrap().as_bytes(), zeros);
        let found = shown(&broker, "large/group --raw -n 1 --grep end");
        assert_eq!(found.stdout.len(), large.len() + 1);
        // as the terminal asks for it
        let path = "/channel/peek?topic=large&channel=group&limit=3&max_body=10";
        let cut = get(&broker.http(), path);
        assert_eq!(cut.matches(r#""size":10000000,"body":"xxxxxxxxxx"}"#).count(), 2, "{cut}");
        assert!(cut.len() < 1_000 && cut.ends_with("{\"next\":null}\n") || cut.contains("waiting-"), "{cut}");
    }
}

#[test]
fn all_pages_of_a_long_queue_are_searched_in_memory_and_in_the_log() {
    for memory in ["--max-memory=100000000", "--max-memory=0"] {
        let broker = Nsqd::embedded(&[memory]);
        broker.create("orders", "billing");
        let batch = |first: u32| (first..first + 500).map(|number| format!("message {number};")).collect::<Vec<_>>();
        for first in (0..5_000).step_by(500) {
            broker.publish_lines("orders", batch(first).join("\n").as_bytes());
        }
        let found = json(&broker, "orders/billing --grep 999;");
        assert_eq!(
            bodies(&found),
            ["message 999;", "message 1999;", "message 2999;", "message 3999;", "message 4999;"]
        );
        let found = json(&broker, r"orders/billing -n 1 --grep ^message.49\d\d;$");
        assert_eq!(bodies(&found), ["message 4900;"]);
        assert_eq!(shown(&broker, "orders/billing -n 100000").stdout.lines().count(), 5_000);
    }
}

#[test]
fn the_first_line_comes_at_once_however_long_the_queue_is() {
    let (count, most) = if is_optimised() { (10_000_000, 50) } else { (200_000, 5_000) };
    for memory in ["--max-memory=4000000000", "--max-memory=0"] {
        let broker = Nsqd::embedded(&[memory, "--max-index-memory=4000000000"]);
        broker.create("orders", "billing");
        for first in (0..count).step_by(200_000) {
            let lines: String = (first..first + 200_000).map(|number| format!("message {number}\n")).collect();
            broker.publish_lines("orders", lines.as_bytes());
        }
        assert_eq!(broker.channel("orders", "billing").depth, count);
        let first_line = || {
            let (reader, writer) = std::io::pipe().unwrap();
            let begun = Instant::now();
            let peek = on(&broker, "orders/billing").with_stdout(writer).start();
            let mut line = String::new();
            BufReader::new(reader).read_line(&mut line).unwrap();
            let took = begun.elapsed();
            assert!(line.ends_with("  message 0\n"), "{line}");
            peek.finish();
            took
        };
        let mut times: Vec<_> = (0..9).map(|_| first_line()).collect();
        times.sort();
        eprintln!("{memory}: the first of {count} messages after {:?}, at most {:?}", times[4], times[8]);
        assert!(times[4].as_millis() < most, "{memory}: {times:?}");
    }
}

/// The position in the last line of an answer.
fn next_of(answer: &str) -> String {
    let last = answer.lines().last().expect("a line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    last["next"].as_str().expect("a position").to_owned()
}

#[test]
fn a_queue_may_be_emptied_deleted_and_restarted_between_two_pages() {
    let mut broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    let page = |broker: &Nsqd, after: &str| {
        get(&broker.http(), &format!("/channel/peek?topic=orders&channel=billing&limit=2{after}"))
    };
    broker.publish_lines("orders", b"1\n2\n3\n4\n5");
    let first = page(&broker, "");
    assert_eq!(first.lines().count(), 3, "{first}");
    let after = format!("&after={}", next_of(&first));
    assert!(page(&broker, &after).contains(r#""body":"3""#));
    broker.post("/channel/empty?topic=orders&channel=billing");
    assert_eq!(page(&broker, &after), "{\"next\":null}\n");
    broker.publish("orders", b"6");
    assert!(page(&broker, &after).contains(r#""body":"6""#));
    broker.post("/channel/delete?topic=orders&channel=billing");
    assert_eq!(page(&broker, &after), r#"{"message":"CHANNEL_NOT_FOUND"}"#);
    broker.create("orders", "billing");
    assert_eq!(page(&broker, &after), r#"{"message":"POSITION_GONE"}"#);
    broker.publish_lines("orders", b"7\n8\n9");
    let after = format!("&after={}", next_of(&page(&broker, "")));
    broker.stop();
    broker.start_again();
    assert_eq!(page(&broker, &after), r#"{"message":"POSITION_GONE"}"#);
    assert_eq!(bodies(&json(&broker, "orders/billing")), ["7", "8", "9"]);
    broker.delete_topic("orders");
    assert_eq!(page(&broker, ""), r#"{"message":"TOPIC_NOT_FOUND"}"#);
}

#[test]
fn wrong_parameters_are_named() {
    let broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    let channel = "/channel/peek?topic=orders&channel=billing";
    for (path, code) in [
        ("/channel/peek".to_owned(), "MISSING_ARG_TOPIC"),
        ("/channel/peek?topic=orders".to_owned(), "MISSING_ARG_CHANNEL"),
        ("/channel/peek?topic=a%20b&channel=c".to_owned(), "INVALID_ARG_TOPIC"),
        ("/topic/peek?topic=a%20b".to_owned(), "INVALID_ARG_TOPIC"),
        ("/topic/peek?topic=nope".to_owned(), "TOPIC_NOT_FOUND"),
        (format!("{channel}&state=held"), "INVALID_ARG_STATE"),
        (format!("{channel}&state=WAITING"), "INVALID_ARG_STATE"),
        (format!("{channel}&limit=0"), "INVALID_ARG_LIMIT"),
        (format!("{channel}&limit=10001"), "INVALID_ARG_LIMIT"),
        (format!("{channel}&limit=-1"), "INVALID_ARG_LIMIT"),
        (format!("{channel}&max_body=x"), "INVALID_ARG_MAX_BODY"),
        (format!("{channel}&after="), "INVALID_ARG_AFTER"),
        (format!("{channel}&after=1-waiting-1-2-3"), "INVALID_ARG_AFTER"),
        (format!("{channel}&after=1-waiting-2-0-0-0-0"), "POSITION_GONE"),
    ] {
        assert_eq!(get(&broker.http(), &path), format!(r#"{{"message":"{code}"}}"#), "{path}");
    }
    assert_eq!(request(&broker.http(), "POST", channel, b""), r#"{"message":"METHOD_NOT_ALLOWED"}"#);
}

/// Answers that nobody reads are limited in number, and end.
#[test]
fn clients_that_do_not_read_are_limited_and_others_are_told() {
    let broker = Nsqd::embedded(&["--max-msg-size=16777216", "--max-body-size=67108864"]);
    broker.create("large", "group");
    let body = vec![b'x'; 16_000_000];
    (0..2).for_each(|_| broker.publish("large", &body));
    let path = "/channel/peek?topic=large&channel=group";
    let deaf: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(broker.http()).unwrap();
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
            stream
        })
        .collect();
    wait_until("their answers to be made", || {
        get(&broker.http(), &format!("{path}&limit=1&max_body=1")).contains("BUSY")
    });
    assert_eq!(get(&broker.http(), "/ping"), "OK");
    drop(deaf);
    wait_until("the others' turn", || get(&broker.http(), &format!("{path}&limit=1&max_body=1")).contains("\"x\""));
}

/// AUTH decides who receives messages, and HTTP has no AUTH.
#[test]
fn with_auth_no_message_is_shown() {
    let broker = Nsqd::embedded(&["--auth-http-address=127.0.0.1:1"]);
    broker.create("orders", "billing");
    broker.publish("orders", b"secret");
    for path in ["/channel/peek?topic=orders&channel=billing", "/topic/peek?topic=orders"] {
        let refused = get(&broker.http(), path);
        for part in [r#"{"message":"UNAUTHORIZED: "#, "--auth-http-address", "mqueue tail --auth-secret-file"] {
            assert!(refused.contains(part), "{part:?} is missing in: {refused}");
        }
    }
    let refused = on(&broker, "orders/billing").run();
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let line = format!(
        " ERROR nsqd at {} shows messages to clients with AUTH only (--auth-http-address), and HTTP has no AUTH: mqueue \
         tail --auth-secret-file PATH shows new ones\n",
        broker.http()
    );
    assert!(refused.stderr.ends_with(&line) && refused.stderr.lines().count() == 1, "{}", refused.stderr);
}

/// Flips a bit of this text in the log.
fn damage(folder: &std::path::Path, text: &[u8]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let bytes = std::fs::read(&file).unwrap_or_default();
        if let Some(at) = memchr::memmem::find(&bytes, text) {
            let open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
            open.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            return;
        }
    }
    panic!("it is in a file");
}

#[test]
fn a_body_that_cannot_be_read_is_said_and_the_others_are_shown() {
    let broker = Nsqd::embedded(&["--max-memory=0"]);
    broker.create("orders", "billing");
    for body in ["before", "the damaged one", "after"] {
        broker.publish("orders", body.as_bytes());
    }
    damage(broker.data_path(), b"damaged");
    let before = counts(&broker);
    let all = json(&broker, "orders/billing");
    assert_eq!(bodies(&all), ["before", "", "after"]);
    let error = all[1]["error"].as_str().unwrap();
    assert!(error.contains("does not begin a record of this batch"), "{error}");
    assert!(all[0].get("error").is_none());
    let text = shown(&broker, "orders/billing").stdout;
    assert!(text.lines().nth(1).unwrap().contains("  cannot be read: byte "), "{text}");
    assert_eq!(counts(&broker), before, "a delivery would have deferred it");
}

/// Peeks beside a busy queue, with every body in the log.
#[test]
fn peeks_beside_publishing_and_consuming_find_every_body() {
    let broker = Nsqd::embedded(&["--max-memory=0"]);
    broker.create("foo", "1");
    let consumer = crate::support::consumer(&broker.tcp(), "--handler sleep:1ms --concurrency 4").start();
    let producer = mqueue(&format!("producer --stream foo --rate 2000 --nsqd-tcp-address {}", broker.tcp())).start();
    wait_until("a backlog", || broker.channel("foo", "1").depth > 200);
    for _ in 0..15 {
        let lines = json(&broker, "foo/1 -n 500");
        assert!(lines.len() >= 100, "{}", lines.len());
        let wrong: Vec<_> = lines.iter().filter(|line| line.get("error").is_some() || line["body"] == "").collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    assert!(broker.channel("foo", "1").timeout_count == 0);
    drop((producer, consumer));
}

#[test]
fn a_closed_pipe_and_a_full_disk_end_it_and_other_servers_are_refused() {
    let broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    broker.publish_lines("orders", vec!["x".repeat(1000); 1000].join("\n").as_bytes());
    let (reader, writer) = std::io::pipe().unwrap();
    let peek = on(&broker, "orders/billing -n 1000").with_stdout(writer).start();
    drop(reader);
    let ended = peek.finish();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = on(&broker, "orders/billing").with_stdout(full).run();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("no space left on device"), "{}", ended.stderr);

    let liar = Liar::answering(
        r#"{"topics":[{"topic_name":"orders","channels":[{"channel_name":"billing"}]}],"index_bytes":1,"x":"\u001b[2J"}"#,
    );
    let refused = mqueue(&format!("peek orders/billing --nsqd-http-address {}", liar.address())).run();
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("sent an answer to /channel/peek that cannot be read"), "{}", refused.stderr);
    assert!(!refused.stderr.contains('\u{1b}'), "{}", refused.stderr);
}

#[test]
fn a_broker_that_hangs_is_said_within_seconds() {
    let broker = Nsqd::embedded(&[]);
    broker.create("orders", "billing");
    broker.signal(Signal::SIGSTOP);
    let ended = on(&broker, "orders/billing").run();
    broker.signal(Signal::SIGCONT);
    assert_eq!(ended.code, Some(69));
    assert!(ended.stderr.contains("no answer in time"), "{}", ended.stderr);
}
