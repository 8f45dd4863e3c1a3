//! A disk filled by the running broker's log, and an index at its limit of memory.

use crate::support::doctor::{ERRORS, OK, WARNINGS, doctor, findings, folder, on, paste};
use crate::support::{BadDisk, Client, Nsqd, SmallDisk, get, request, wait_until};

fn publish(broker: &Nsqd, body: &[u8]) -> String {
    request(&broker.http(), "POST", "/pub?topic=foo", body)
}

/// Publishes until it is refused; returns the number of accepted messages, and the refusal.
fn fill(broker: &Nsqd, body: &[u8]) -> (usize, String) {
    for n in 0..1_000_000 {
        let answer = publish(broker, body);
        if answer != "OK" {
            return (n, answer);
        }
    }
    panic!("it takes all")
}

/// Receives and finishes `count` messages.
fn drain(broker: &Nsqd, count: usize) {
    let mut client = Client::subscribed(broker, "foo", "c", "{}");
    client.say("RDY 100\n");
    for _ in 0..count {
        let id = client.messages(1).remove(0).id;
        client.say(&format!("FIN {id}\n"));
    }
    wait_until("all is finished", || {
        let channel = broker.channel("foo", "c");
        channel.depth + channel.in_flight_count == 0
    });
}

fn log(broker: &Nsqd) -> (u64, u64) {
    let log = broker.stats().log.expect("it has a log");
    (log.bytes, log.live_bytes)
}

#[test]
fn a_disk_filled_by_the_log_refuses_publishing_until_it_is_drained() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut broker = Nsqd::embedded_in(disk.folder(), &[]);
    broker.create("foo", "c");
    let (count, refusal) = fill(&broker, &[b'x'; 5_000]);
    assert!(count > 500, "{count} messages fit");
    assert!(refusal.contains("cannot write to the log: "), "{refusal}");
    let ping = get(&broker.http(), "/ping");
    assert!(ping.starts_with("NOK - cannot write to the log: "), "{ping}");
    let (bytes, live) = log(&broker);
    assert!(bytes > 2_500_000 && live > count as u64 * 5_000 && live <= bytes, "{bytes} {live} {count}");
    assert_eq!((broker.metric("log_bytes"), broker.metric("log_live_bytes")), (bytes, live));
    drain(&broker, count);
    // without any publish
    wait_until("health", || get(&broker.http(), "/ping") == "OK");
    wait_until("the log to shrink", || {
        let (bytes, live) = log(&broker);
        bytes < 500_000 && live == 0
    });
    assert_eq!(publish(&broker, &[b'x'; 5_000]), "OK");
    broker.kill();
    broker.start_again();
    assert_eq!(broker.channel("foo", "c").depth, 1, "finished messages do not come back");
}

/// A small message of another topic waits beside each large one.
fn publish_pair(broker: &Nsqd) -> bool {
    request(&broker.http(), "POST", "/pub?topic=bar", b"small") == "OK" && publish(broker, &[b'x'; 5_000]) == "OK"
}

#[test]
fn a_full_disk_has_room_again_after_a_restart() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut broker = Nsqd::embedded_in(disk.folder(), &[]);
    broker.create("foo", "c");
    broker.create("bar", "c");
    let count = (0..1_000_000).take_while(|_| publish_pair(&broker)).count();
    // what is finished is not yet compacted
    broker.kill();
    broker.start_again();
    drain(&broker, count);
    broker.kill();
    broker.start_again();
    wait_until("the log to shrink", || log(&broker).0 < 1_000_000);
    wait_until("health", || get(&broker.http(), "/ping") == "OK");
    assert_eq!(publish(&broker, &[b'x'; 5_000]), "OK");
}

#[test]
fn a_log_that_could_not_be_compacted_is_compacted_later_without_any_change() {
    let Some(disk) = SmallDisk::mount() else { return };
    let broker = Nsqd::embedded_in(disk.folder(), &[]);
    broker.create("foo", "c");
    broker.create("bar", "c");
    let count = (0..200).take_while(|_| publish_pair(&broker)).count();
    assert!(count == 200 && log(&broker).0 > 1_000_000);
    let files = std::fs::read_dir(broker.data_path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let newest = files.filter(|file| file.extension().is_some_and(|it| it == "log")).max().expect("a segment");
    let Some(bad) = BadDisk::of(broker.pid(), "write,writev", &[&newest]) else { return };
    drain(&broker, count);
    wait_until("compaction", || broker.metric("compaction_step_max_seconds") > 0);
    drop(bad);
    wait_until("the log to shrink", || log(&broker).0 < 500_000);
    assert_eq!(broker.channel("bar", "c").depth, 200);
}

#[test]
fn publishing_is_refused_at_the_limit_of_index_memory_until_it_is_drained() {
    for (flags, defer) in [(vec![], ""), (vec!["--memory"], ""), (vec![], "&defer=2000")] {
        let mut flags = flags;
        flags.push("--max-index-memory=200000");
        let broker = Nsqd::embedded(&flags);
        broker.create("foo", "c");
        let publish = || request(&broker.http(), "POST", &format!("/pub?topic=foo{defer}"), b"x");
        let refusal = loop {
            let answer = publish();
            if answer != "OK" {
                break answer;
            }
        };
        assert!(refusal.contains("reached the limit of 200000 bytes of memory (--max-index-memory)"), "{refusal}");
        assert!(get(&broker.http(), "/ping").starts_with("NOK - "));
        let bytes = broker.stats().index_bytes.expect("it says so");
        assert!((185_000..225_000).contains(&bytes), "{bytes}");
        // what is deferred gets due meanwhile
        assert!(broker.metric("index_bytes").abs_diff(bytes) < 20_000);
        let mut client = Client::subscribed(&broker, "foo", "c", "{}");
        client.say("PUB foo\n\0\0\0\x01x");
        assert!(client.frame().starts_with("1 E_PUB_FAILED "));
        let channel = broker.channel("foo", "c");
        let count = (channel.depth + channel.deferred_count) as usize;
        assert!((500..2_000).contains(&count), "{count} messages of {bytes} bytes");
        drop(client);
        drain(&broker, count);
        assert_eq!(get(&broker.http(), "/ping"), "OK");
        assert_eq!(publish(), "OK");
        assert!(broker.stats().index_bytes.expect("it says so") < 2_000);
    }
}

#[test]
fn doctor_warns_before_the_disk_is_full_and_names_the_log() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (mut broker, sockets) = (Nsqd::embedded_in(disk.folder(), &[]), folder());
    // a consumer is connected, and accepts no messages yet
    broker.create("foo", "c");
    let waiting = Client::subscribed(&broker, "foo", "c", "{}");
    let look = || doctor(&sockets, &format!("--json {}", on(&broker))).run();
    assert_eq!(look().code, OK);
    let free = || broker.stats().log.and_then(|log| log.disk_free_bytes).expect("it says so");
    let mut count = 0;
    while free() >= (4 << 20) / 16 {
        assert_eq!(publish(&broker, &[b'x'; 5_000]), "OK");
        count += 1;
    }
    let nearly = look();
    assert_eq!(nearly.code, WARNINGS, "{nearly:?}");
    let found = findings(&nearly);
    assert!(matches!(&found[..], [(_, check, _)] if check == "log"), "{found:?}");
    assert!(nearly.stdout.contains("the disk of its log is nearly full"), "{nearly:?}");
    let (bytes, live) = log(&broker);
    assert!(
        nearly.stdout.contains(&format!(r#""log_bytes":{bytes},"log_live_bytes":{live},"disk_bytes":4194304"#)),
        "{nearly:?}"
    );
    assert_eq!(paste(&found[0].2, "").code, Some(0));
    count += fill(&broker, &[b'x'; 5_000]).0;
    let full = look();
    assert_eq!(full.code, ERRORS, "{full:?}");
    let found = findings(&full);
    assert!(matches!(&found[..], [(_, check, _)] if check == "health"), "{found:?}");
    let shown = paste(&found[0].2, "");
    assert!(shown.code == Some(0) && shown.stdout.contains("\nfoo "), "{shown:?}");
    drop(waiting);
    drain(&broker, count);
    wait_until("all in order", || look().code == OK);
    broker.kill();
    drop(disk);
}

#[test]
fn doctor_warns_before_the_limit_of_index_memory() {
    let (broker, sockets) = (Nsqd::embedded(&["--memory", "--max-index-memory=200000"]), folder());
    broker.create("foo", "c");
    let _waiting = Client::subscribed(&broker, "foo", "c", "{}");
    let look = || doctor(&sockets, &on(&broker)).run();
    let fine = look();
    assert!(
        fine.code == OK && fine.stdout.contains(": no log, index ") && fine.stdout.contains(" of 200.0 kB"),
        "{fine:?}"
    );
    while broker.stats().index_bytes.expect("it says so") <= 175_000 {
        assert_eq!(publish(&broker, b"x"), "OK");
    }
    let nearly = look();
    assert!(nearly.code == WARNINGS && nearly.stdout.contains("its index is near --max-index-memory"), "{nearly:?}");
}
