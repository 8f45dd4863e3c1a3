//! Malicious or broken HTTP servers in place of nsqd, nsqlookupd or the gateway: a client of them
//! uses little memory and time, logs one line, and continues with the good ones.

use std::time::{Duration, Instant};

use crate::support::fake_nsqd::{FakeNsqd, message, message_id};
use crate::support::{Doors, Liar, Mqueue, Nsqd, Rest, Told, consumer, mqueue, needs, wait_until};
use mqueue::proto::Command;

const HEAD: &str = "HTTP/1.1 200 OK\r\n";
/// Twice the maximum response (32 MiB), because its buffer grows by doubling, and the program
/// itself.
const MOST: u64 = 64 * 1024 + 40_000;
/// Time limit for a response, and for a start on a busy machine.
const SOON: Duration = Duration::from_secs(12);

/// Malicious servers of all kinds.
fn liars() -> Vec<(&'static str, Liar)> {
    let endless = |beginning: &str, bytes| Liar::saying(format!("{HEAD}{beginning}"), Rest::Endless(bytes));
    let spaces: &'static [u8] = &[b' '; 64 * 1024];
    let chunk: &'static [u8] = Box::leak([&b"10000\r\n"[..], spaces, b"\r\n"].concat().into_boxed_slice());
    let many = format!(r#"{{"topics":[{}{{}}],"producers":null}}"#, "{},".repeat(1 << 20));
    vec![
        ("an endless body", endless("\r\n", spaces)),
        ("an endless body in chunks", endless("Transfer-Encoding: chunked\r\n\r\n", chunk)),
        ("a body of an exabyte", endless("Content-Length: 1000000000000000000\r\n\r\n", spaces)),
        ("an endless header", endless("X: ", &[b'x'; 64 * 1024])),
        ("endless headers", endless("", Box::leak("X-Header: y\r\n".repeat(5000).into_boxed_str()).as_bytes())),
        ("a first line without end", Liar::saying("HTTP/1.1 200 ".into(), Rest::Endless(&[b'x'; 64 * 1024]))),
        ("a body by drops", Liar::saying(format!("{HEAD}\r\n"), Rest::Drips(b' '))),
        ("a header by drops", Liar::saying(format!("{HEAD}X: "), Rest::Drips(b'x'))),
        ("a million objects", Liar::answering(&many)),
        ("deep brackets", Liar::answering(&"[".repeat(1 << 20))),
        ("an error without end", Liar::saying("HTTP/1.1 500 No\r\n\r\n".into(), Rest::Endless(spaces))),
        ("no HTTP", Liar::saying("\x1b[2J\n\nmqueue: all is well\n".into(), Rest::Endless(&[0; 64 * 1024]))),
    ]
}

/// Asserts that a program's output is short and has no control characters.
#[track_caller]
fn assert_short(what: &str, said: &str) {
    assert!(!said.contains('\x1b') && !said.contains('\r'), "{what}: {said:?}");
    assert!(said.lines().all(|line| line.len() < 1000), "{what}: {said}");
    assert!(!said.lines().any(|line| line.starts_with("mqueue: all is well")), "{what}: {said}");
}

#[test]
fn a_consumer_works_beside_a_malicious_nsqlookupd() {
    for (what, liar) in liars() {
        let (good, start) = (FakeNsqd::start(), Instant::now());
        let args = format!("--lookupd-http-address {}", liar.address());
        let consumer = consumer(&good.tcp(), &args).start();
        let mut peer = good.subscribed();
        peer.until_ready();
        peer.send(&message(1, 1, b"body"));
        peer.until(|command| *command == Command::Fin(message_id(1)));
        assert!(start.elapsed() < SOON, "{what}: {:?}", start.elapsed());
        wait_until("it is said", || consumer.times_said(liar.address()) > 0);
        eprintln!("consumer, {what}: {} KiB, {:?}", consumer.peak(), consumer.processor_time());
        assert!(consumer.peak() < MOST, "{what}: {} KiB", consumer.peak());
        assert_short(what, &consumer.stderr());
    }
}

/// Asserts that a program ends soon, with one line about the malicious server.
#[track_caller]
fn gives_up(what: &str, liar: &Liar, program: Mqueue) {
    let start = Instant::now();
    let (finished, peak) = program.run_watched();
    eprintln!("{what}: {peak} KiB, {:?}", start.elapsed());
    assert!(start.elapsed() < 2 * SOON, "{what}: {:?}", start.elapsed());
    assert!(peak < MOST, "{what}: {peak} KiB");
    assert_short(what, &finished.stderr);
    assert_short(what, &finished.stdout);
    let about = finished.stderr.lines().chain(finished.stdout.lines()).filter(|line| line.contains(liar.address()));
    assert!((1..=3).contains(&about.count()), "{what}: {}{}", finished.stderr, finished.stdout);
}

#[test]
fn producer_and_doctor_give_up_malicious_servers() {
    for (what, liar) in liars() {
        let address = liar.address();
        let producer = mqueue(&format!("producer --stream foo --generate --count 1 --lookupd-http-address {address}"));
        gives_up(&format!("producer, {what}"), &liar, producer);
        gives_up(&format!("doctor, {what}"), &liar, mqueue(&format!("doctor --nsqd-http-address {address}")));
        let doctor = mqueue(&format!("doctor --lookupd-http-address {address}"));
        gives_up(&format!("doctor, nsqlookupd with {what}"), &liar, doctor);
    }
}

#[test]
fn wakeup_works_beside_a_malicious_nsqd() {
    needs!("nsqd");
    for (what, liar) in liars() {
        let (nsqd, doors) = (Nsqd::start(), Doors::new(&["good.sock"]));
        nsqd.create("foo", "good");
        let (good, bad) = (nsqd.http(), liar.address());
        let args = format!("--nsqd-http-address {bad} --nsqd-http-address {good} --lookupd-http-address {bad}");
        let wakeup = doors.wakeup_by(&format!("{args} --listen 127.0.0.1:0")).start();
        let told = Told::by(&wakeup);
        wait_until("the liar is asked", || liar.asked() > 0);
        nsqd.publish("foo", b"x");
        doors.wait_for_poke("good.sock");
        told.wait_for_polls(2);
        wait_until("it is said", || wakeup.times_said(bad) > 0);
        eprintln!("wakeup, {what}: {} KiB, {:?}", wakeup.peak(), wakeup.processor_time());
        // it may be asked twice at once, as nsqd and as nsqlookupd
        assert!(wakeup.peak() < 2 * MOST, "{what}: {} KiB", wakeup.peak());
        assert!(wakeup.times_said(bad) <= 4, "{what}: {}", wakeup.stderr());
        assert_short(what, &wakeup.stderr());
    }
}

#[test]
fn redirects_are_not_followed() {
    let trap = Liar::answering("{}");
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let answer =
            format!("HTTP/1.1 {status}\r\nLocation: http://{}/stats\r\nContent-Length: 0\r\n\r\n", trap.address());
        let liar = Liar::saying(answer, Rest::Nothing);
        let address = liar.address();
        for args in [
            format!("doctor --nsqd-http-address {address}"),
            format!("doctor --lookupd-http-address {address}"),
            format!("producer --stream foo --generate --count 1 --lookupd-http-address {address}"),
            format!("consumer --stream foo --group 1 --lookupd-http-address {address}"),
        ] {
            let finished = mqueue(&args).run();
            assert_ne!(finished.code, Some(0), "{args}: {}{}", finished.stdout, finished.stderr);
            assert!(liar.asked() > 0);
        }
    }
    assert_eq!(trap.asked(), 0, "a redirect was followed");
}

/// Marker in all names that would do harm in a terminal or in a pasted command.
const MARK: &str = "PWNED";

fn evil_names() -> String {
    let names = [
        "x; touch PWNED",
        "$(touch PWNED)",
        "`touch PWNED`",
        "\u{1b}]0;PWNED\u{7}",
        "\u{1b}[2JPWNED",
        "a\nWARN PWNED",
        "a\r\nPWNED: 1",
        "' || touch PWNED '",
        "--PWNED=1 b",
        "../../PWNED",
        "PWNED\u{202e}",
        "PWNED\u{0}",
        "PWNED#ephemeral#ephemeral",
    ];
    serde_json::to_string(&names).unwrap()
}

#[test]
fn invalid_names_reach_neither_logs_nor_commands() {
    let names: Vec<String> = serde_json::from_str(&evil_names()).unwrap();
    let quoted = |name: &String| serde_json::to_string(name).unwrap();
    let channels: Vec<String> =
        names.iter().map(|name| format!(r#"{{"channel_name":{},"depth":5}}"#, quoted(name))).collect();
    let channels = channels.join(",");
    let mut topics: Vec<String> = names
        .iter()
        .map(|name| format!(r#"{{"topic_name":{},"depth":5,"channels":[{channels}]}}"#, quoted(name)))
        .collect();
    // the same, with channels of a valid name
    topics.push(format!(
        r#"{{"topic_name":"foo","depth":5,"channels":[{channels},{{"channel_name":"good","depth":5}}]}}"#
    ));
    let producers: Vec<String> = names
        .iter()
        .map(|name| {
            let name = quoted(name);
            format!(
                r#"{{"broadcast_address":{name},"hostname":{name},"remote_address":{name},"version":{name},"tcp_port":1,"http_port":1,"topics":[{name}]}}"#
            )
        })
        .collect();
    let version = quoted(&names[4]);
    let body = format!(
        r#"{{"version":{version},"health":{version},"hostname":{version},"broadcast_address":{version},"topics":[{}],"channels":[{}],"producers":[{}]}}"#,
        topics.join(","),
        names.iter().map(quoted).collect::<Vec<_>>().join(","),
        producers.join(",")
    );
    // each command reads only a part of it: a list of names is no statistics, and so on
    let nsqd = Liar::answering(&body);
    let lookupd =
        Liar::answering(&body.replace(&topics.join(","), &names.iter().map(quoted).collect::<Vec<_>>().join(",")));
    let doors = Doors::new(&["good.sock"]);
    let check = |what: &str, said: &str| {
        let said: String = said.lines().filter(|line| !line.contains("version") && !line.contains("health")).collect();
        assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{what}: {said:?}");
        for name in names.iter().filter(|name| **name != names[4]) {
            assert!(
                !said.contains(name.as_str()) && !said.contains(&*name.escape_debug().to_string()),
                "{what}: {said}"
            );
        }
    };
    let wakeup = doors
        .wakeup_by(&format!(
            "--nsqd-http-address {} --lookupd-http-address {} --listen 127.0.0.1:0",
            nsqd.address(),
            lookupd.address()
        ))
        .start();
    let told = Told::by(&wakeup);
    doors.wait_for_poke("good.sock");
    told.wait_for_polls(2);
    for path in ["/state", "/metrics", "/health"] {
        check(path, &told.get(path).1);
    }
    check("wakeup", &wakeup.stderr());
    assert!(wakeup.times_said("that NSQ does not allow") >= 1, "{}", wakeup.stderr());
    let asks = [
        format!("doctor --nsqd-http-address {}", nsqd.address()),
        format!("doctor --nsqd-http-address {} --json", nsqd.address()),
        format!("doctor --lookupd-http-address {}", lookupd.address()),
        format!("producer --stream foo --generate --count 1 --lookupd-http-address {}", lookupd.address()),
        format!("consumer --stream foo --group 1 --timeout 3 --lookupd-http-address {}", lookupd.address()),
    ];
    for args in asks {
        let finished = mqueue(&args).run();
        check(&args, &finished.stdout);
        check(&args, &finished.stderr);
        eprintln!("{args}\n{}{}", finished.stdout, finished.stderr);
        assert!(!std::path::Path::new(MARK).exists());
    }
}

#[test]
fn an_nsqlookupd_that_names_many_nsqds_gets_a_limited_number_connected() {
    let all: Vec<String> = (0..60_000)
        .map(|n| format!(r#"{{"broadcast_address":"127.1.{}.{}","tcp_port":1}}"#, n / 250, n % 250))
        .collect();
    let liar = Liar::answering(&format!(r#"{{"channels":[],"producers":[{}]}}"#, all.join(",")));
    let good = FakeNsqd::start();
    let consumer = consumer(&good.tcp(), &format!("--lookupd-http-address {}", liar.address())).start();
    let mut peer = good.subscribed();
    peer.until_ready();
    consumer.wait_to_say("nsqds more than");
    let (start, before) = (Instant::now(), consumer.processor_time());
    for id in 0..20 {
        peer.send(&message(id, 1, b"body"));
        peer.until(|command| *command == Command::Fin(message_id(id)));
    }
    eprintln!("{} KiB, {:?} of {:?}", consumer.peak(), consumer.processor_time() - before, start.elapsed());
    assert!(consumer.peak() < MOST, "{} KiB", consumer.peak());
}

/// A stream of jobs that begins and then has no end of line.
#[test]
fn a_worker_leaves_a_gateway_that_sends_endless_lines() {
    let head = format!("{HEAD}X-Mqueue-Heartbeat: 1\r\n\r\n");
    for (what, rest) in [("drops", Rest::Drips(b'x')), ("an endless line", Rest::Endless(&[b'x'; 64 * 1024]))] {
        let liar = Liar::saying(head.clone(), rest);
        let worker = mqueue(&format!("worker --queue http://{} --stream s", liar.address())).start();
        let start = Instant::now();
        worker.wait_to_say("trying again");
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", start.elapsed());
        wait_until("it comes again", || liar.asked() > 1);
        eprintln!("{what}: {} KiB after {:?}: {}", worker.peak(), start.elapsed(), worker.stderr());
        // a line may have 64 MiB
        assert!(worker.peak() < 3 * MOST, "{what}: {} KiB", worker.peak());
        assert_short(what, &worker.stderr());
    }
}
