//! Imports of randomly damaged folders.

use std::collections::BTreeMap;

use super::*;
use crate::broker::log::SyncMode;

fn message(random: &mut fastrand::Rng) -> Vec<u8> {
    let body: Vec<u8> = (0..random.usize(..50)).map(|_| random.u8(..)).collect();
    let id = format!("{:016x}", NEW_IDS + random.u64(..200));
    let length = 26 + body.len() as u32;
    [&length.to_be_bytes()[..], &random.i64(..3).abs().to_be_bytes(), &[0, random.u8(..3)], id.as_bytes(), &body]
        .concat()
}

/// A number that is often a small one, and sometimes at the end of a range.
fn number(random: &mut fastrand::Rng) -> String {
    match random.u8(..12) {
        0 => u64::MAX.to_string(),
        1 => i64::MAX.to_string(),
        2 => "-1".to_owned(),
        3 => random.u64(..2_000).to_string(),
        _ => random.u8(..3).to_string(),
    }
}

fn write_folder(folder: &Path, random: &mut fastrand::Rng) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let mut metadata =
        br#"{"topics":[{"name":"a","paused":true,"channels":[{"name":"c"},{"name":"d"}]},{"name":"b"}]}"#.to_vec();
    if random.u8(..4) == 0 {
        let at = random.usize(..metadata.len());
        metadata[at] = random.u8(..);
    }
    write("nsqd.dat", &metadata);
    for queue in ["a", "a:c", "a:d", "b", "b:c", "e", ":", "b;f"] {
        for _ in 0..random.usize(..4) {
            let mut bytes: Vec<u8> = (0..random.usize(..20)).flat_map(|_| message(random)).collect();
            if random.bool() && !bytes.is_empty() {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
                bytes.truncate(random.usize(..=bytes.len()));
            }
            let number = if random.u8(..9) == 0 { i64::MAX as u64 } else { random.u64(..4) };
            write(&format!("{queue}.diskqueue.{number:06}.dat"), &bytes);
        }
        if random.u8(..4) > 0 {
            let mut next = || number(random);
            let positions = format!("{}\n{},{}\n{},{}\n", next(), next(), next(), next(), next());
            write(&format!("{queue}.diskqueue.meta.dat"), positions.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_log_has_what_the_report_says_however_damaged_the_folder_is() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut messages = 0;
    for _ in 0..30 {
        let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        write_folder(from.path(), &mut random);
        let options = LogOptions { sync: SyncMode::Never, reserve_bytes: 0, ..LogOptions::new(to.path()) };
        let report = import(from.path(), &options, 0).await.unwrap_or_else(|error| panic!("SEED={seed}: {error}"));
        let (_log, recovered, _) = DiskLog::open(&options).unwrap();
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for batch in &recovered.batches {
            let holders = batch.copies.iter().map(|copy| copy.channel.0);
            let topic = batch.copies.is_empty().then_some(batch.topic.0);
            holders.chain(topic).for_each(|holder| *counts.entry(holder).or_default() += u64::from(batch.count));
        }
        let mut count = |number: u32| counts.remove(&number).unwrap_or(0);
        for (topic, imported) in recovered.topics.iter().zip(&report.topics) {
            assert_eq!((&topic.name, topic.paused), (&imported.name, imported.paused), "SEED={seed}");
            assert_eq!(count(topic.id.0), imported.queue.messages, "SEED={seed}");
            for (channel, imported) in topic.channels.iter().zip(&imported.channels) {
                assert_eq!(channel.name, imported.name, "SEED={seed}");
                assert_eq!(count(channel.id.0), imported.queue.messages, "SEED={seed}");
            }
        }
        assert!(counts.is_empty() && recovered.topics.len() == report.topics.len(), "SEED={seed}");
        messages += report.total().messages;
    }
    assert!(messages > 200, "SEED={seed}: {messages}");
}
