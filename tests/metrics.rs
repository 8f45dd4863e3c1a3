//! `/metrics` and `/healthz` of every command: the counts equal what was done.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::support::{Client, Gateway, Mqueue, Nsqd, Told, Wire, consumer, mqueue, needs, request, wait_until};

const GROUP: &str = r#"{stream="foo",group="1"}"#;

/// A consumer of stream `foo` and group `1` with metrics.
fn measured(nsqd: &Nsqd, args: &[&str]) -> (Mqueue, Told) {
    let program = args.iter().fold(consumer(&nsqd.tcp(), "--listen 127.0.0.1:0"), |program, arg| program.arg(arg));
    let program = program.start();
    let told = Told::metrics_of(&program);
    (program, told)
}

/// The counters of a group, by their names between `mqueue_messages_` and `_total`.
fn counts(told: &Told, labels: &str, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| told.metric(&format!("mqueue_messages_{name}_total{labels}")) as u64).collect()
}

#[test]
fn a_consumer_counts_what_became_of_each_message() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    // fails twice, so that it is a dead letter; is dropped at once; is done
    let handler = r#"--handler=exec:case "$(cat)" in fail) exit 1;; drop) exit 65;; esac"#;
    let (_consumer, told) = measured(&nsqd, &[handler, "--max-attempts=2", "--retry-delay=0", "--max-backoff=0"]);
    nsqd.publish_lines("foo", b"ok\nfail\nok\ndrop\nok\nok\nfail\nok\n");
    told.wait_for_metric(&format!("mqueue_messages_dead_total{GROUP}"), 3.0);
    told.wait_for_metric(&format!("mqueue_messages_handled_total{GROUP}"), 5.0);
    let names = ["handled", "failed", "retried", "dead", "redelivered", "given_back"];
    assert_eq!(counts(&told, GROUP, &names), [5, 5, 2, 3, 2, 0]);
    assert_eq!(told.metric(&format!("mqueue_handler_seconds_count{GROUP}")), 10.0, "a run for each try");
    assert_eq!(told.metric(&format!("mqueue_end_to_end_seconds_count{GROUP}")), 5.0);
    let infinite = r#"mqueue_end_to_end_seconds_bucket{le="+Inf",stream="foo",group="1"}"#;
    assert_eq!(told.metric(infinite), 5.0);
    let took = told.metric(&format!("mqueue_handler_seconds_sum{GROUP}"));
    assert!(took > 0.0 && took < 60.0, "{took}");
    assert_eq!(nsqd.published("foo.dead"), 3);
    assert_eq!(told.metric(&format!("mqueue_oldest_age_seconds{GROUP}")), 0.0);
    nsqd.wait_for_empty("foo", "1");
    told.wait_for_metric(&format!("mqueue_messages_in_flight{GROUP}"), 0.0);
}

#[test]
fn a_scrape_during_work_shows_the_message_in_hand() {
    needs!("nsqd");
    let (nsqd, folder) = (Nsqd::start(), tempfile::tempdir().unwrap());
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    let gate = folder.path().join("gate");
    let handler = format!("--handler=exec:until [ -e {} ]; do sleep 0.01; done", gate.display());
    let (consumer, told) = measured(&nsqd, &[&handler]);
    told.wait_for_metric(&format!("mqueue_messages_in_flight{GROUP}"), 1.0);
    let age = || told.metric(&format!("mqueue_oldest_age_seconds{GROUP}"));
    wait_until("an age that grows", || age() > 0.2);
    assert!(age() < 60.0, "{}", age());
    assert_eq!(told.metric(&format!("mqueue_handler_seconds_count{GROUP}")), 0.0, "it has not ended");
    assert_eq!((told.metric(&format!("mqueue_connections{GROUP}")), told.get("/healthz").0), (1.0, 200));
    std::fs::write(gate, "").unwrap();
    told.wait_for_metric(&format!("mqueue_messages_handled_total{GROUP}"), 1.0);
    assert!(told.metric(&format!("mqueue_end_to_end_seconds_sum{GROUP}")) > 0.2);
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(0));
}

#[test]
fn a_handler_of_batches_has_one_run_a_batch() {
    needs!("nsqd");
    let (nsqd, folder) = (Nsqd::start(), tempfile::tempdir().unwrap());
    nsqd.create("foo", "1");
    nsqd.publish_lines("foo", "x\n".repeat(500).as_bytes());
    let handler = format!("--handler=file:{}", folder.path().join("out").display());
    let (_consumer, told) = measured(&nsqd, &[&handler]);
    told.wait_for_metric(&format!("mqueue_messages_handled_total{GROUP}"), 500.0);
    let runs = told.metric(&format!("mqueue_handler_seconds_count{GROUP}"));
    assert!((1.0..=500.0).contains(&runs), "{runs}");
    assert_eq!(told.metric(&format!("mqueue_end_to_end_seconds_count{GROUP}")), 500.0);
}

#[test]
fn messages_that_a_stopping_consumer_returns_are_given_back() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let (consumer, told) = measured(&nsqd, &["--handler=exec:exec sleep 60", "--concurrency=1", "--max-in-flight=3"]);
    nsqd.publish_lines("foo", b"1\n2\n3\n");
    told.wait_for_metric(&format!("mqueue_messages_in_flight{GROUP}"), 3.0);
    consumer.signal(Signal::SIGTERM);
    // the running handler has its time; the metrics are served meanwhile
    told.wait_for_metric(&format!("mqueue_messages_given_back_total{GROUP}"), 2.0);
    assert_eq!(counts(&told, GROUP, &["handled", "failed"]), [0, 0]);
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(130));
}

#[test]
fn health_follows_the_connection() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let (_consumer, told) = measured(&nsqd, &[]);
    let producer = format!("producer --stream foo --interval 10ms --nsqd-tcp-address {}", nsqd.tcp());
    let producer = mqueue(&producer).arg("--listen=127.0.0.1:0").start();
    let of_producer = Told::metrics_of(&producer);
    for told in [&told, &of_producer] {
        wait_until("health", || told.get("/healthz") == (200, "ok\n".to_owned()));
    }
    nsqd.stop();
    for told in [&told, &of_producer] {
        wait_until("ill health", || told.get("/healthz").0 == 503);
        assert_eq!(told.get("/healthz").1, "no connection to nsqd\n");
        assert!(told.get("/metrics").1.contains("\nmqueue_connections{"), "metrics are served all the same");
    }
    told.wait_for_metric(&format!("mqueue_connections{GROUP}"), 0.0);
    nsqd.start_again();
    for told in [&told, &of_producer] {
        wait_until("health", || told.get("/healthz").0 == 200);
    }
}

#[test]
fn a_producer_counts_what_nsqd_has_and_what_it_refused() {
    needs!("nsqd");
    let nsqd = Nsqd::with(&["--max-msg-size=100"]);
    let wire = Wire::to(nsqd.tcp());
    let args = format!("producer --stream foo --nsqd-tcp-address {} --listen 127.0.0.1:0", wire.address());
    let mut producer = mqueue(&args).with_stdin().start();
    let (told, mut stdin) = (Told::metrics_of(&producer), producer.stdin());
    let long = "x".repeat(200);
    write!(stdin, "1\n2\n{long}\n\n3\n4\n5\n").unwrap();
    let stream = r#"{stream="foo"}"#;
    told.wait_for_metric(&format!("mqueue_messages_published_total{stream}"), 5.0);
    told.wait_for_metric(&format!("mqueue_publish_failures_total{stream}"), 1.0);
    assert_eq!(told.metric(&format!("mqueue_publish_seconds_count{stream}")), 5.0);
    assert_eq!(told.metric(&format!("mqueue_messages_unacknowledged{stream}")), 0.0);
    assert_eq!(nsqd.published("foo"), 5);
    wire.cut();
    stdin.write_all(b"6\n7\n").unwrap();
    told.wait_for_metric(&format!("mqueue_messages_unacknowledged{stream}"), 2.0);
    wire.mend();
    told.wait_for_metric(&format!("mqueue_messages_published_total{stream}"), 7.0);
    drop(stdin);
    assert_eq!(producer.finish().code, Some(1), "one message was not published");
}

#[test]
fn a_stage_counts_as_a_consumer_of_its_stream() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let args = format!("stage --from foo --group 1 --to bar --expect id:int --nsqd-tcp-address {}", nsqd.tcp());
    let stage = mqueue(&format!("{args} --listen 127.0.0.1:0")).start();
    let told = Told::metrics_of(&stage);
    nsqd.publish_lines("foo", b"{\"id\":1}\n{\"id\":2}\nno\n");
    told.wait_for_metric(&format!("mqueue_messages_dead_total{GROUP}"), 1.0);
    told.wait_for_metric(&format!("mqueue_messages_handled_total{GROUP}"), 2.0);
    assert_eq!(nsqd.published("bar"), 2);
    assert_eq!(told.metric(&format!("mqueue_end_to_end_seconds_count{GROUP}")), 2.0);
}

#[test]
fn ingest_counts_lines_and_senders() {
    needs!("nsqd");
    let (nsqd, folder) = (Nsqd::start(), tempfile::tempdir().unwrap());
    let socket = folder.path().join("in.sock");
    let args = format!("ingest --listen unix:{} --to foo --max-line 10", socket.display());
    let ingest = mqueue(&format!("{args} --nsqd-tcp-address {} --metrics-listen 127.0.0.1:0", nsqd.tcp())).start();
    let told = Told::metrics_of(&ingest);
    wait_until("health", || told.get("/healthz").0 == 200);
    let mut sender = UnixStream::connect(&socket).unwrap();
    sender.write_all(b"one\ntwo\na line that is too long\nthree\nunfinis").unwrap();
    told.wait_for_metric(r#"mqueue_messages_published_total{stream="foo"}"#, 3.0);
    assert_eq!(told.metric(r#"mqueue_publish_seconds_count{stream="foo"}"#), 3.0);
    assert_eq!((told.metric("mqueue_ingest_senders"), told.metric("mqueue_ingest_too_long_total")), (1.0, 1.0));
    sender.shutdown(std::net::Shutdown::Write).unwrap();
    sender.read_to_end(&mut Vec::new()).unwrap();
    told.wait_for_metric("mqueue_ingest_senders", 0.0);
    assert_eq!((told.metric("mqueue_ingest_received_total"), told.metric("mqueue_ingest_cut_off_total")), (3.0, 1.0));
    assert_eq!(nsqd.published("foo"), 3);
}

#[test]
fn a_gateway_and_its_worker_count_the_same() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    let gateway = Gateway::start(&nsqd, "--retry-delay 0 --max-attempts 2");
    let at_gateway = Told::at(&gateway.address);
    let args = format!("worker --queue http://{} --stream foo --group 1 --max-backoff 0", gateway.address);
    let worker = mqueue(&format!("{args} --in-flight 4 --listen 127.0.0.1:0"))
        .arg(r#"--handler=exec:case "$(cat)" in fail) exit 1;; drop) exit 65;; esac"#)
        .start();
    let told = Told::metrics_of(&worker);
    wait_until("a stream of jobs", || told.get("/healthz").0 == 200);
    nsqd.publish_lines("foo", b"ok\nfail\nok\ndrop\nok\n");
    for told in [&told, &at_gateway] {
        told.wait_for_metric(&format!("mqueue_messages_handled_total{GROUP}"), 3.0);
    }
    at_gateway.wait_for_metric(&format!("mqueue_messages_dead_total{GROUP}"), 2.0);
    // the worker does not know which retry was the last
    told.wait_for_metric(&format!("mqueue_messages_retried_total{GROUP}"), 2.0);
    let names = ["handled", "failed", "retried", "dead", "redelivered", "given_back"];
    assert_eq!(counts(&at_gateway, GROUP, &names), [3, 3, 1, 2, 1, 0]);
    assert_eq!(counts(&told, GROUP, &names), [3, 3, 2, 1, 1, 0]);
    for told in [&told, &at_gateway] {
        assert_eq!(told.metric(&format!("mqueue_handler_seconds_count{GROUP}")), 6.0);
        assert_eq!(told.metric(&format!("mqueue_end_to_end_seconds_count{GROUP}")), 3.0);
        told.wait_for_metric(&format!("mqueue_messages_in_flight{GROUP}"), 0.0);
    }
    assert_eq!((gateway.metric("jobs_done_total"), gateway.metric("jobs_dead_total")), (3, 2), "the names of before");
    drop(gateway);
    wait_until("ill health", || told.get("/healthz") == (503, "no stream of jobs from the gateway\n".to_owned()));
}

#[test]
fn the_jobs_of_a_worker_that_left_were_retried_and_a_closed_group_keeps_its_counts() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let told = Told::at(&gateway.address);
    gateway.publish_lines("foo", b"1\n2\n");
    let mut worker = gateway.worker("foo", "1", "in_flight=2");
    let (one, _two) = (worker.job().unwrap(), worker.job().unwrap());
    wait_until("the age of a job", || told.metric(&format!("mqueue_oldest_age_seconds{GROUP}")) > 0.05);
    assert_eq!(gateway.answer(&one, "done").status, 200);
    drop(worker);
    told.wait_for_metric(&format!("mqueue_messages_retried_total{GROUP}"), 1.0);
    wait_until("the end of the group", || gateway.metric("groups") == 0);
    assert_eq!(counts(&told, GROUP, &["handled", "retried", "dead"]), [1, 1, 0]);
    assert!(!told.get("/metrics").1.contains("mqueue_connections"), "a closed group misses no connection");
}

#[test]
fn a_node_counts_generated_and_handled_events() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let args = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let node = |extra: &str| {
        let flags = "--mport 0 --ping-interval 1s --interval 5ms --handler sleep:0ms --listen 127.0.0.1:0";
        let program = mqueue(&format!("node {flags} {args} {extra}")).start();
        (Told::metrics_of(&program), program)
    };
    let ((first, _first), (second, _second)) = (node("--invalid 0"), node("--invalid 0"));
    let generates = |told: &Told| told.metric("mqueue_node_generating") == 1.0;
    wait_until("a generator", || generates(&first) || generates(&second));
    let (generator, other) = if generates(&first) { (&first, &second) } else { (&second, &first) };
    let handled = r#"mqueue_messages_handled_total{stream="a",group="1"}"#;
    let published = r#"mqueue_messages_published_total{stream="a"}"#;
    wait_until("handled events", || other.metric(handled) >= 20.0);
    assert!(generator.metric(published) >= 20.0 && generator.metric("mqueue_node_epoch") >= 1.0);
    assert_eq!((generator.metric("mqueue_node_terms_total"), other.metric(published)), (1.0, 0.0));
    for told in [generator, other] {
        wait_until("health", || told.get("/healthz").0 == 200);
        assert!(told.metric(r#"mqueue_connections{stream="a",group="1"}"#) >= 1.0, "the generator, too");
    }
}

#[test]
fn a_broker_counts_refused_publishes_and_says_why_it_is_ill() {
    let broker = Nsqd::embedded(&["--memory", "--max-memory=1000"]);
    broker.create("foo", "1");
    let told = Told::at(&broker.http());
    broker.publish("foo", &[b'x'; 900]);
    assert_eq!(
        (told.metric("mqueue_broker_publishes_refused_total"), told.get("/healthz")),
        (0.0, (200, "ok\n".into()))
    );
    assert!(broker.post("/pub?topic=foo").contains("MSG_EMPTY"), "an invalid message is not refused for room");
    let (mut client, _) = Client::identified(&broker, "{}");
    client.say(&format!("PUB foo\n\0\0\0x{}", "x".repeat(120)));
    let refused = client.frame();
    assert!(refused.contains("E_PUB_FAILED"), "{refused}");
    told.wait_for_metric("mqueue_broker_publishes_refused_total", 1.0);
    assert!(request(&broker.http(), "POST", "/pub?topic=foo", &[b'x'; 200]).contains("EXITING"));
    told.wait_for_metric("mqueue_broker_publishes_refused_total", 2.0);
    assert!(!told.get("/metrics").1.contains("mqueue_broker_log_sync"), "there is no log");
}

#[test]
fn a_broker_measures_syncs() {
    for sync in ["always", "interval"] {
        let broker = Nsqd::embedded(&[&format!("--sync={sync}")]);
        broker.create("foo", "1");
        let told = Told::at(&broker.http());
        broker.publish("foo", b"x");
        wait_until("a synced log", || told.metric("mqueue_broker_log_unsynced_bytes") == 0.0);
        let synced = told.metric("mqueue_broker_log_sync_seconds_count");
        broker.publish("foo", b"y");
        wait_until("a sync", || told.metric("mqueue_broker_log_sync_seconds_count") > synced);
        assert!(told.metric("mqueue_broker_log_sync_seconds_sum") > 0.0, "{sync}");
    }
    let never = Nsqd::embedded(&["--sync=never"]);
    never.publish("foo", b"x");
    assert!(!Told::at(&never.http()).get("/metrics").1.contains("sync"));
}

#[test]
fn an_address_in_use_is_one_line_and_without_the_flag_nothing_listens() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let tcp = nsqd.tcp();
    for (command, flag) in [
        (format!("producer --stream a --nsqd-tcp-address {tcp}"), "--listen"),
        (format!("consumer --stream a --group g --nsqd-tcp-address {tcp}"), "--listen"),
        (format!("stage --from a --group g --to b --nsqd-tcp-address {tcp}"), "--listen"),
        (format!("node --nsqd-tcp-address {tcp} --nsqd-http-address {}", nsqd.http()), "--listen"),
        ("worker".to_owned(), "--listen"),
        (format!("ingest --listen tcp:127.0.0.1:0 --to a --nsqd-tcp-address {tcp}"), "--metrics-listen"),
    ] {
        let finished = mqueue(&format!("{command} {flag} {address}")).run();
        let line = format!("mqueue: cannot listen on {address}: address already in use: choose another {flag}");
        assert_eq!((finished.code, finished.stderr.trim_end()), (Some(1), line.as_str()), "{command}");
    }
    nsqd.publish("a", b"x");
    let quiet = mqueue(&format!("consumer --stream a --group g --count 1 --nsqd-tcp-address {tcp}")).run();
    assert!(quiet.code == Some(0) && !quiet.stderr.contains("listening"), "{}", quiet.stderr);
}
