//! Full disks, and disks that fail to sync.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::super::super::segment::number_of;
use super::super::super::*;
use super::world::World;
use super::*;

/// A small file system, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, which skips the test, if mounting is not allowed: it needs root.
    fn mount(path: &Path) -> Option<Self> {
        Self::mount_of_size(path, "256k")
    }

    /// As [`mount`](Self::mount), with this size.
    #[allow(clippy::print_stderr, reason = "a test that does not run says so")]
    fn mount_of_size(path: &Path, size: &str) -> Option<Self> {
        let size = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        let disk = mount.is_ok_and(|output| output.status.success()).then(|| Self(path.into()));
        if disk.is_none() {
            let required = std::env::var("MQUEUE_REQUIRE_PEERS").is_ok_and(|v| v == "1");
            assert!(!required, "a small disk can only be mounted by root");
            eprintln!("skipped: a small disk can only be mounted by root");
        }
        disk
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_new_messages_and_keeps_old_ones() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(directory.path()) else { return };
    for segment_bytes in [1 << 20, 20_000] {
        let path = directory.path().join(segment_bytes.to_string());
        let mut world = world(&path, SyncMode::Interval, segment_bytes);
        let ballast = directory.path().join("ballast");
        std::fs::write(&ballast, vec![0; 100_000]).unwrap();
        let full = loop {
            if let Err(error) = world.try_publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 5000)) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
        world.check_bodies();
        world.note(Change::Requeued(CHANNEL, 2, 7, None));
        let still = world.try_publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 5000)).unwrap_err();
        assert_eq!(still.kind(), io::ErrorKind::StorageFull, "{still}");
        std::fs::remove_file(&ballast).unwrap();
        world.publish_when_there_is_room(&bodies(3, 5000));
        world.check_bodies();
        world.reopen();
        drop(world);
        std::fs::remove_dir_all(path).unwrap();
    }
}

#[test]
fn a_disk_filled_by_the_log_is_drained_in_any_order_of_finishing() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(directory.path()) else { return };
    for (is_reopened, keeps) in
        [(false, vec![]), (true, vec![]), (false, vec![1]), (true, vec![7, 20]), (false, vec![40])]
    {
        let path = directory.path().join(format!("{is_reopened}{keeps:?}"));
        let options = LogOptions { segment_bytes: 20_000, ..LogOptions::new(&path) };
        let mut world = World::open(&options);
        world.note(topic_created());
        world.note(channel_created());
        let refused = loop {
            if let Err(error) = world.try_publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 3000)) {
                break error;
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused}");
        let last = world.last_id();
        assert!(last > 40, "{last} messages fit");
        for id in (1..=last).rev().filter(|id| !keeps.contains(id)) {
            world.note(Change::Finished(CHANNEL, id));
            world.flush();
            world.compact();
        }
        if is_reopened {
            world.reopen();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while world.log.usage().bytes > 60_000 {
            assert!(Instant::now() < deadline, "{:?} with {} live", world.log.usage(), world.live());
            world.wait_until_tidy();
            world.compact();
        }
        for _ in 0..last / 2 {
            world.publish_when_there_is_room(&bodies(1, 3000));
        }
        world.reopen();
        world.check_bodies();
        drop(world);
        std::fs::remove_dir_all(path).unwrap();
    }
}

/// Another program takes each free byte of the disk at once.
#[test]
fn changes_are_written_on_a_disk_that_another_program_keeps_full() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount_of_size(directory.path(), "4m") else { return };
    let path = directory.path().join("log");
    let mut world = World::open(&LogOptions::new(&path));
    world.note(topic_created());
    world.note(channel_created());
    while world.try_publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 3000)).is_ok() {}
    let last = world.last_id();
    assert!(last > 1000, "{last} messages fit");
    let ballast = directory.path().join("ballast");
    let mut other = File::create(&ballast).unwrap();
    let mut fill = || while io::Write::write(&mut other, &[0; 4096]).is_ok() {};
    // more than what is allocated: what the reserve gives is allocated before the other program
    // runs
    let requeued = |n| Change::Requeued(CHANNEL, n % last + 1, 2, None);
    let changes = (0..3 * last).map(requeued).chain((1..=last).map(|id| Change::Finished(CHANNEL, id)));
    for change in changes {
        world.note(change);
        fill();
        world.flush();
    }
    assert!(world.model.messages.is_empty());
    world.reopen();
    world.wait_until_tidy();
    fill();
    // some fit into what was allocated meanwhile
    while world.try_publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 3000)).is_ok() {}
    assert!(world.log.failure().is_some(), "publishing is refused");
    std::fs::remove_file(&ballast).unwrap();
    drop(other);
    world.publish_when_there_is_room(&bodies(3, 5000));
    world.reopen();
}

/// A log whose syncs fail as long as the flag is set.
fn failing(path: &Path, mode: SyncMode) -> (Arc<AtomicBool>, DiskLog) {
    failing_for(path, mode, |_| true)
}

/// A log whose syncs of some files fail as long as the flag is set.
fn failing_for(path: &Path, mode: SyncMode, is_affected: fn(&File) -> bool) -> (Arc<AtomicBool>, DiskLog) {
    let fails = Arc::new(AtomicBool::new(false));
    let sync = {
        let fails = fails.clone();
        move |file: &File| match fails.load(Ordering::SeqCst) && is_affected(file) {
            true => Err(io::Error::other("the disk is broken")),
            false => file.sync_data(),
        }
    };
    let (mut log, _, _) = DiskLog::open_with(&options(path, mode, 1 << 20), Box::new(sync)).unwrap();
    log.recovered();
    log.note(&topic_created());
    log.note(&channel_created());
    (fails, log)
}

fn publish(log: &mut DiskLog, first: u64) -> io::Result<Option<LogLocation>> {
    let bodies = bodies(1, 10);
    let location = log.publish(&PublishedBatch {
        topic: TOPIC,
        first,
        timestamp: 1,
        due: None,
        holder: MessageHolder::Channels,
        parts: &[bodies.iter().cloned().collect()],
    })?;
    location.into_iter().for_each(|location| log.hold(location.segment, 1, 100));
    Ok(location)
}

#[tokio::test]
async fn written_positions_are_reported_as_synced() {
    for mode in [SyncMode::Always, SyncMode::Interval, SyncMode::Never] {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut log) = failing(directory.path(), mode);
        let mut synced = log.synced();
        for first in 1..5 {
            publish(&mut log, first).unwrap();
            synced.reached(log.position()).await.unwrap();
        }
        let beyond = log.position() + 1;
        drop(log);
        assert_eq!(synced.reached(beyond).await.is_ok(), mode == SyncMode::Never, "{mode:?}");
    }
}

#[tokio::test]
async fn enough_messages_are_synced_before_the_interval_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let options = options(directory.path(), SyncMode::Interval, 1 << 20);
    let (mut log, _, _) = DiskLog::open(&LogOptions { interval: hour, sync_every: Some(3), ..options }).unwrap();
    log.recovered();
    log.note(&topic_created());
    log.note(&channel_created());
    let mut synced = log.synced();
    for first in [1, 4, 7] {
        publish(&mut log, first).unwrap();
        publish(&mut log, first + 1).unwrap();
        let reached = tokio::time::timeout(Duration::ZERO, synced.reached(log.position())).await;
        assert!(reached.is_err(), "two messages wait for the interval");
        publish(&mut log, first + 2).unwrap();
        let reached = tokio::time::timeout(Duration::from_secs(60), synced.reached(log.position())).await;
        reached.expect("three messages are synced at once").unwrap();
    }
}

#[tokio::test]
async fn a_failed_sync_is_reported_and_refuses_writes_until_a_new_segment_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let (fails, mut log) = failing(directory.path(), SyncMode::Always);
    let mut synced = log.synced();
    publish(&mut log, 1).unwrap();
    let first = log.position();
    synced.reached(first).await.unwrap();

    fails.store(true, Ordering::SeqCst);
    let location = publish(&mut log, 2).unwrap().unwrap();
    let lost = log.position();
    let error = synced.reached(lost).await.unwrap_err().to_string();
    let file = file_path(directory.path(), 1);
    assert_eq!(error, format!("could not sync {}: the disk is broken", file.display()));
    log.note(&Change::Finished(CHANNEL, 1));
    assert_eq!(publish(&mut log, 3).unwrap_err().to_string(), error);
    assert!(log.flush().is_err(), "noted changes are kept");
    assert_eq!(read(&mut log, location, 10).unwrap(), [0; 10].as_slice(), "reads go on");
    assert!(synced.reached(log.position()).await.is_err(), "nor could the next segment be synced");

    fails.store(false, Ordering::SeqCst);
    log.retry = None;
    assert!(publish(&mut log, 3).is_err(), "a new segment is begun, and not yet synced");
    synced.reached(log.position()).await.unwrap();
    publish(&mut log, 3).unwrap();
    synced.reached(log.position()).await.unwrap();
    synced.reached(lost).await.expect("it was written again");
    assert!(synced.reached(first).await.is_ok());
    assert_eq!(files(directory.path()), ["0000000001.log", "0000000003.log"], "the segment that was of no use is gone");
    drop(log);
    let world = World::open(&options(directory.path(), SyncMode::Interval, 1 << 20));
    assert_eq!(world.model.messages.keys().collect::<Vec<_>>(), [&2, &3]);
}

/// Files that a sync failed for: as on Linux, later syncs succeed without what it should have covered.
fn lost_after_failure(path: &Path) -> (Arc<AtomicBool>, Arc<Mutex<Vec<u64>>>, DiskLog) {
    let (fails, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let sync = {
        let (fails, lost) = (fails.clone(), lost.clone());
        move |file: &File| {
            if !fails.load(Ordering::SeqCst) {
                return Ok(());
            }
            lost.lock().unwrap().push(file.metadata()?.ino());
            Err(io::Error::other("the disk is broken"))
        }
    };
    let (mut log, _, _) = DiskLog::open_with(&options(path, SyncMode::Always, 1 << 20), Box::new(sync)).unwrap();
    log.recovered();
    log.note(&topic_created());
    log.note(&channel_created());
    (fails, lost, log)
}

/// The names of the files, segments and others, that a sync failed for.
fn lost_files(path: &Path, lost: &Mutex<Vec<u64>>) -> Vec<String> {
    let is_lost = |name: &String| lost.lock().unwrap().contains(&std::fs::metadata(path.join(name)).unwrap().ino());
    files(path).into_iter().filter(is_lost).collect()
}

fn marks(path: &Path) -> Vec<String> {
    files(path).into_iter().filter(|name| name.ends_with(".unsynced")).collect()
}

#[tokio::test]
async fn data_of_a_failed_sync_is_written_again_before_anything_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (fails, lost, mut log) = lost_after_failure(path);
    let mut synced = log.synced();
    let first = publish(&mut log, 1).unwrap().unwrap();
    synced.reached(log.position()).await.unwrap();
    let old = File::options().write(true).open(file_path(path, 1)).unwrap();
    assert_eq!(read(&mut log, first, 10).unwrap(), [0; 10].as_slice());
    fails.store(true, Ordering::SeqCst);
    log.note(&Change::Finished(CHANNEL, 7));
    log.flush().unwrap();
    synced.reached(log.position()).await.unwrap_err();
    assert_eq!(lost_files(path, &lost), ["0000000001.log"]);
    assert_eq!(marks(path), ["0000000001.log.unsynced"]);
    fails.store(false, Ordering::SeqCst);
    log.retry = None;
    publish(&mut log, 2).unwrap_err();
    synced.reached(log.position()).await.unwrap();
    assert!(lost_files(path, &lost).is_empty() && marks(path).is_empty());
    // the old file is not read any more
    old.set_len(0).unwrap();
    assert_eq!(read(&mut log, first, 10).unwrap(), [0; 10].as_slice());
    publish(&mut log, 2).unwrap();
}

/// The first round of syncs is of two segments, and ends at the folder: neither of them is synced.
#[tokio::test]
async fn segments_before_a_failed_sync_of_the_folder_are_written_again_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let synced_files: Arc<Mutex<Vec<u64>>> = Arc::default();
    let fails = Arc::new(AtomicBool::new(false));
    let sync = {
        let (fails, synced_files) = (fails.clone(), synced_files.clone());
        move |file: &File| {
            if fails.load(Ordering::SeqCst) {
                return Err(io::Error::other("the disk is broken"));
            }
            synced_files.lock().unwrap().push(file.metadata()?.ino());
            Ok(())
        }
    };
    let options = options(path, SyncMode::Interval, 1 << 20);
    let options = LogOptions { interval: Duration::from_secs(3600), sync_every: Some(2), ..options };
    let (mut log, _, _) = DiskLog::open_with(&options, Box::new(sync)).unwrap();
    log.recovered();
    log.note(&topic_created());
    log.note(&channel_created());
    let mut synced = log.synced();
    synced_files.lock().unwrap().clear();
    publish(&mut log, 1).unwrap();
    log.begin_segment(0).unwrap();
    fails.store(true, Ordering::SeqCst);
    publish(&mut log, 2).unwrap();
    synced.reached(log.position()).await.unwrap_err();
    assert_eq!(marks(path), ["0000000001.log.unsynced", "0000000002.log.unsynced"]);
    fails.store(false, Ordering::SeqCst);
    log.retry = None;
    publish(&mut log, 3).unwrap_err();
    // without waiting for the interval
    synced.reached(log.position()).await.unwrap();
    assert!(marks(path).is_empty());
    for name in files(path) {
        let file = std::fs::metadata(path.join(&name)).unwrap().ino();
        assert!(synced_files.lock().unwrap().contains(&file), "{name} was synced");
    }
}

#[tokio::test]
async fn data_of_a_failed_sync_is_written_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (fails, lost, mut log) = lost_after_failure(path);
    fails.store(true, Ordering::SeqCst);
    publish(&mut log, 1).unwrap();
    log.synced().reached(log.position()).await.unwrap_err();
    drop(log);
    assert_eq!(lost_files(path, &lost), ["0000000001.log"]);
    let world = World::open(&options(path, SyncMode::Interval, 1 << 20));
    assert_eq!(world.model.messages.len(), 1);
    assert!(lost_files(path, &lost).is_empty() && marks(path).is_empty());
}

#[test]
fn a_segment_whose_sync_fails_at_the_start_is_written_again_by_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let options = options(path, SyncMode::Always, 1 << 20);
    drop(DiskLog::open(&options).unwrap());
    let before = std::fs::metadata(file_path(path, 1)).unwrap().ino();
    let fails = |_: &File| Err(io::Error::other("the disk is broken"));
    DiskLog::open_with(&options, Box::new(fails)).unwrap_err();
    assert_eq!(marks(path), ["0000000001.log.unsynced"]);
    drop(DiskLog::open(&options).unwrap());
    assert!(marks(path).is_empty());
    assert_ne!(std::fs::metadata(file_path(path, 1)).unwrap().ino(), before);
}

#[tokio::test]
async fn after_a_failed_sync_a_new_segment_is_tried_without_any_write() {
    let directory = tempfile::tempdir().unwrap();
    let (fails, mut log) = failing(directory.path(), SyncMode::Interval);
    let failure_notify = log.failure_notify();
    fails.store(true, Ordering::SeqCst);
    publish(&mut log, 1).unwrap();
    // nothing writes or waits: the thread itself notifies
    failure_notify.notified().await;
    assert!(log.failure().unwrap().ends_with(": the disk is broken"));
    fails.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(20);
    while log.failure().is_some() {
        assert!(Instant::now() < deadline, "nothing is tried");
        std::thread::yield_now();
        log.retry = None;
    }
    publish(&mut log, 2).unwrap();
}

#[test]
fn after_a_failed_write_another_is_tried_without_any_publish() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 10));
    let long_ago = Instant::now().checked_sub(RETRY_INTERVAL).unwrap();
    world.log.failed = Some((Instant::now(), io::ErrorKind::Other, "the disk is broken".to_owned()));
    assert_eq!(world.log.failure().as_deref(), Some("the disk is broken"), "not at once");
    world.log.failed = Some((long_ago, io::ErrorKind::Other, "the disk is broken".to_owned()));
    assert_eq!(world.log.failure(), None);
    // the record written to find that out has no changes
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(2, 10));
    world.reopen();
}

#[test]
fn parents_of_new_directories_are_synced() {
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    for (mode, is_synced) in [(SyncMode::Always, true), (SyncMode::Interval, true), (SyncMode::Never, false)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let synced = Arc::new(Mutex::new(Vec::new()));
        let seen = synced.clone();
        let sync = move |file: &File| {
            seen.lock().unwrap().push(file.metadata()?.ino());
            Ok(())
        };
        drop(DiskLog::open_with(&options(&path, mode, 1 << 20), Box::new(sync)).unwrap());
        let synced = synced.lock().unwrap();
        for parent in [directory.path(), &directory.path().join("a")] {
            assert_eq!(synced.contains(&inode(parent)), is_synced, "{} with {mode:?}", parent.display());
        }
    }
}

#[tokio::test]
async fn a_sync_that_fails_during_a_relocation_keeps_segments_until_they_are_drained() {
    let directory = tempfile::tempdir().unwrap();
    let (fails, mut log) = failing(directory.path(), SyncMode::Always);
    let mut synced = log.synced();
    let location = publish(&mut log, 1).unwrap().unwrap();
    log.begin_segment(0).unwrap();
    synced.reached(log.position()).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let copy = ChannelCopy { channel: CHANNEL, attempts: 0, due: None };
    let (copies, bodies) = ([CopyRun { copy, index: 0, count: 1 }], Bodies::one(read(&mut log, location, 10).unwrap()));
    let (from, topic, first, timestamp, due, holder) =
        (Some(location.segment), TOPIC, 1, 1, None, MessageHolder::Channels);
    let relocated = Relocated { from, topic, first, timestamp, due, holder, copies: &copies, bodies: &bodies };
    let moved = log.relocate(&relocated).unwrap().unwrap();
    log.hold(moved.segment, 1, 100);
    log.spent(location.segment, 1, 100);
    assert!(synced.reached(log.position()).await.is_err());
    let cannot_be_written_again = file_path(directory.path(), 2).with_extension("log.new");
    std::fs::create_dir(&cannot_be_written_again).unwrap();
    fails.store(false, Ordering::SeqCst);
    for is_last in [false, false, true] {
        log.retry = None;
        assert!(publish(&mut log, 2).is_err(), "a new segment is begun, and not yet synced");
        assert_eq!(synced.reached(log.position()).await.is_ok(), is_last);
    }
    publish(&mut log, 2).unwrap();
    synced.reached(log.position()).await.unwrap();
    assert!(files(directory.path()).contains(&"0000000001.log".to_owned()), "its replacement may not be on the disk");
    log.note(&Change::Finished(CHANNEL, 1));
    log.flush().unwrap();
    log.spent(moved.segment, 1, 100);
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_left = |name: &String| number_of(name).is_some_and(|number| number < 5);
    while files(directory.path()).iter().any(is_left) {
        assert!(Instant::now() < deadline, "{:?}", files(directory.path()));
        log.flush().unwrap();
        synced.reached(log.position()).await.unwrap();
    }
}

#[tokio::test]
async fn a_relocated_message_is_synced_before_its_segment_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (fails, mut log) = failing(directory.path(), SyncMode::Always);
    let mut synced = log.synced();
    let location = publish(&mut log, 1).unwrap().unwrap();
    log.begin_segment(0).unwrap();
    synced.reached(log.position()).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let copy = ChannelCopy { channel: CHANNEL, attempts: 0, due: None };
    let (copies, bodies) = ([CopyRun { copy, index: 0, count: 1 }], Bodies::one(read(&mut log, location, 10).unwrap()));
    let (from, topic, first, timestamp, due, holder) =
        (Some(location.segment), TOPIC, 1, 1, None, MessageHolder::Channels);
    let relocated = Relocated { from, topic, first, timestamp, due, holder, copies: &copies, bodies: &bodies };
    log.relocate(&relocated).unwrap();
    log.spent(location.segment, 1, 100);
    assert!(synced.reached(log.position()).await.is_err());
    drop(log);
    assert_eq!(files(directory.path()), ["0000000001.log", "0000000002.log", "0000000002.log.unsynced"]);

    let world = World::open(&options(directory.path(), SyncMode::Interval, 1 << 20));
    assert_eq!(world.model.messages.len(), 1, "the carried one replaces the first");
    drop(world);
    assert_eq!(files(directory.path()), ["0000000002.log"], "opening syncs what is there");
}

#[tokio::test]
async fn a_removal_waits_until_the_folder_was_synced_after_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let is_folder = |file: &File| file.metadata().unwrap().is_dir();
    let (fails, mut log) = failing_for(directory.path(), SyncMode::Always, is_folder);
    let mut synced = log.synced();
    let mut locations = Vec::new();
    for first in 1..=3 {
        locations.push(publish(&mut log, first).unwrap().unwrap());
        log.begin_segment(0).unwrap();
    }
    synced.reached(log.position()).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    for (id, location) in (1..).zip(&locations[..2]) {
        log.note(&Change::Finished(CHANNEL, id));
        log.flush().unwrap();
        log.spent(location.segment, 1, 100);
    }
    let has = |name: &str| files(directory.path()).contains(&name.to_owned());
    // the first removal, whose sync fails; a later write tries again, and fails as well
    let deadline = Instant::now() + Duration::from_secs(20);
    while has("0000000001.log") || log.failure().is_none() {
        assert!(Instant::now() < deadline, "{:?}", files(directory.path()));
        log.note(&Change::Requeued(CHANNEL, 3, 1, None));
        let _ = log.flush();
        tokio::task::yield_now().await;
    }
    assert!(has("0000000002.log"), "{:?}", files(directory.path()));
    fails.store(false, Ordering::SeqCst);
    let mut ids = 4..;
    while has("0000000002.log") {
        assert!(Instant::now() < deadline, "{:?}", files(directory.path()));
        log.retry = None;
        let _ = publish(&mut log, ids.next().unwrap());
        tokio::task::yield_now().await;
    }
    assert!(has("0000000003.log"), "it has a message");
}

/// A power cut may bring back what was removed since the directory was synced.
#[tokio::test]
async fn a_segment_that_cannot_be_created_is_gone_for_good_before_anything_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(directory.path()) else { return };
    let path = directory.path().join("log");
    let synced_folders: Arc<Mutex<Vec<bool>>> = Arc::default();
    let sync = {
        let synced_folders = synced_folders.clone();
        move |file: &File| {
            synced_folders.lock().unwrap().push(file.metadata().unwrap().is_dir());
            file.sync_data()
        }
    };
    let options = LogOptions { reserve_bytes: 8192, ..options(&path, SyncMode::Always, 1 << 20) };
    let (mut log, _, _) = DiskLog::open_with(&options, Box::new(sync)).unwrap();
    log.recovered();
    log.note(&topic_created());
    log.note(&channel_created());
    let mut synced = log.synced();
    publish(&mut log, 1).unwrap();
    synced.reached(log.position()).await.unwrap();
    synced_folders.lock().unwrap().clear();
    let files_before = files(&path);
    let full = log.begin_segment(1 << 30).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
    assert_eq!(files(&path), files_before);
    publish(&mut log, 2).unwrap();
    synced.reached(log.position()).await.unwrap();
    assert_eq!(*synced_folders.lock().unwrap(), [true, false]);
    // one that cannot be removed: nothing is written
    let stays = file_path(&path, 77);
    std::fs::create_dir(&stays).unwrap();
    log.leftover = Some(77);
    publish(&mut log, 3).unwrap_err();
    log.begin_segment(0).unwrap_err();
    std::fs::remove_dir(&stays).unwrap();
    publish(&mut log, 3).unwrap();
}

#[tokio::test]
async fn a_directory_that_could_not_be_synced_is_synced_before_the_next_acknowledgement() {
    let directory = tempfile::tempdir().unwrap();
    let is_folder = |file: &File| file.metadata().unwrap().is_dir();
    let (fails, mut log) = failing_for(directory.path(), SyncMode::Always, is_folder);
    let mut synced = log.synced();
    publish(&mut log, 1).unwrap();
    synced.reached(log.position()).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    log.syncer.directory_changed();
    publish(&mut log, 2).unwrap();
    synced.reached(log.position()).await.unwrap_err();
    // the folder fails still, and a new segment is not acknowledged by its own sync
    let _ = log.begin_segment(0);
    synced.reached(log.position()).await.unwrap_err();
    fails.store(false, Ordering::SeqCst);
    log.begin_segment(0).unwrap();
    synced.reached(log.position()).await.unwrap();
}
