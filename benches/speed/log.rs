//! The embedded broker's log by itself: appending batches of 200 × 200 B, and recovery.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use mqueue::broker::log::{
    Change, ChannelId, DiskLog, Log, LogOptions, MessageHolder, PublishedBatch, SyncMode, TopicId,
};

use crate::{compare, report};

/// The number of batches in a round: about 200 MB.
const BATCHES: u64 = 5_000;
const BATCH: u64 = 200;
const LENGTH: usize = 200;
const TOPIC: TopicId = TopicId(1);
const CHANNEL: ChannelId = ChannelId(2);

pub fn run() {
    let modes = [SyncMode::Never, SyncMode::Interval, SyncMode::Always];
    let names = ["--sync=never", "--sync=interval", "--sync=always (does not wait)"];
    let rounds = names.into_iter().zip(modes).map(|(name, sync)| {
        let round: crate::Round<'_> = Box::new(move || {
            let directory = tempfile::tempdir().unwrap();
            append(directory.path(), sync, BATCHES).1
        });
        (name, round)
    });
    report("batches of 200 × 200 B appended to the log", "MB/s", &compare(rounds.collect()), &[]);
    recover();
}

/// Appends; returns the log and the rate in MB/s of bodies.
fn append(path: &Path, sync: SyncMode, batches: u64) -> (DiskLog, f64) {
    let (mut log, _, _) = DiskLog::open(&LogOptions { sync, ..LogOptions::new(path) }).unwrap();
    log.note(&Change::TopicCreated(TOPIC, "bench".parse().unwrap()));
    log.note(&Change::ChannelCreated(TOPIC, CHANNEL, "bench".parse().unwrap()));
    let parts = [std::iter::repeat_n(Bytes::from(vec![b'x'; LENGTH]), BATCH as usize).collect()];
    let start = Instant::now();
    for n in 0..batches {
        let batch = PublishedBatch {
            topic: TOPIC,
            first: first(n),
            timestamp: 1,
            due: None,
            holder: MessageHolder::Channels,
            parts: &parts,
        };
        log.publish(&batch).unwrap();
    }
    let bytes = batches * BATCH * LENGTH as u64;
    (log, bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// The broker's ids grow with the time.
fn first(batch: u64) -> u64 {
    (1 + batch) << 22
}

/// Recovery of 1 GB in which every message is unfinished, and of 1 GB in which all but one in a
/// thousand are finished.
fn recover() {
    for one_in in [1, 1000] {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, _) = append(directory.path(), SyncMode::Never, 5 * BATCHES);
        let ids = (0..5 * BATCHES).flat_map(|batch| (first(batch)..).take(BATCH as usize));
        ids.zip(0..)
            .filter(|(_, n)| n % one_in != 0)
            .map(|(id, _)| id)
            .for_each(|id| log.note(&Change::Finished(CHANNEL, id)));
        log.flush().unwrap();
        drop(log);
        let options = LogOptions { sync: SyncMode::Never, ..LogOptions::new(directory.path()) };
        println!("\nrecovery: {}", DiskLog::open(&options).unwrap().2);
    }
}
