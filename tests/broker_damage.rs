//! A stored message that cannot be read any more, in the running broker.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::{Mqueue, get, mqueue, request, wait_until};

/// Bytes that begin a body, and are in no other.
const MARK: &[u8] = b"the damaged one";

/// Changes a byte of the body on the disk, and says in which file; the same again mends it.
fn flip(folder: &Path) -> PathBuf {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let file = entry.expect("an entry").path();
        if file.extension().is_some_and(|extension| extension == "log") {
            let mut bytes = std::fs::read(&file).expect("a file");
            if let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) {
                bytes[at + MARK.len()] ^= 1;
                // in place, as a disk would
                let wrong = &bytes[at + MARK.len()..=at + MARK.len()];
                let open = std::fs::OpenOptions::new().write(true).open(&file).expect("a file");
                std::os::unix::fs::FileExt::write_all_at(&open, wrong, (at + MARK.len()) as u64).expect("written");
                return file;
            }
        }
    }
    panic!("it is in no file")
}

fn address(broker: &Mqueue, protocol: &str) -> String {
    let said = broker.stderr();
    let line = said.lines().find(|line| line.contains(&format!("{protocol}: listening on ")));
    line.and_then(|line| line.rsplit(' ').next()).expect("it said so").to_owned()
}

#[test]
fn an_unreadable_message_is_told_kept_aside_and_skipped() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let flags = "--tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --max-memory 0";
    let broker = mqueue(&format!("broker {flags}")).arg("--data-path").arg(&data.path().display().to_string()).start();
    broker.wait_to_say("HTTP: listening on");
    let (tcp, http) = (address(&broker, "TCP"), address(&broker, "HTTP"));
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
    broker.wait_to_say(&format!(
        "/{name} does not begin a record of this batch (messages: 1, bytes: 26): tried again in 1 s"
    ));
    assert!(broker.stderr().contains("cannot read from the log: topic foo, channel c, messages: 1: byte "));
    broker.wait_to_say("tried again in 4 s");
    assert_eq!(broker.times_said("cannot read from the log: topic foo"), 3, "less and less often: {}", broker.stderr());
    let aside = file.with_extension("log.damaged");
    assert_eq!(std::fs::read(&aside).expect("kept aside"), std::fs::read(&file).expect("there"));
    let stats: serde_json::Value = serde_json::from_str(&get(&http, "/stats?format=json")).expect("JSON");
    assert_eq!(stats["topics"][0]["channels"][0]["deferred_count"], 1, "{stats}");
    assert!(get(&http, "/metrics").contains("\nmqueue_broker_compaction_step_max_microseconds "));
    // what was only misread comes when it can be read
    flip(data.path());
    consumer.wait_for_lines(201);
    assert!(consumer.stdout().contains("the damaged one of all"));
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(0));
    wait_until("nothing is left", || get(&http, "/stats?format=json").contains("\"deferred_count\":0"));
}

#[test]
fn a_damaged_last_message_is_kept_aside_and_told_as_an_error() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let start = || {
        let flags = "--tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --sync always";
        let broker = mqueue(&format!("broker {flags}")).arg("--data-path").arg(&data.path().display().to_string());
        let broker = broker.start();
        broker.wait_to_say("HTTP: listening on");
        broker
    };
    let broker = start();
    let http = address(&broker, "HTTP");
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
        serde_json::from_str(&get(&address(&broker, "HTTP"), "/stats?format=json")).expect("JSON");
    assert_eq!(stats["topics"][0]["channels"][0]["depth"], 1, "{stats}");
}
