//! Pipelines of real processes: a feed over a socket, ingest, stages, and the messages that arrive.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::support::{Finished, Mqueue, Nsqd, mqueue, needs, request, wait_until};

/// A folder for sockets and copies of the program, and the nsqd of the pipeline.
pub(crate) struct Ground {
    pub(crate) nsqd: Nsqd,
    folder: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        Self::on(Nsqd::start())
    }

    pub(crate) fn on(nsqd: Nsqd) -> Self {
        Self { nsqd, folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> String {
        format!("unix:{}", self.at("feed").display())
    }

    /// Returns a command with this nsqd.
    pub(crate) fn run(&self, args: &str) -> Mqueue {
        mqueue(args).env("NSQD_TCP_ADDRESS", &self.nsqd.tcp())
    }

    pub(crate) fn ingest(&self, listen: &str, args: &str) -> Mqueue {
        let ingest = self.run(&format!("ingest --listen {listen} --to one {args}")).start();
        ingest.wait_to_say("listening on");
        ingest
    }

    fn stage(&self, from: &str, to: &str, args: &str) -> Mqueue {
        started(self.run(&format!("stage --from {from} --group g --to {to} {args}")))
    }

    /// Returns the bodies of a stream, all of which are there.
    pub(crate) fn bodies(&self, stream: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        // on a busy machine nsqd may be silent for a second while messages are on its disk
        wait_until("all of a stream", || {
            let consumer = self.run(&format!("consumer --stream {stream} --group check --output body --timeout 1"));
            bodies.extend(consumer.run().stdout.lines().map(str::to_owned));
            let stats = self.nsqd.stats();
            let topic = stats.topics.iter().find(|topic| topic.topic_name == stream).expect("it was consumed");
            topic.depth + topic.channels.iter().filter(|c| c.channel_name == "check").map(|c| c.depth).sum::<i64>() == 0
        });
        bodies
    }
}

fn started(stage: Mqueue) -> Mqueue {
    let stage = stage.start();
    stage.wait_to_say("consuming");
    stage
}

/// Sends SIGTERM and waits for the exit.
pub(crate) fn end(program: Mqueue) -> Finished {
    end_with(program, 0)
}

/// Sends SIGTERM and waits for the exit with this code.
fn end_with(program: Mqueue, code: i32) -> Finished {
    program.signal(Signal::SIGTERM);
    let finished = program.finish();
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    finished
}

/// Counts each id of the feed; every message is complete.
fn ids(bodies: &[String]) -> HashMap<u64, u64> {
    let mut times = HashMap::new();
    for body in bodies {
        let message: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
        *times.entry(message["id"].as_u64().expect("an id")).or_default() += 1;
    }
    times
}

/// Fails unless ids 1 to `count` are all there; returns the number of duplicates.
#[track_caller]
fn all_arrived(bodies: &[String], count: u64) -> u64 {
    let times = ids(bodies);
    let missing: Vec<u64> = (1..=count).filter(|id| !times.contains_key(id)).take(10).collect();
    assert!(missing.is_empty(), "{} of {count} arrived, missing {missing:?} …", times.len());
    assert_eq!(times.len() as u64, count, "nothing else arrived");
    times.values().map(|times| times - 1).sum()
}

/// Sends these bytes in one connection; returns the acknowledgement.
pub(crate) fn say(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("ingest listens");
    stream.write_all(bytes).expect("ingest reads");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn five_thousand_at_five_hundred_a_second_all_arrive() {
    let ran = mqueue("pipeline --rate 500 --count 5000").run();
    eprintln!("{}", ran.stdout);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.contains("received 5000, lost 0, duplicates 0"));
    assert!(ran.stdout.lines().filter(|line| line.contains(" s  ingest ")).count() >= 9, "a line each second");
}

#[test]
fn a_backlog_of_ten_times_the_rate_is_worked_off_on_nsqd() {
    needs!("nsqd");
    let nsqd = Nsqd::real(&[]);
    let args = "pipeline --rate 5000 --count 25000";
    let ran = mqueue(args).env("NSQD_TCP_ADDRESS", &nsqd.tcp()).env("NSQD_HTTP_ADDRESS", &nsqd.http()).run();
    eprintln!("{}", ran.stdout);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("received 25000, lost 0"));
    assert!(nsqd.stats().topics.is_empty(), "it leaves nothing behind");
}

#[test]
fn hops_stopped_replaced_and_killed_lose_no_message() {
    needs!("nsqd");
    let ground = Ground::new();
    let count = 4000;
    let newer = ground.at("newer-mqueue");
    std::fs::copy(env!("CARGO_BIN_EXE_mqueue"), &newer).expect("a copy");
    let args = "--expect message --msg-timeout 2s --handler sleep:10ms";
    let mut ingest = ground.ingest(&ground.socket(), "");
    let mut stages: Vec<Mqueue> =
        [("one", "two"), ("two", "three"), ("three", "end")].map(|(from, to)| ground.stage(from, to, args)).into();
    let arrived = || ground.nsqd.published("end");
    let more = |wanted: u64| wait_until(&format!("{wanted} arrived"), || arrived() >= wanted);
    let send = ground.run(&format!("send --to {} --rate 500 --count {count} --report json", ground.socket())).start();

    for (n, (from, to)) in [("one", "two"), ("two", "three"), ("three", "end")].into_iter().enumerate() {
        more(300 * (n as u64 + 1));
        end(stages.remove(n));
        let before = arrived();
        let stage = ground.run(&format!("stage --from {from} --group g --to {to} {args}")).program(&newer);
        stages.insert(n, started(stage));
        wait_until("messages after the stage was replaced", || arrived() > before + 100);
    }
    end(ingest);
    ingest = ground.ingest(&ground.socket(), "");
    let before = arrived();
    wait_until("messages after ingest was replaced", || arrived() > before + 100);
    stages[1].signal(Signal::SIGKILL);
    drop(stages.remove(1));
    stages.insert(1, ground.stage("two", "three", args));
    ingest.signal(Signal::SIGKILL);
    drop(ingest);
    // its file still exists, without a listener
    let ingest = ground.ingest(&ground.socket(), "");

    let sent = send.finish();
    assert_eq!(sent.code, Some(0), "{}{}", sent.stdout, sent.stderr);
    let sent: serde_json::Value = serde_json::from_str(&sent.stdout).expect("JSON");
    assert_eq!((&sent["sent"], &sent["acknowledged"]), (&count.into(), &count.into()), "{sent}");
    for stream in ["one", "two", "three"] {
        ground.nsqd.wait_for_empty(stream, "g");
    }
    stages.into_iter().for_each(|stage| drop(end(stage)));
    end(ingest);
    let duplicates = all_arrived(&ground.bodies("end"), count);
    eprintln!("{count} sent, {} again, {duplicates} duplicates, 0 lost", sent["sent_again"]);
    assert_eq!(ground.nsqd.published("one.dead") + ground.nsqd.published("two.dead"), 0, "no message was to blame");
}

#[test]
fn stages_pass_on_the_result_of_their_handler() {
    needs!("nsqd");
    let ground = Ground::new();
    let stage =
        ground.run("stage --from one --group g --to two --handler").arg("exec:tr a-z A-Z; [ $MQUEUE_ATTEMPTS = 1 ]");
    let stage = started(stage);
    ground.nsqd.publish_lines("one", b"{\"a\":1}\n{\"b\":2}");
    wait_until("two results", || ground.nsqd.published("two") == 2);
    let said = end(stage).stderr;
    assert!(said.contains("2 passed on, 0 to retry, 0 dead letters"), "{said}");
    let mut bodies = ground.bodies("two");
    bodies.sort();
    assert_eq!(bodies, ["{\"A\":1}", "{\"B\":2}"]);
}

#[test]
fn messages_that_violate_the_schema_or_have_no_result_become_dead_letters() {
    needs!("nsqd");
    let ground = Ground::new();
    let stage = ground.stage("one", "two", "--expect id:int --report json --handler exec:true");
    ground.nsqd.publish_lines("one", b"{\"id\":1}\n{\"id\":\n{\"id\":\"1\"}\n[]");
    wait_until("four dead letters", || ground.nsqd.published("one.dead") == 4);
    let last = end_with(stage, 5).stdout.lines().last().map(str::to_owned).expect("a report");
    let last: serde_json::Value = serde_json::from_str(&last).expect("JSON");
    let figures = ["passed", "unfit", "dead", "retried", "ended"].map(|name| last[name].to_string());
    assert_eq!(figures, ["0", "3", "4", "0", "true"], "{last}");
    let letters = ground.bodies("one.dead").join("\n");
    for why in ["malformed JSON", "is string, expected int", "array where an object", "output is empty"] {
        assert!(letters.contains(why), "{why}: {letters}");
    }
}

#[test]
fn an_unavailable_next_hop_is_waited_for_without_using_up_attempts() {
    needs!("nsqd");
    let ground = Ground::new();
    let to = format!("unix:{}", ground.at("next").display());
    let stage = ground.stage("one", &to, "--max-attempts 1 --retry-delay 0");
    let lines: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    ground.nsqd.publish_lines("one", lines.join("\n").as_bytes());
    stage.wait_to_say("next hop unreachable, its messages wait");
    wait_until("messages in flight", || ground.nsqd.channel("one", "g").in_flight_count > 0);
    // it is killed with a batch that it has read and not published
    let listener = UnixListener::bind(ground.at("next")).expect("a free name");
    let (mut first, _) = listener.accept().expect("the stage comes");
    assert!(first.read(&mut [0; 10]).expect("lines") > 0);
    drop((first, listener));
    std::fs::remove_file(ground.at("next")).expect("it was there");
    let ingest = ground.run(&format!("ingest --listen {to} --to two")).start();
    stage.wait_to_say("next hop reachable again");
    ground.nsqd.wait_for_empty("one", "g");
    let channel = ground.nsqd.channel("one", "g");
    assert_eq!((channel.requeue_count, channel.timeout_count, ground.nsqd.published("one.dead")), (0, 0, 0));
    end(stage);
    end(ingest);
    let mut bodies = ground.bodies("two");
    bodies.sort_by_key(|body| body.parse::<u64>().expect("a number"));
    assert_eq!(bodies, lines);
}

#[test]
fn a_stage_that_stops_while_its_next_hop_is_unavailable_releases_its_messages() {
    needs!("nsqd");
    let ground = Ground::new();
    ground.nsqd.create("one", "g");
    ground.nsqd.publish_lines("one", b"a\nb\nc");
    let stage = ground.stage("one", "http://127.0.0.1:1/", "");
    stage.wait_to_say("next hop unreachable");
    let said = end(stage).stderr;
    assert!(said.contains("0 passed on, 0 to retry, 0 dead letters"), "{said}");
    assert_eq!(ground.nsqd.channel("one", "g").depth, 3);
}

#[test]
fn an_http_hop_that_refuses_is_not_retried_and_a_busy_one_is() {
    needs!("nsqd");
    let ground = Ground::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        ["503 Busy", "422 No", "200 OK"].map(|status| {
            let mut stream = listener.accept().expect("the stage comes").0;
            let mut request = Vec::new();
            while !request.ends_with(b"body") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.extend(byte);
            }
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").expect("it reads");
        })
    });
    let stage = ground.stage("one", &format!("http://{address}/"), "");
    ground.nsqd.publish("one", b"a body");
    wait_until("the dead letter", || ground.nsqd.published("one.dead") == 1);
    ground.nsqd.publish("one", b"b body");
    server.join().expect("three requests");
    ground.nsqd.wait_for_empty("one", "g");
    assert!(end(stage).stderr.contains("1 passed on, 0 to retry, 1 dead letter (0 unfit)"));
}

#[test]
fn the_end_of_a_stream_is_acknowledged_after_publishing_with_refused_lines_counted() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest(&ground.socket(), "--max-line 20");
    assert_eq!(say(&ground.at("feed"), b"one\n\ntwo\nthree\n"), "OK 3\n");
    assert_eq!(ground.nsqd.published("one"), 3);
    let long = [&b"short\n"[..], &[b'x'; 300_000], b"\nlast\n"].concat();
    assert_eq!(say(&ground.at("feed"), &long), "OK 2 refused 1\n");
    assert_eq!(say(&ground.at("feed"), b""), "OK 0\n");
    let said = end(ingest).stderr;
    assert!(said.contains("5 read, 5 published, 1 too long"), "{said}");
    assert!(!ground.at("feed").exists(), "the socket goes with it");
    assert_eq!(ground.bodies("one"), ["one", "two", "three", "short", "last"]);
}

#[test]
fn sigterm_publishes_what_was_read_and_acknowledges_the_rest_as_missing() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest(&ground.socket(), "");
    let mut stream = UnixStream::connect(ground.at("feed")).expect("it listens");
    stream.write_all(b"one\ntwo\nhal").expect("it reads");
    wait_until("two lines", || ground.nsqd.published("one") == 2);
    ground.nsqd.signal(Signal::SIGSTOP);
    stream.write_all(b"f\nfour\nno line yet").expect("it reads");
    ingest.signal(Signal::SIGTERM);
    ground.nsqd.signal(Signal::SIGCONT);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "OK 4\n");
    let ended = ingest.finish();
    assert!(ended.code == Some(0) && ended.stderr.contains("4 published, 1 cut off"), "{}", ended.stderr);
    assert_eq!(ground.bodies("one"), ["one", "two", "half", "four"]);
}

#[test]
fn senders_are_throttled_without_loss_while_nsqd_is_unreachable() {
    needs!("nsqd");
    let mut ground = Ground::new();
    ground.nsqd.create("one", "check");
    let ingest = ground.ingest(&ground.socket(), "");
    let send = ground.run(&format!("send --to {} --rate max --count 300000", ground.socket())).start();
    wait_until("some messages", || ground.nsqd.published("one") > 10_000);
    ground.nsqd.stop();
    // the sender continues until the sockets' buffers are full; ingest holds a bounded amount
    ingest.wait_to_say("connection lost");
    let memory = ingest.own_memory();
    ground.nsqd.start_again();
    let sent = send.finish();
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    assert!(memory < 60 << 10, "{memory} KiB");
    end(ingest);
    let duplicates = all_arrived(&ground.bodies("one"), 300_000);
    eprintln!("{}, {duplicates} duplicates, {memory} KiB", sent.stderr.trim());
}

#[test]
fn datagrams_are_messages_and_a_full_queue_blocks_unix_senders() {
    needs!("nsqd");
    let ground = Ground::new();
    ground.nsqd.create("one", "check");
    let path = ground.at("packets");
    let listen = format!("unixgram:{}", path.display());
    let ingest = ground.ingest(&listen, "--max-line 100 --queue 4096");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(&path).expect("ingest listens");
    for packet in [&b"two\nlines\n"[..], b"", &[b'x'; 101], &[b'y'; 100]] {
        socket.send(packet).expect("ingest receives");
    }
    wait_until("two packets", || ground.nsqd.published("one") == 2);
    ground.nsqd.signal(Signal::SIGSTOP);
    let send = ground.run(&format!("send --to {listen} --rate max --count 3000")).start();
    socket.set_nonblocking(true).expect("a socket");
    wait_until("the socket is full", || socket.send(b"{\"id\":0}").is_err());
    ground.nsqd.signal(Signal::SIGCONT);
    let sent = send.finish();
    assert!(sent.stderr.contains("3000 sent, which nobody acknowledges"), "{}", sent.stderr);
    wait_until("all packets", || ground.nsqd.published("one") >= 3002);
    let said = end(ingest).stderr;
    assert!(said.contains("1 too long") && !said.contains("dropped"), "{said}");
    let bodies: Vec<String> = ground.bodies("one").into_iter().filter(|body| body.contains("shortcode")).collect();
    assert_eq!(all_arrived(&bodies, 3000), 0);
}

/// The datagrams that the kernel dropped before it knew their socket, as the loopback device's
/// queue was full. No socket counts these.
fn dropped_on_the_way() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").expect("Linux has it");
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).expect("two columns"), 16);
    text.lines().map(|line| dropped(line).expect("hexadecimal")).sum()
}

#[test]
fn udp_datagrams_dropped_by_the_kernel_are_counted_and_logged() {
    needs!("nsqd");
    let ground = Ground::new();
    let before = dropped_on_the_way();
    let ingest = ground.ingest("udp:127.0.0.1:0", "--queue 4096 --report json");
    let stderr = ingest.stderr();
    let port = stderr.split("udp:127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a port");
    let address = format!("127.0.0.1:{port}");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    ground.nsqd.signal(Signal::SIGSTOP);
    let mut sent = 0_u64;
    wait_until("drops", || {
        for _ in 0..5000 {
            sent += u64::from(socket.send_to(&[b'x'; 1000], &address).is_ok());
        }
        ingest.times_said("packets dropped by the kernel") > 0
    });
    ground.nsqd.signal(Signal::SIGCONT);
    let report = end(ingest).stdout;
    let last: serde_json::Value = serde_json::from_str(report.lines().last().expect("a line")).expect("JSON");
    let number = |name: &str| last[name].as_u64().expect("a number");
    let (counted, unseen) = (number("published") + number("dropped"), dropped_on_the_way() - before);
    assert!((sent - unseen..=sent).contains(&counted), "{sent} sent, {unseen} dropped on the way: {last}");
    assert_eq!(ground.nsqd.published("one"), number("published"));
}

#[test]
fn datagram_senders_find_a_restarted_ingest() {
    needs!("nsqd");
    let ground = Ground::new();
    let listen = format!("unixgram:{}", ground.at("packets").display());
    let ingest = ground.ingest(&listen, "");
    let send = ground.run(&format!("send --to {listen} --rate 1000 --count 2000")).start();
    wait_until("some packets", || ground.nsqd.published("one") > 100);
    ingest.signal(Signal::SIGKILL);
    drop(ingest);
    send.wait_to_say("takes no messages, trying again");
    let ingest = ground.ingest(&listen, "");
    let sent = send.finish();
    assert!(sent.code == Some(0) && sent.stderr.contains("takes messages again"), "{}", sent.stderr);
    end(ingest);
    let arrived = ids(&ground.bodies("one"));
    assert!(arrived.contains_key(&2000) && arrived.len() > 1000, "{} arrived", arrived.len());
}

#[test]
fn a_second_signal_gives_up_unpublished_messages_without_acknowledging_them() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest(&ground.socket(), "--report json");
    let mut stream = UnixStream::connect(ground.at("feed")).expect("it listens");
    ground.nsqd.signal(Signal::SIGSTOP);
    stream.write_all(b"one\n").expect("it reads");
    let reported =
        |what: &str| wait_until(what, || ingest.stdout().lines().last().is_some_and(|line| line.contains(what)));
    reported("\"read\":1");
    ingest.signal(Signal::SIGTERM);
    wait_until("the socket is gone", || !ground.at("feed").exists());
    ingest.signal(Signal::SIGTERM);
    let ended = ingest.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the end");
    assert_eq!(answer, "");
    ground.nsqd.signal(Signal::SIGCONT);
}

#[test]
fn packets_that_a_second_signal_gives_up_are_counted() {
    needs!("nsqd");
    let ground = Ground::new();
    let mut ingest = ground.ingest("udp:127.0.0.1:0", "--queue 4096 --report json");
    let stderr = ingest.stderr();
    let port = stderr.split("udp:127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a port");
    ground.nsqd.signal(Signal::SIGSTOP);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    for _ in 0..100 {
        socket.send_to(&[b'x'; 1000], format!("127.0.0.1:{port}")).expect("the kernel takes it");
    }
    // one is being published, some wait for it, and the rest waits in the socket
    wait_until("one is read", || ingest.stdout().lines().last().is_some_and(|line| !line.contains("\"read\":0,")));
    wait_until("it ends", || {
        ingest.signal(Signal::SIGTERM);
        ingest.has_ended()
    });
    let ended = ingest.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let last = ended.stdout.lines().last().expect("a line");
    assert!(last.starts_with(r#"{"read":100,"published":0,"#) && last.contains(r#""dropped":0,"#), "{last}");
    ground.nsqd.signal(Signal::SIGCONT);
}

#[test]
fn systemd_is_notified_of_start_status_and_stop() {
    needs!("nsqd");
    let ground = Ground::new();
    for args in
        [format!("ingest --listen {} --to one", ground.socket()), "stage --from one --group g --to two".to_owned()]
    {
        let path = ground.at("notify");
        let ear = UnixDatagram::bind(&path).expect("a free name");
        let program = ground.run(&args).env("NOTIFY_SOCKET", path.to_str().expect("UTF-8")).start();
        let heard = |wanted: &str| {
            let mut note = [0; 4096];
            std::iter::repeat_with(|| {
                ear.recv(&mut note).map(|length| String::from_utf8_lossy(&note[..length]).into_owned())
            })
            .map(|note| note.expect("a note"))
            .find(|note| note.contains(wanted))
            .expect("endless")
        };
        ear.set_read_timeout(Some(crate::support::PATIENCE)).expect("a valid timeout");
        heard("READY=1");
        assert!(heard("STATUS=").contains(" 0 "), "{args}");
        program.signal(Signal::SIGTERM);
        heard("STOPPING=1");
        assert_eq!(program.finish().code, Some(0));
        std::fs::remove_file(path).expect("it was there");
    }
}

#[test]
fn tcp_works_as_a_feed() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest("tcp:127.0.0.1:0", "");
    let stderr = ingest.stderr();
    let address = stderr.split("listening on ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("one");
    let sent = mqueue(&format!("send --to {address} --rate 2000 --count 1000 --first 1")).run();
    assert!(sent.code == Some(0) && sent.stderr.contains("1000 sent, 1000 acknowledged"), "{}", sent.stderr);
    end(ingest);
    assert_eq!(all_arrived(&ground.bodies("one"), 1000), 0);
}

#[test]
fn a_socket_passed_by_systemd_is_used_and_kept() {
    needs!("nsqd");
    let ground = Ground::new();
    let listener = UnixListener::bind(ground.at("feed")).expect("a free name");
    let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" ingest --to one"#;
    let ingest = Mqueue::shell(script).env("NSQD_TCP_ADDRESS", &ground.nsqd.tcp());
    let ingest = ingest.with_stdin_from(Stdio::from(std::os::fd::OwnedFd::from(listener))).start();
    ingest.wait_to_say("passed by systemd");
    assert_eq!(say(&ground.at("feed"), b"one\n"), "OK 1\n");
    end(ingest);
    assert!(ground.at("feed").exists(), "it is systemd's");
}

#[test]
fn handlers_forward_and_write_to_a_socket() {
    needs!("nsqd");
    let ground = Ground::new();
    let ingest = ground.ingest(&ground.socket(), "");
    ground.nsqd.publish_lines("zero", b"a\nb");
    for (stream, handler) in [("zero", ground.socket()), ("one", "forward:two".to_owned())] {
        let args = format!("consumer --stream {stream} --group g --count 2 --handler {handler}");
        assert_eq!(ground.run(&args).run().code, Some(0));
    }
    end(ingest);
    assert_eq!(ground.bodies("two").len(), 2);
}

#[test]
fn ctrl_c_ends_a_pipeline_with_its_summary_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipeline = mqueue("pipeline --rate 200 --count 100000").env("TMPDIR", folder.path().to_str().expect("UTF-8"));
    let pipeline = pipeline.start();
    wait_until("a line of progress", || pipeline.stdout().contains(" s  ingest "));
    pipeline.signal(Signal::SIGINT);
    let ran = pipeline.finish();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("still on their way, duplicates 0"), "{}", ran.stdout);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn bad_input_is_one_line_and_a_code() {
    needs!("nsqd");
    let ground = Ground::new();
    std::fs::write(ground.at("file"), "").expect("a file");
    let live = UnixListener::bind(ground.at("live")).expect("a free name");
    let at = |name: &str| ground.at(name).display().to_string();
    let cases = [
        ("ingest --to one --listen ftp:x".to_owned(), 2, "use unix:/PATH, unixgram:/PATH, tcp:HOST:PORT"),
        ("ingest --to one".to_owned(), 2, "name an address with --listen"),
        (format!("ingest --to one --listen unix:{}", at("no/feed")), 1, "its folder does not exist"),
        (format!("ingest --to one --listen unix:{}", at("live")), 1, "another process listens there"),
        (format!("ingest --to one --listen unixgram:{}", at("live")), 1, "another process listens there"),
        (format!("ingest --to one --listen unix:{}", at("file")), 1, "not a socket: name another path"),
        (format!("ingest --to one --listen tcp:{}", ground.nsqd.tcp()), 1, "another process listens there"),
        ("ingest --to one --listen unix:/x --max-line 0".to_owned(), 2, "0"),
        ("ingest --to one --listen unix:/x --queue 1".to_owned(), 2, "1"),
        (format!("ingest --to one --listen unix:/{}", "x".repeat(120)), 2, "at most 107 bytes"),
        ("stage --from one --group g --to one".to_owned(), 2, "would feed itself"),
        ("consumer --stream one --group g --handler forward:one".to_owned(), 2, "would feed itself"),
        ("consumer --stream one --group g --handler unix:".to_owned(), 2, "use unix:/PATH"),
        ("stage --from one --group g --to ftp://x".to_owned(), 2, "use a stream's name, unix:/PATH"),
        ("stage --from one --group g --to two --expect id:integer".to_owned(), 2, "types: int, number"),
        ("stage --from one --group g --to two --handler nosuch".to_owned(), 2, "unknown handler"),
        ("stage --from one --group g --to two --handler exec:nosuch".to_owned(), 2, "not found"),
        ("stage --from one --group g --to two --concurrency 0".to_owned(), 2, "0"),
        (format!("send --to unix:{}", at("nobody")), 69, "mqueue ingest --listen unix:"),
        (format!("send --to unixgram:{}", at("nobody")), 69, "nobody listens on"),
        ("send --to unix:/x --rate 0".to_owned(), 2, "or max"),
        ("send --to unix:/x --count 0".to_owned(), 2, "0"),
        ("pipeline --stages 0".to_owned(), 2, "0"),
        ("pipeline --stages 51".to_owned(), 2, "51"),
        ("pipeline --work 1h".to_owned(), 2, "a minute is the most"),
        ("pipeline --rate fast".to_owned(), 2, "or max"),
    ];
    for (args, code, says) in cases {
        let ran = ground.run(&args).run();
        let errors = ran.stderr.lines().filter(|l| l.starts_with("mqueue: ") || l.starts_with("error: ")).count();
        assert_eq!((ran.code, errors), (Some(code), 1), "{args}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args}: {says:?} is missing in {}", ran.stderr);
    }
    drop(live);
    assert!(ground.at("file").exists());
    assert!(request(&ground.nsqd.http(), "GET", "/ping", b"").contains("OK"), "nsqd is well");
}
