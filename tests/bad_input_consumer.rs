//! Invalid input of the consumer, beside `bad_input`: one line of mqueue's or clap's, no panic and
//! no hang.

use std::net::TcpListener;

use crate::support::{Nsqd, consumer, mqueue, needs};

/// Checks that a consumer with these arguments ends with this code and an error of one line with
/// all these texts.
#[track_caller]
fn fails(args: &[&str], code: i32, says: &[&str]) {
    let start = "consumer --stream foo --group 1";
    let finished = args.iter().fold(mqueue(start), |consumer, arg| consumer.arg(arg)).run();
    let stderr = &finished.stderr;
    assert_eq!(finished.code, Some(code), "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error: ") || line.starts_with("mqueue: ")).count();
    assert_eq!((errors, finished.stdout.as_str()), (1, ""), "{args:?}: {stderr}");
    if code != 2 || stderr.starts_with("mqueue: ") {
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    }
    for part in says {
        assert!(stderr.contains(part), "{args:?}: {part:?} is missing in: {stderr}");
    }
}

#[test]
fn an_unreachable_nsqd_is_one_line_with_the_address_and_make_up() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fails(&["--nsqd-tcp-address", &free], 69, &[&free, "refused", "make up"]);
    fails(&["--lookupd-http-address", &free], 69, &[&free, "nsqlookupd"]);
}

#[test]
fn an_invalid_host_or_port_is_one_line() {
    fails(&["--nsqd-tcp-address", "no-such-host.invalid:4150"], 69, &["no-such-host.invalid:4150"]);
    fails(&["--lookupd-http-address", "no-such-host.invalid:4161"], 69, &["no-such-host.invalid"]);
    for address in ["localhost", "localhost:99999", "localhost:0", "http://localhost:4150", ""] {
        fails(&["--nsqd-tcp-address", address], 2, &["HOST:PORT"]);
    }
}

#[test]
fn the_other_port_of_nsqd_is_named() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    fails(&["--nsqd-tcp-address", &nsqd.http()], 69, &["speaks HTTP", "4150"]);
    fails(&["--lookupd-http-address", &nsqd.tcp()], 69, &[&nsqd.tcp()]);
}

#[test]
fn invalid_names_are_refused_before_a_command_is_sent() {
    for (flag, name) in
        [("--stream", "a b"), ("--stream", ""), ("--stream", "grün"), ("--group", "a/b"), ("--group", "x#ephemeral2")]
    {
        let args = match flag {
            "--stream" => ["consumer", "--group", "1", flag, name],
            _ => ["consumer", "--stream", "foo", flag, name],
        };
        let finished = args.iter().fold(mqueue(""), |consumer, arg| consumer.arg(arg)).run();
        assert_eq!(finished.code, Some(2), "{name:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("letters, digits, . _ -"), "{name:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{name:?}: {}", finished.stderr);
    }
    fails(&["--dead-letter", "a b"], 2, &["a b", "letters, digits, . _ -"]);
}

#[test]
fn handlers_that_cannot_work_are_refused_before_the_first_message() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display();
    let (missing, directory) = (format!("file:{folder}/no/such/file"), format!("file:{folder}"));
    for (handler, says) in [
        ("no-such-handler", "unknown handler \"no-such-handler\""),
        ("exec:", "names no command"),
        ("exec:/no/such/command --flag", "\"/no/such/command\" not found"),
        ("exec:/etc/passwd", "not executable"),
        ("file:", "names no file"),
        (&missing, "no such file or directory"),
        (&directory, "is a directory"),
        ("http://", "invalid URL"),
        ("ftp://localhost/", "unknown handler"),
        ("sleep:soon", "invalid time \"soon\""),
        ("sleep:2s..1s", "invalid time \"2s..1s\""),
    ] {
        fails(&["--handler", handler], 2, &[says]);
    }
}

#[test]
fn invalid_numbers_and_durations_are_refused() {
    for flag in ["--count=0", "--count=-1", "--count=many", "--max-in-flight=0", "--concurrency=0"] {
        fails(&[flag], 2, &[flag.split('=').next().unwrap()]);
    }
    for flag in ["--timeout=soon", "--timeout=-1", "--grace=", "--retry-delay=1 hour ago", "--timeout=nan"] {
        fails(&[flag], 2, &[flag.split('=').next().unwrap(), "use seconds"]);
    }
    fails(&["--max-attempts=65536"], 2, &["65536"]);
    fails(&["--output=xml"], 2, &["json", "body", "null"]);
    fails(&["--no-such-flag"], 2, &["--no-such-flag"]);
    fails(&["--log", "a=b=c"], 2, &["for '--log"]);
}

#[test]
fn a_refused_message_timeout_is_reported_with_nsqds_error() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    for timeout in ["--msg-timeout=10ms", "--msg-timeout=1h"] {
        let finished = consumer(&nsqd.tcp(), timeout).run();
        assert_eq!(finished.code, Some(69), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("E_BAD_BODY") && finished.stderr.contains("msg timeout"),
            "{}",
            finished.stderr
        );
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
}

#[test]
fn a_stream_that_would_be_fed_its_own_dead_letters_is_refused() {
    fails(&["--dead-letter", "foo", "--handler", "exec:false"], 2, &["stream foo would be fed its own dead letters"]);
}

#[test]
fn an_output_that_the_handler_does_not_have_is_refused() {
    for handler in ["exec:true", "http://localhost/", "unix:/tmp/x"] {
        fails(&["--output", "body", "--handler", handler], 2, &["--output is for --handler print and file:PATH"]);
    }
}
