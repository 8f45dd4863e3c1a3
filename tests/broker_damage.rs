//! A stored message that becomes unreadable in the running broker.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Client, Nsqd, SmallDisk, get, mqueue, request, wait_until};

/// Bytes at the beginning of one body, and in no other.
const MARK: &[u8] = b"the damaged one";

/// Changes a byte of each body with [`MARK`] on the disk; returns the first file. A second call
/// repairs them.
fn flip(folder: &Path) -> PathBuf {
    let mut first = None;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let file = entry.expect("an entry").path();
        if file.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let bytes = std::fs::read(&file).expect("a file");
        // in place, as a disk would
        let open = std::fs::OpenOptions::new().write(true).open(&file).expect("a file");
        for at in memchr::memmem::find_iter(&bytes, MARK).map(|at| at + MARK.len()) {
            open.write_all_at(&[bytes[at] ^ 1], at as u64).expect("written");
            first.get_or_insert_with(|| file.clone());
        }
    }
    first.expect("it is in a file")
}

#[test]
fn an_unreadable_message_is_logged_skipped_and_its_file_kept() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let flags = "--tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --max-memory 0";
    let broker = mqueue(&format!("broker {flags}")).arg("--data-path").arg(&data.path().display().to_string()).start();
    let (tcp, http) = (broker.listens("TCP"), broker.listens("HTTP"));
    let post = |path: &str, body: &[u8]| request(&http, "POST", path, body);
    post("/topic/create?topic=foo", b"");
    post("/channel/create?topic=foo&channel=c", b"");
    for n in 0..100 {
        assert_eq!(post("/pub?topic=foo", format!("good {n}").as_bytes()), "OK");
    }
    assert_eq!(post("/pub?topic=foo", &[MARK, b" of all"].concat()), "OK");
    for n in 100..200 {
        assert_eq!(post("/pub?topic=foo", format!("good {n}").as_bytes()), "OK");
    }
    let file = flip(data.path());
    let args = "consumer --stream foo --group c --output body";
    let consumer = mqueue(args).env("NSQD_TCP_ADDRESS", &tcp).start();
    consumer.wait_for_lines(200);
    let name = file.file_name().expect("a name").to_string_lossy().into_owned();
    broker.wait_to_say(&format!("/{name} does not begin a record of this batch (messages: 1, bytes: 26) retry_s=1"));
    assert!(
        broker
            .stderr()
            .contains("cannot read from the log; messages deferred topic=foo channel=c messages=1 error=byte ")
    );
    broker.wait_to_say("retry_s=4");
    assert_eq!(
        broker.times_said("cannot read from the log; messages deferred topic=foo"),
        3,
        "less and less often: {}",
        broker.stderr()
    );
    let aside = file.with_extension("log.damaged");
    assert_eq!(std::fs::read(&aside).expect("kept aside"), std::fs::read(&file).expect("there"));
    let stats: serde_json::Value = serde_json::from_str(&get(&http, "/stats?format=json")).expect("JSON");
    assert_eq!(stats["topics"][0]["channels"][0]["deferred_count"], 1, "{stats}");
    assert!(get(&http, "/metrics").contains("\nmqueue_broker_compaction_step_max_seconds "));
    // a message that was only misread is delivered once it can be read
    flip(data.path());
    consumer.wait_for_lines(201);
    assert!(consumer.stdout().contains("the damaged one of all"));
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(0));
    wait_until("nothing is left", || get(&http, "/stats?format=json").contains("\"deferred_count\":0"));
}

#[test]
fn a_damaged_last_message_is_logged_as_an_error_and_its_bytes_kept() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let start = || {
        let flags = "--tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --sync always";
        let broker = mqueue(&format!("broker {flags}")).arg("--data-path").arg(&data.path().display().to_string());
        let broker = broker.start();
        broker.listens("HTTP");
        broker
    };
    let broker = start();
    let http = broker.listens("HTTP");
    for path in ["/topic/create?topic=foo", "/channel/create?topic=foo&channel=c", "/pub?topic=foo"] {
        request(&http, "POST", path, b"good");
    }
    assert_eq!(request(&http, "POST", "/pub?topic=foo", &[MARK, b" of all"].concat()), "OK");
    broker.signal(Signal::SIGKILL);
    broker.finish();
    let file = flip(data.path());
    let bytes = std::fs::read(&file).expect("a file");
    let broker = start();
    let said = broker.stderr();
    let line = said.lines().find(|line| line.contains("which may have been acknowledged")).expect("it is told");
    assert!(line.contains("ERROR") && line.contains(": cut off the last "), "{line}");
    let kept = std::fs::read(file.with_extension("log.torn")).expect("kept aside");
    assert!(bytes.ends_with(&kept) && kept.windows(MARK.len()).any(|window| window == MARK));
    let stats: serde_json::Value =
        serde_json::from_str(&get(&broker.listens("HTTP"), "/stats?format=json")).expect("JSON");
    assert_eq!(stats["topics"][0]["channels"][0]["depth"], 1, "{stats}");
}

/// Compares with a second broker whose messages are all readable: a busy machine slows down both.
#[test]
fn publishing_stays_fast_while_a_log_with_unreadable_messages_is_compacted() {
    const COUNT: usize = 400;
    let (Some(disk), Some(other)) = (SmallDisk::mount(), SmallDisk::mount()) else { return };
    let brokers = [&disk, &other].map(|disk| Nsqd::embedded_in(disk.folder(), &["--max-memory=0"]));
    for broker in &brokers {
        broker.create("foo", "c");
        for n in 0..COUNT {
            let begin = if n % 10 == 0 { MARK } else { b"a good one" };
            broker.publish("foo", &[begin, &[b'.'; 5_000]].concat());
        }
    }
    flip(brokers[0].data_path());
    let mut took = [Vec::new(), Vec::new()];
    for (broker, readable) in brokers.iter().zip([COUNT - COUNT / 10, COUNT]) {
        let mut client = Client::subscribed(broker, "foo", "c", "{}");
        client.say("RDY 2500\n");
        for message in client.messages(readable) {
            let is_kept = message.body.as_bytes().starts_with(MARK);
            client.say(&if is_kept {
                format!("REQ {} 3600000\n", message.id)
            } else {
                format!("FIN {}\n", message.id)
            });
        }
        wait_until("the messages to be finished", || broker.channel("foo", "c").in_flight_count == 0);
    }
    for _ in 0..300 {
        for (broker, took) in brokers.iter().zip(&mut took) {
            let begun = Instant::now();
            broker.publish("bar", b"x");
            took.push(begun.elapsed());
        }
    }
    let [damaged, sound] = took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    });
    eprintln!("half of the publishes take less than {damaged:?}, and {sound:?} where all can be read");
    assert!(damaged < 3 * sound + Duration::from_millis(1), "{damaged:?}, and {sound:?} where all can be read");
    for broker in &brokers {
        assert!(broker.metric("compaction_step_max_seconds") > 0, "there is something to compact");
    }
}
