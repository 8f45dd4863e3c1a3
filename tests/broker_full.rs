//! A disk that the running broker's log has filled, and an index that has all its memory.

use crate::support::{Client, Nsqd, SmallDisk, get, request, wait_until};

fn publish(broker: &Nsqd, body: &[u8]) -> String {
    request(&broker.http(), "POST", "/pub?topic=foo", body)
}

/// Publishes until that is refused; says how many messages were taken, and the refusal.
fn fill(broker: &Nsqd, body: &[u8]) -> (usize, String) {
    for n in 0..1_000_000 {
        let answer = publish(broker, body);
        if answer != "OK" {
            return (n, answer);
        }
    }
    panic!("it takes all")
}

/// Takes and finishes so many messages.
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
fn a_disk_full_of_the_log_says_so_and_heals_by_draining() {
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
    // nobody publishes
    wait_until("health", || get(&broker.http(), "/ping") == "OK");
    wait_until("the log to shrink", || {
        let (bytes, live) = log(&broker);
        bytes < 500_000 && live == 0
    });
    assert_eq!(publish(&broker, &[b'x'; 5_000]), "OK");
    broker.kill();
    broker.start_again();
    assert_eq!(broker.channel("foo", "c").depth, 1, "nothing that was finished comes back");
}

#[test]
fn publishing_is_refused_before_the_index_takes_all_memory_and_heals_by_draining() {
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
        assert!(refusal.contains("200000 bytes of memory, which is the limit (--max-index-memory)"), "{refusal}");
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
