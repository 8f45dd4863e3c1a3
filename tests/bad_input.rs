//! Invalid input: an error of one line, and the right exit code.

use std::net::TcpListener;

use crate::support::{Nsqd, mqueue, needs};

/// Runs the command; checks its exit code, that its error is one line, and that the line has these
/// texts.
#[track_caller]
fn fails(args: &str, code: i32, says: &[&str]) {
    let finished = mqueue(args).run();
    assert_eq!(finished.code, Some(code), "{args}: {}", finished.stderr);
    let errors: Vec<&str> =
        finished.stderr.lines().filter(|l| l.starts_with("mqueue: ") || l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args}: one line says what is wrong: {}", finished.stderr);
    for part in says {
        assert!(finished.stderr.contains(part), "{args}: {part:?} is missing in: {}", finished.stderr);
    }
    assert!(finished.stdout.is_empty(), "{args}: stdout is for data: {}", finished.stdout);
}

#[test]
fn an_unreachable_nsqd_is_one_line_with_a_hint() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    for command in ["producer", "consumer --group 1"] {
        let args = format!("{command} --stream foo --nsqd-tcp-address {free}");
        fails(&args, 69, &[&free.to_string(), "make up"]);
    }
    fails(
        &format!("consumer --stream foo --group 1 --lookupd-http-address {free}"),
        69,
        &["nsqlookupd", &free.to_string()],
    );
}

#[test]
fn nsqds_http_port_is_recognised_as_the_wrong_port() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    for command in ["producer", "consumer --group 1"] {
        fails(&format!("{command} --stream foo --nsqd-tcp-address {}", nsqd.http()), 69, &["HTTP", "4150"]);
    }
}

#[test]
fn an_unresolvable_host_is_one_line() {
    for command in ["producer", "consumer --group 1"] {
        fails(
            &format!("{command} --stream foo --nsqd-tcp-address no.such.host.invalid:4150"),
            69,
            &["no.such.host.invalid"],
        );
    }
}

#[test]
fn invalid_names_are_refused() {
    fails("producer --stream a/b", 2, &["a/b", "at most 64"]);
    fails("consumer --stream foo --group a:b", 2, &["a:b", "at most 64"]);
    fails(&format!("consumer --group 1 --stream {}", "x".repeat(60)), 2, &["--dead-letter"]);
}

#[test]
fn invalid_handlers_are_refused() {
    fails("consumer --stream foo --group 1 --handler nosuch", 2, &["nosuch", "print", "exec:"]);
    fails("consumer --stream foo --group 1 --handler exec:no-such-command", 2, &["no-such-command", "not found"]);
    fails("consumer --stream foo --group 1 --handler file:/no/such/folder/x", 2, &["/no/such/folder/x"]);
}

#[test]
fn system_errors_are_shown_without_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (missing, taken) = (folder.path().join("missing"), taken.local_addr().unwrap());
    let missing = missing.display();
    let (no_file, in_use) = ("no such file or directory", "address already in use");
    for (args, code, says) in [
        (format!("producer --stream foo {missing}"), 1, no_file),
        (format!("producer --stream foo --auth-secret-file {missing}"), 2, no_file),
        (format!("consumer --stream foo --group 1 --tls --tls-ca-file {missing}"), 2, no_file),
        (format!("consumer --stream foo --group 1 --handler file:{missing}/x"), 2, no_file),
        (format!("consumer --stream foo --group 1 --listen {taken}"), 1, in_use),
        (format!("ingest --listen unix:{missing}/x --to foo"), 1, "its folder does not exist"),
        (format!("ingest --listen tcp:{taken} --to foo"), 1, "another process listens there"),
        (format!("ingest --listen udp:127.0.0.1:0 --to foo --metrics-listen {taken}"), 1, in_use),
        (format!("send --to unix:{missing}"), 69, no_file),
        (format!("send --to unixgram:{missing}"), 69, no_file),
        (format!("gateway --listen {taken}"), 1, in_use),
        (format!("gateway --bearer-token-file {missing}"), 2, no_file),
        (format!("web --listen {taken}"), 1, in_use),
        (format!("web --bearer-token-file {missing}"), 2, no_file),
        (format!("wakeup --socket-dir {missing} --listen {taken}"), 1, in_use),
        (format!("broker --memory --tcp-address {taken}"), 1, in_use),
        (format!("broker --memory --tcp-address 127.0.0.1:0 --http-address {taken}"), 1, in_use),
        (format!("broker --config {missing}"), 2, no_file),
        (format!("simulate --duration 1s --plot {missing}/x.svg"), 1, no_file),
    ] {
        fails(&args, code, &[says]);
    }
}

#[test]
fn missing_and_invalid_flags_are_refused() {
    fails("consumer", 2, &["--stream", "--group"]);
    fails("producer", 2, &["--stream"]);
    fails("consumer --stream foo --group 1 --timeout soon", 2, &["soon", "30s"]);
    fails("consumer --stream foo --group 1 --count 0", 2, &["--count"]);
    fails("consumer --stream foo --group 1 --nsqd-tcp-address host", 2, &["host", "HOST:PORT"]);
    fails("producer --stream foo /no/such/file", 1, &["/no/such/file"]);
}

#[test]
fn a_message_over_the_limit_is_reported_with_size_and_flag_and_others_are_published() {
    needs!("nsqd");
    let nsqd = Nsqd::with(&["--max-msg-size=1000"]);
    let input = format!("small\n{}\n\nlast", "x".repeat(2000));
    let args = format!("producer --stream foo --nsqd-tcp-address {} -", nsqd.tcp());
    let finished = mqueue(&args).run_with(input.as_bytes());
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    for part in ["2000", "1000", "--max-msg-size"] {
        assert!(finished.stderr.contains(part), "{part:?} is missing in: {}", finished.stderr);
    }
    assert_eq!(nsqd.published("foo"), 2);
}
