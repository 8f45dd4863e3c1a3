//! Openings with a checkpoint.

use std::fs;
use std::io::Write;

use super::world::{World, copy};
use super::*;

/// A log of some segments with a checkpoint, closed.
fn with_checkpoint(path: &Path) {
    let mut world = world(path, SyncMode::Never, 4096);
    for _ in 0..4 {
        world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 1000));
    }
    world.note(Change::Finished(CHANNEL, 1));
    world.note(Change::Requeued(CHANNEL, 2, 3, Some(UnixMillis(99))));
    world.log.checkpoint().unwrap();
    assert!(files(path).len() > 3, "{:?}", files(path));
}

/// Opens the log; returns whether a checkpoint was used.
fn uses_checkpoint(path: &Path) -> bool {
    let (_, _, report) = DiskLog::open(&options(path, SyncMode::Never, 4096)).unwrap();
    assert_eq!(report.is_from_checkpoint, report.bytes == 0, "{report:?}");
    assert!(!path.join("checkpoint").exists());
    report.is_from_checkpoint
}

#[test]
fn a_checkpoint_is_used_once_and_has_the_same_contents() {
    let directory = fast_directory();
    with_checkpoint(directory.path());
    let options = options(directory.path(), SyncMode::Never, 4096);
    let copied = fast_directory();
    copy(directory.path(), copied.path());
    fs::remove_file(copied.path().join("checkpoint")).unwrap();
    let read = World::open(&LogOptions { path: copied.path().into(), ..options.clone() });
    let mut world = World::open(&options);
    assert_eq!(world.model, read.model);
    world.check_bodies();
    drop(world);
    assert!(!uses_checkpoint(directory.path()));
}

#[test]
fn a_checkpoint_of_other_segments_is_ignored() {
    type Alter = fn(&Path);
    let alterations: [(&str, Alter); 6] = [
        ("a written log", |path| {
            let kept = fs::read(path.join("checkpoint")).unwrap();
            let mut world = World::open(&options(path, SyncMode::Never, 4096));
            world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 10));
            drop(world);
            fs::write(path.join("checkpoint"), kept).unwrap();
        }),
        ("a longer segment", |path| {
            let mut file = fs::OpenOptions::new().append(true).open(file_path(path, 1)).unwrap();
            Write::write_all(&mut file, &[0]).unwrap();
        }),
        ("a shorter segment", |path| {
            let file = fs::OpenOptions::new().write(true).open(file_path(path, 2)).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
        ("another header", |path| {
            let mut bytes = fs::read(file_path(path, 1)).unwrap();
            bytes[40] ^= 1;
            fs::write(file_path(path, 1), bytes).unwrap();
        }),
        ("no first segment", |path| fs::remove_file(file_path(path, 1)).unwrap()),
        ("one more segment", |path| fs::write(file_path(path, 77), b"").unwrap()),
    ];
    for (name, alter) in alterations {
        let directory = fast_directory();
        with_checkpoint(directory.path());
        alter(directory.path());
        assert!(!uses_checkpoint(directory.path()), "{name}");
    }
}

#[test]
fn a_damaged_checkpoint_is_ignored() {
    let directory = fast_directory();
    with_checkpoint(directory.path());
    let good = fs::read(directory.path().join("checkpoint")).unwrap();
    for wrong in 0..good.len() {
        let mut bytes = good.clone();
        bytes[wrong] ^= 1 << (wrong % 8);
        fs::write(directory.path().join("checkpoint"), bytes).unwrap();
        assert!(!uses_checkpoint(directory.path()), "byte {wrong}");
        fs::write(directory.path().join("checkpoint"), &good[..wrong]).unwrap();
        assert!(!uses_checkpoint(directory.path()), "{wrong} bytes");
    }
    fs::write(directory.path().join("checkpoint"), good).unwrap();
    assert!(uses_checkpoint(directory.path()), "what was opened changed nothing");
}

#[test]
fn a_damaged_log_gets_no_checkpoint() {
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 4096);
    let location = world.publish(TOPIC, MessageHolder::Channels, None, &bodies(2, 1000));
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(2, 1000));
    let path = file_path(directory.path(), location.segment);
    let mut bytes = fs::read(&path).unwrap();
    bytes[location.offset as usize + 500] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(world.log.checkpoint().unwrap_err().to_string(), "the log is damaged");
    assert!(!directory.path().join("checkpoint").exists());
}
