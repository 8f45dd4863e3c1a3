//! Damage to the log of `mqueue broker`: where its records are, and what it may cost.
//!
//! The format is that of `docs/log-format.md`. Records are found by their lengths alone, before the
//! damage, so that no code of the broker judges the broker.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::commands::prove::body;
use crate::commands::prove::history::DamageRecord;
use mqueue::plural::count;

/// Bytes of a segment's header: two copies of 32 bytes.
const HEADER: usize = 64;
/// Where the header has the salt.
const SALT: usize = 12;
/// Bytes of a record's header.
const RECORD_HEADER: usize = 12;
/// Kinds of records whose loss makes finished and requeued messages what they were before.
const CHANGES: u8 = 2;

/// A part of a segment that has a checksum of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LogUnit {
    /// The kind of a record; `None` for the segment's header.
    kind: Option<u8>,
    range: Range<usize>,
}

/// Finds the units of a segment.
fn units(bytes: &[u8]) -> Vec<LogUnit> {
    let mut units = vec![LogUnit { kind: None, range: 0..HEADER.min(bytes.len()) }];
    let mut at = HEADER;
    while let Some(head) = bytes.get(at..at + RECORD_HEADER) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = at.saturating_add(RECORD_HEADER).saturating_add(length);
        if end > bytes.len() {
            break;
        }
        units.push(LogUnit { kind: Some(head[8]), range: at..end });
        at = end;
    }
    units
}

/// Finds the units before the first that a power cut has damaged already. The one just before that is
/// left out: the broker names neighbours that are damaged as one range.
fn sound_units(bytes: &[u8]) -> Vec<LogUnit> {
    let mut units = units(bytes);
    if let Some(damaged) = units.iter().position(|unit| !is_sound(unit, bytes)) {
        units.truncate(damaged.saturating_sub(1));
    }
    units
}

/// Returns true if the payload of a record has the record's checksum, which starts from the segment's salt.
fn is_sound(unit: &LogUnit, bytes: &[u8]) -> bool {
    let number = |at: usize| bytes.get(at..at + 4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]));
    let (Some(_), Some(salt), Some(crc)) = (unit.kind, number(SALT), number(unit.range.start + 4)) else { return true };
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&bytes[unit.range.start + RECORD_HEADER..unit.range.end]);
    hasher.finalize() == crc
}

/// The segments of a log, the oldest first.
fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "log");
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(is_segment).collect();
    paths.sort();
    Ok(paths)
}

/// Flips one bit of a record, of any kind with the same chance; returns `None` without a log.
pub(super) fn flip_bit(folder: &Path, seed: u64, random: &mut Rng) -> io::Result<Option<DamageRecord>> {
    let Some(path) = random.choice(segments(folder)?) else { return Ok(None) };
    let bytes = fs::read(&path)?;
    let units = sound_units(&bytes);
    let mut kinds: Vec<_> = units.iter().map(|unit| unit.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let Some(kind) = random.choice(kinds) else { return Ok(None) };
    let of_kind: Vec<_> = units.iter().filter(|unit| unit.kind == kind && !unit.range.is_empty()).collect();
    let Some(unit) = random.choice(of_kind) else { return Ok(None) };
    let at = random.usize(unit.range.clone());
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&[bytes[at] ^ (1 << random.u8(..8))], at as u64)?;
    file.sync_all()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kind = unit.kind.map_or("the header".to_owned(), |kind| format!("a record of kind {kind}"));
    Ok(Some(DamageRecord {
        text: format!("bit flipped in byte {at} of {name}, in {kind}, bytes {:?}", unit.range),
        file: name,
        range: unit.range.start as u64..unit.range.end as u64,
        messages: body::numbers_in(&bytes[unit.range.clone()], seed),
        forgets: unit.kind == Some(CHANGES),
    }))
}

/// Cuts off the end of the newest segment, at any byte behind its header; returns `None` without
/// one.
pub(super) fn truncate(folder: &Path, seed: u64, random: &mut Rng) -> io::Result<Option<DamageRecord>> {
    let Some(path) = segments(folder)?.pop() else { return Ok(None) };
    let bytes = fs::read(&path)?;
    let units = units(&bytes);
    // without its header and its two Snapshots a file was never used
    let Some(first) = units.get(2).map(|unit| unit.range.end).filter(|first| *first < bytes.len()) else {
        return Ok(None);
    };
    let at = random.usize(first..bytes.len());
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    let begin = units.iter().find(|unit| unit.range.contains(&at)).map_or(at, |unit| unit.range.start);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Some(DamageRecord {
        text: format!("{name} truncated to {at} of {} bytes", bytes.len()),
        file: name,
        // a truncation between two records cannot be noticed
        range: begin as u64..at as u64,
        messages: body::numbers_in(&bytes[begin..], seed),
        forgets: true,
    }))
}

/// Checks that the broker's output names the damage, and nothing beyond it.
///
/// # Errors
/// It does not; described.
pub(super) fn check_named(damage: &DamageRecord, output: &str) -> Result<(), String> {
    if damage.range.is_empty() {
        return Ok(());
    }
    let lines: Vec<&str> = output.lines().filter(|line| line.contains(&damage.file)).collect();
    let ranges = lines.iter().filter_map(|line| {
        let (_, rest) = line.split_once("damaged from byte ")?;
        let (from, rest) = rest.split_once(" to ")?;
        let to: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(from.parse::<u64>().ok()?..to.parse::<u64>().ok()?)
    });
    let torn = format!("cut off the last {}", count(damage.range.end - damage.range.start, "byte"));
    let is_named = ranges.clone().any(|range| range == damage.range)
        || lines.iter().any(|line| line.contains(&torn) || line.contains("copies of its header"));
    if is_named {
        return Ok(());
    }
    let found: Vec<_> = ranges.collect();
    Err(format!("the broker does not name it: {}; it names {found:?}", damage.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment with records of these kinds and payloads.
    fn segment(records: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        for (kind, payload) in records {
            bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
            bytes.extend_from_slice(&[*kind, 0, 0, 0]);
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    #[test]
    fn units_are_found_by_their_lengths() {
        let bytes = segment(&[(1, b"abc"), (3, b"")]);
        let found: Vec<_> = units(&bytes).into_iter().map(|unit| (unit.kind, unit.range)).collect();
        assert_eq!(found, [(None, 0..64), (Some(1), 64..79), (Some(3), 79..91)]);
        assert_eq!(units(&bytes[..90]).len(), 2, "a record that is cut short is none");
    }

    #[test]
    fn units_that_are_damaged_already_and_their_neighbours_are_left_alone() {
        let mut bytes = segment(&[(1, b"abc"), (3, b"one"), (3, b"two"), (3, b"three")]);
        assert_eq!(sound_units(&bytes), units(&bytes));
        let last = bytes.len() - 1;
        bytes[last] = 0;
        assert_eq!(sound_units(&bytes), units(&bytes)[..3]);
        bytes.truncate(last - 5);
        bytes.extend([0; 100]);
        assert_eq!(sound_units(&bytes), units(&bytes)[..3], "a hole");
    }

    #[test]
    fn a_flip_may_cost_the_messages_of_its_unit_and_must_be_named() {
        let folder = tempfile::tempdir().unwrap();
        let body = body::of_message(7, 3, 100);
        fs::write(folder.path().join("0000000001.log"), segment(&[(3, &body)])).unwrap();
        let damage = loop {
            let damage = flip_bit(folder.path(), 7, &mut Rng::new()).unwrap().unwrap();
            if damage.range.start == 64 {
                break damage;
            }
            // the body may not be recognised after a flip in it
            fs::write(folder.path().join("0000000001.log"), segment(&[(3, &body)])).unwrap();
        };
        assert_eq!((damage.messages.iter().copied().collect::<Vec<_>>(), damage.forgets), (vec![3], false));
        let line = |from: u64, to: u64| format!("ERROR 0000000001.log is damaged from byte {from} to {to}: messages");
        assert_eq!(check_named(&damage, &line(damage.range.start, damage.range.end)), Ok(()));
        assert!(check_named(&damage, &line(damage.range.start, damage.range.end + 1)).is_err());
        assert!(check_named(&damage, "").is_err());
    }
}
