//! `mqueue ingest`: senders killed within a line, and more senders than the limit of connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::pipeline::{Ground, end, say};
use crate::support::{Mqueue, Nsqd, PATIENCE, mqueue, needs, wait_until};

/// The most connections of a socket.
const PLACES: usize = 256;

/// Starts a process that writes a text to a connection, and kills it once `is_there` is true.
fn killed_after(text: &str, connection: impl Into<OwnedFd>, is_there: impl FnMut() -> bool) {
    let script = format!("printf '{text}'; exec sleep 600");
    let stdout = Stdio::from(connection.into());
    let mut sender = Command::new("sh").args(["-c", &script]).stdout(stdout).spawn().expect("a shell");
    wait_until("the lines of a sender", is_there);
    sender.kill().expect("it runs");
    sender.wait().expect("it was started");
}

fn tcp_address(ingest: &Mqueue) -> String {
    let stderr = ingest.stderr();
    let address = stderr.split("listening on tcp:").nth(1).and_then(|rest| rest.split_whitespace().next());
    address.expect("it said where").to_owned()
}

#[test]
fn an_unfinished_line_of_a_killed_sender_is_not_published() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest(&format!("{} --listen tcp:127.0.0.1:0", ground.socket()), "--report json");
    wait_until("both sockets", || ingest.times_said("listening on") == 2);
    let published = |count| ground.nsqd.published("one") == count;
    let connection = UnixStream::connect(ground.at("feed")).expect("it listens");
    killed_after(r#"a1\na2\n{"id": 1"#, connection, || published(2));
    let connection = TcpStream::connect(tcp_address(&ingest)).expect("it listens");
    killed_after(r#"b1\n{"id": 2"#, connection, || published(3));
    ingest.wait_to_say("unfinished at the end of a stream, not published");
    wait_until("the connections' ends", || ingest.stdout().contains("\"cut_off\":2"));
    end(ingest);
    assert_eq!(ground.bodies("one"), ["a1", "a2", "b1"]);
}

#[test]
fn the_answer_reports_an_unfinished_line() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest(&ground.socket(), "--max-line 20");
    assert_eq!(say(&ground.at("feed"), b"one\ntwo\nthree"), "OK 2 unfinished 1\n");
    assert_eq!(say(&ground.at("feed"), b"four"), "OK 0 unfinished 1\n");
    let long = [&b"five\n"[..], &[b'x'; 30]].concat();
    assert_eq!(say(&ground.at("feed"), &long), "OK 1 refused 1\n", "and counted once");
    let said = end(ingest).stderr;
    assert!(said.contains("3 read, 3 published, 1 too long, 2 cut off"), "{said}");
    assert_eq!(ground.bodies("one"), ["one", "two", "five"]);
}

#[test]
fn a_silent_connection_is_closed_for_a_new_one_and_its_answer_counts_published_lines() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest(&ground.socket(), "--report json");
    let connect = || {
        let stream = UnixStream::connect(ground.at("feed")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        stream
    };
    let reported =
        |what: &str| wait_until(what, || ingest.stdout().lines().last().is_some_and(|line| line.contains(what)));
    let answer = |mut stream: UnixStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let mut published = connect();
    published.write_all(b"one\n").expect("it reads");
    wait_until("a line", || ground.nsqd.published("one") == 1);
    ground.nsqd.signal(Signal::SIGSTOP);
    let mut in_hand = connect();
    in_hand.write_all(b"two\n").expect("it reads");
    reported("\"read\":2");
    let mut half = connect();
    half.write_all(b"hal").expect("it reads");
    let silent: Vec<UnixStream> = (3..PLACES).map(|_| connect()).collect();
    reported(&format!("\"connections\":{PLACES}"));

    let [mut new, _second, _third] = [connect(), connect(), connect()];
    assert_eq!(answer(published), "OK 1\n");
    assert_eq!(answer(half), "OK 0\n");
    assert_eq!(answer(silent.into_iter().next().expect("253")), "OK 0\n");
    ingest.wait_to_say(" ended to make room for others");
    ground.nsqd.signal(Signal::SIGCONT);
    for (sender, line) in [(&mut new, &b"three\n"[..]), (&mut in_hand, b"")] {
        sender.write_all(line).expect("it reads");
        sender.shutdown(Shutdown::Write).expect("it is open");
    }
    assert_eq!(answer(new), "OK 1\n");
    assert_eq!(answer(in_hand), "OK 1\n", "what it sent is published");
    end(ingest);
    let mut bodies = ground.bodies("one");
    bodies.sort();
    assert_eq!(bodies, ["one", "three", "two"]);
}

#[test]
fn an_unfinished_record_of_a_producers_broken_input_is_not_published() {
    needs!("nsqd");
    let ground = Ground::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut writer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let reader = listener.accept().expect("it came").0;
    let producer = mqueue("producer --stream one -").env("NSQD_TCP_ADDRESS", &ground.nsqd.tcp());
    let producer = producer.with_stdin_from(Stdio::from(OwnedFd::from(reader))).start();
    writer.write_all(b"one\nhal").expect("it reads");
    wait_until("a line", || ground.nsqd.published("one") == 1);
    // makes close send a reset
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&writer, nix::sys::socket::sockopt::Linger, &linger).expect("a socket");
    drop(writer);
    let ended = producer.finish();
    assert!(ended.code == Some(1) && ended.stderr.contains("cannot read stdin"), "{ended:?}");
    assert_eq!(ground.bodies("one"), ["one"]);
}

#[test]
fn a_run_whose_lines_were_all_refused_ends_with_exit_code_5() {
    needs!("nsqd");
    let ground = Ground::on(Nsqd::with(&["--max-msg-size=4", "--max-body-size=1000"]));
    let ingest = ground.ingest(&ground.socket(), "");
    say(&ground.at("feed"), b"too long\ntoo long, too\n");
    ingest.signal(Signal::SIGTERM);
    let ended = ingest.finish();
    assert!(ended.stderr.contains("2 read, 0 published, 2 refused by nsqd"), "{}", ended.stderr);
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
}
