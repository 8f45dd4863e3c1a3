//! `mqueue broker verify` and `mqueue broker backup`, also on the log of a running broker.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Client, Finished, Nsqd, mqueue, wait_until};

fn verify(path: &Path) -> Finished {
    mqueue("broker verify --json").arg(&path.display().to_string()).start().finish()
}

fn backup(from: &Path, to: &Path) -> Finished {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    mqueue("broker backup --json").arg("--data-path").arg(&from).arg("--to").arg(&to).start().finish()
}

fn json(finished: &Finished) -> serde_json::Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:?}"))
}

/// The names and contents of a folder.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file")))
        .collect();
    files.sort();
    files
}

#[test]
fn verify_names_each_damaged_byte_and_changes_nothing() {
    let mut broker = Nsqd::embedded(&["--sync=always"]);
    broker.create("foo", "c");
    for n in 0..20 {
        broker.publish("foo", format!("message {n:02}").as_bytes());
    }
    let path = broker.data_path().to_owned();
    let running = verify(&path);
    assert_eq!(running.code, Some(0), "{running:?}");
    assert_eq!(json(&running)["messages"], 20);
    broker.kill();
    let file = path.join("0000000001.log");
    let bytes = fs::read(&file).expect("a file");
    let open = OpenOptions::new().write(true).open(&file).expect("a file");
    let body = memchr::memmem::find(&bytes, b"message 07").expect("it is there");
    open.write_all_at(&[bytes[body] ^ 1], body as u64).expect("written");
    let before = contents(&path);
    let damaged = verify(&path);
    assert_eq!(damaged.code, Some(1), "{damaged:?}");
    let report = json(&damaged);
    let place = &report["damage"][0];
    assert_eq!(
        (&report["sound"], &report["messages"], &place["file"]),
        (&false.into(), &19.into(), &"0000000001.log".into())
    );
    let (from, to) = (place["from"].as_u64().expect("a number"), place["to"].as_u64().expect("a number"));
    assert!((from..to).contains(&(body as u64)) && to - from < 100, "{place}, byte {body}");
    assert!(damaged.stderr.contains(&format!("0000000001.log is damaged from byte {from} to {to}")), "{damaged:?}");
    assert!(contents(&path) == before, "it changes nothing");
    // the last record: an interrupted write, or damage
    open.write_all_at(&[bytes[body]], body as u64).expect("written");
    open.set_len(bytes.len() as u64 - 3).expect("truncated");
    let torn = verify(&path);
    assert_eq!(torn.code, Some(1), "{torn:?}");
    assert_eq!(json(&torn)["damage"][0]["kind"], "torn_end");
    assert!(torn.stderr.contains("0000000001.log: the last "), "{torn:?}");
}

#[test]
fn verify_and_backup_refuse_folders_without_a_log() {
    let folder = tempfile::tempdir().expect("a folder");
    for finished in [verify(folder.path()), backup(folder.path(), &folder.path().join("copy"))] {
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("has no log: give the --data-path of a broker"), "{finished:?}");
    }
    let missing = verify(&folder.path().join("missing"));
    assert_eq!(missing.code, Some(1), "{missing:?}");
    let broker = Nsqd::embedded(&[]);
    let finished = backup(broker.data_path(), broker.data_path());
    assert!(finished.stderr.contains("is not empty: give a new folder for each backup"), "{finished:?}");
}

/// Small segments that are created, stripped, compacted and removed while they are copied.
#[test]
fn backups_under_load_are_consistent_and_private_and_stall_nobody() {
    let broker = Nsqd::embedded(&["--max-bytes-per-file=65536"]);
    broker.create("foo", "c");
    broker.create("kept", "c");
    for n in 0..500 {
        broker.publish("kept", format!("kept {n} {}", "x".repeat(500)).as_bytes());
    }
    let (is_over, published, longest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let folder = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                broker.publish("foo", &[b'x'; 2000]);
                longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                published.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut client = Client::subscribed(&broker, "foo", "c", "{}");
            client.say("RDY 10\n");
            while !is_over.load(Ordering::Relaxed) {
                for message in client.messages(1) {
                    client.say(&format!("FIN {}\n", message.id));
                }
            }
        });
        let published = |most: u64| published.load(Ordering::Relaxed) >= most;
        wait_until("some load", || published(300));
        let without = Duration::from_micros(longest.swap(0, Ordering::Relaxed));
        for n in 0..5 {
            let copy = folder.path().join(format!("copies/{n}"));
            let finished = backup(broker.data_path(), &copy);
            assert_eq!(finished.code, Some(0), "{finished:?}");
            assert!(finished.stderr.is_empty(), "{finished:?}");
            let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
            assert_eq!(mode(&copy), 0o700);
            for entry in fs::read_dir(&copy).expect("a folder") {
                assert_eq!(mode(&entry.expect("an entry").path()), 0o600);
            }
        }
        let with = Duration::from_micros(longest.load(Ordering::Relaxed));
        is_over.store(true, Ordering::Relaxed);
        eprintln!("the longest publish took {with:?} during backups, {without:?} without");
        assert!(with < 3 * without + Duration::from_millis(100), "{with:?}, without {without:?}");
        // the consumer's last wait
        broker.publish("foo", b"x");
    });
    for n in 0..5 {
        let copy = folder.path().join(format!("copies/{n}"));
        assert_eq!(verify(&copy).code, Some(0));
        let flags = "--tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0";
        let restored = mqueue(&format!("broker {flags}")).arg("--data-path").arg(&copy.display().to_string()).start();
        let http = restored.listens("HTTP");
        let stats = crate::support::get(&http, "/stats?format=json&topic=kept");
        assert!(stats.contains("\"depth\":500"), "{stats}");
        assert!(!restored.stderr().contains("ERROR"), "{}", restored.stderr());
    }
}
