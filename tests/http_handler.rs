//! The HTTP handler with a real nsqd: the status is the verdict.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Finished, Mqueue, Nsqd, consumer, mqueue, needs, wait_until};

/// A web server that sends these responses, one per request and connection, the last one
/// repeatedly.
struct Web {
    address: String,
    /// The body of each request, with its time.
    requests: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Web {
    fn start(answers: impl AsRef<[&'static str]>) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").unwrap(), answers)
    }

    fn serve(listener: TcpListener, answers: impl AsRef<[&'static str]>) -> Self {
        let answers = answers.as_ref().to_vec();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        thread::spawn(move || {
            let last = answers.last().unwrap();
            for answer in answers.iter().chain(std::iter::repeat(last)) {
                let Ok((stream, _)) = listener.accept() else { return };
                let mut stream = BufReader::new(stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                let _ = stream.read_exact(&mut body);
                log.lock().unwrap().push((String::from_utf8(body).unwrap(), Instant::now()));
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.get_mut().write_all(answer.as_bytes());
            }
        });
        Self { address, requests }
    }

    fn bodies(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(body, _)| body.clone()).collect()
    }
}

/// Starts a consumer that posts to `address`, without pauses, until one message has left the queue.
fn posting(nsqd: &Nsqd, address: &str) -> Mqueue {
    nsqd.publish("foo", b"body");
    let args = format!("--handler http://{address}/hook --count 1 --retry-delay 0 --max-backoff 0 --max-attempts 0");
    consumer(&nsqd.tcp(), &args).start()
}

#[track_caller]
fn succeeds(consumer: Mqueue) {
    let Finished { code, stderr, .. } = consumer.finish();
    assert_eq!(code, Some(0), "{stderr}");
}

/// Simulates a system without ca-certificates.
fn without_certificates(program: Mqueue) -> Mqueue {
    program.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent")
}

#[test]
fn plain_http_needs_no_certificates_and_https_reports_missing_ones() {
    needs!("nsqd");
    let (nsqd, web) = (Nsqd::start(), Web::start(["200 OK"]));
    nsqd.publish("foo", b"body");
    // its final check uses nsqd's HTTP API as well
    let args = format!("--handler http://{}/ --nsqd-http-address {} --timeout 0.3", web.address, nsqd.http());
    let plain = without_certificates(consumer(&nsqd.tcp(), &args)).run();
    assert_eq!((plain.code, web.bodies().len()), (Some(0), 1), "{}", plain.stderr);
    let healthy = without_certificates(mqueue(&format!("doctor --nsqd-http-address {}", nsqd.http()))).run();
    assert!(!healthy.stderr.contains("panicked"), "{}", healthy.stderr);

    let args = format!("--handler https://{}/ --timeout 1", web.address);
    let https = without_certificates(consumer(&nsqd.tcp(), &args)).run();
    assert_eq!(https.stderr.lines().count(), 1, "{}", https.stderr);
    assert!(https.code != Some(0) && https.stderr.contains("install the package ca-certificates"), "{}", https.stderr);
}

#[test]
fn success_is_done_and_server_errors_are_retried() {
    needs!("nsqd");
    for (answers, requests) in [(&["204 No Content"][..], 1), (&["500 Internal Server Error", "200 OK"], 2)] {
        let (nsqd, web) = (Nsqd::start(), Web::start(answers));
        succeeds(posting(&nsqd, &web.address));
        assert_eq!(web.bodies(), vec!["body"; requests]);
        nsqd.wait_for_empty("foo", "1");
        assert_eq!(nsqd.published("foo.dead"), 0);
    }
}

#[test]
fn retry_after_is_respected() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    let web = Web::start(["429 Too Many Requests\r\nRetry-After: 1", "200 OK"]);
    succeeds(posting(&nsqd, &web.address));
    let requests = web.requests.lock().unwrap();
    let [(_, first), (_, second)] = requests[..] else { panic!("{requests:?}") };
    let pause = second - first;
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&pause), "{pause:?}");
}

#[test]
fn client_errors_become_dead_letters_immediately() {
    needs!("nsqd");
    let (nsqd, web) = (Nsqd::start(), Web::start(["422 Unprocessable Entity"]));
    let finished = posting(&nsqd, &web.address).finish();
    assert_eq!(finished.code, Some(5), "nothing was done: {}", finished.stderr);
    assert_eq!((web.bodies().len(), nsqd.published("foo.dead")), (1, 1));
}

#[test]
fn refusals_of_all_messages_use_up_no_tries_and_single_refusals_are_dead_letters() {
    needs!("nsqd");
    for (nsqd, attempts) in [(Nsqd::real(&[]), 7), (Nsqd::embedded(&[]), 2)] {
        nsqd.publish("foo", b"body");
        let refusals = ["404 Not Found", "403 Forbidden", "401 Unauthorized", "404 Not Found", "404 Not Found"];
        let web =
            Web::start([&refusals[..], &["500 Internal Server Error"; 2], &["200 OK"; 2], &["404 Not Found"]].concat());
        let args = format!("--handler http://{}/hook --retry-delay 0 --max-backoff 0 --max-attempts 2", web.address);
        let consumer = consumer(&nsqd.tcp(), &args).arg("--concurrency=1").start();
        consumer.wait_to_say("given up, now in stream");
        assert_eq!((web.bodies().len(), nsqd.published("foo.dead")), (7, 1), "two real tries: {}", consumer.stderr());
        assert_eq!(consumer.times_said("check the URL and its access"), 5);
        assert!(consumer.stderr().contains(&format!("attempts={attempts}")), "{}", consumer.stderr());
        for expected in [1, 1, 2] {
            nsqd.publish("foo", b"next");
            nsqd.wait_for_empty("foo", "1");
            assert_eq!(nsqd.published("foo.dead"), expected);
        }
    }
}

#[test]
fn unavailable_servers_use_up_no_tries() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.publish("foo", b"body");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let args =
        format!("--handler http://{address}/hook --count 1 --retry-delay 0 --max-backoff 100ms --max-attempts 1");
    let consumer = consumer(&nsqd.tcp(), &args).start();
    consumer.wait_to_say("consuming pauses for");
    assert!(consumer.stderr().contains("connection refused"), "{}", consumer.stderr());
    let busy = ["503 Service Unavailable", "429 Too Many Requests", "503 Service Unavailable", "200 OK"];
    let web = Web::serve(TcpListener::bind(&address).unwrap(), busy);
    succeeds(consumer);
    assert_eq!(web.bodies(), ["body"; 4]);
    assert_eq!(nsqd.published("foo.dead"), 0);
}

#[test]
fn a_unix_socket_without_a_listener_uses_up_no_tries_and_a_missing_acknowledgement_does() {
    needs!("nsqd");
    let (nsqd, folder) = (Nsqd::start(), tempfile::tempdir().unwrap());
    nsqd.publish("foo", b"body");
    let path = folder.path().join("peer");
    let args = format!("--handler unix:{} --retry-delay 0 --max-backoff 0 --max-attempts 1", path.display());
    let consumer = consumer(&nsqd.tcp(), &args).start();
    wait_until("several deliveries", || consumer.times_said("no such file or directory") >= 3);
    assert_eq!(nsqd.published("foo.dead"), 0);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut body = String::new();
    listener.accept().unwrap().0.read_to_string(&mut body).unwrap();
    assert_eq!(body, "body\n");
    consumer.wait_to_say("given up, now in stream");
}

#[test]
fn a_wrong_url_that_refuses_every_message_makes_few_dead_letters_or_none() {
    needs!("nsqd");
    for (status, most) in [("405 Method Not Allowed", 0), ("400 Bad Request", 3), ("410 Gone", 3)] {
        let (nsqd, web) = (Nsqd::with_channel("foo", "1"), Web::start([status]));
        nsqd.publish_lines("foo", (0..20).map(|n| n.to_string()).collect::<Vec<_>>().join("\n").as_bytes());
        let args = format!("--handler http://{}/wrong --retry-delay 0 --max-backoff 0 --max-attempts 2", web.address);
        let consumer = consumer(&nsqd.tcp(), &args).arg("--concurrency=1").start();
        wait_until("answers to all, several times", || web.bodies().len() > 60);
        consumer.wait_to_say("check the URL and its access");
        assert_eq!(nsqd.published("foo.dead"), most, "{status}");
    }
}
