//! A file whose last changes are not on the disk yet.
//!
//! ```text
//!  backing file: all changes     ┌──────── synced ────────┬─ change 7 ─┬─ change 9 ─┐
//!  unsynced: how to undo each    │                        │ 7: length  │ 9: length  │
//!                                └────────────────────────┴────────────┴────────────┘
//!  failed sync: the changes that it should have covered never get to the disk
//!  power cut: all are undone, the newest first; those that survive are done again
//! ```

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that a disk writes as a whole.
const SECTOR: u64 = 512;

/// The contents of a file, in a backing file.
#[derive(Debug)]
pub(super) struct VolatileFile {
    backing: File,
    length: u64,
    /// Bytes of space that the file has, from its beginning.
    allocated: u64,
    /// The oldest first; the first one is not on the disk.
    unsynced: VecDeque<FileChange>,
}

/// A write or a truncation, and how to undo it.
#[derive(Debug)]
pub(super) struct FileChange {
    /// Number of the change, counted over all files and directories.
    pub(super) sequence: u64,
    offset: u64,
    /// Bytes written; 0 for a change of the length.
    pub(super) written: u64,
    length_before: u64,
    length_after: u64,
    /// The contents from `offset` that the change replaced or cut off.
    replaced: Vec<u8>,
    state: ChangeState,
}

/// Whether a change is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChangeState {
    /// Not yet.
    Unsynced,
    /// It is, and an older one is not.
    Synced,
    /// Its sync failed: the system has forgotten that it has to be written.
    Forgotten,
}

/// Bytes of the space that a file of this length takes.
pub(super) fn space(length: u64) -> u64 {
    length.next_multiple_of(4096)
}

/// The part of a change that a power cut leaves.
#[derive(Debug)]
pub(super) enum Surviving {
    Nothing,
    Everything,
    /// This many bytes of a write.
    First(u64),
    /// The sectors of a write for which this returns true.
    Sectors(fastrand::Rng),
}

impl VolatileFile {
    /// Creates an empty file at `path`.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let backing = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { backing, length: 0, allocated: 0, unsynced: VecDeque::new() })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of space that the file has.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Gives the file space up to this offset.
    pub(super) fn allocate(&mut self, end: u64) {
        self.allocated = self.allocated.max(space(end));
    }

    /// The backing file, for a sync.
    pub(super) fn backing(&self) -> io::Result<File> {
        self.backing.try_clone()
    }

    /// Reads at most `size` bytes.
    pub(super) fn read(&self, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        let size = self.length.saturating_sub(offset).min(size);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.backing.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(super) fn write(&mut self, sequence: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let (length, written) = (self.length, data.len() as u64);
        let replaced = self.read(offset, written)?;
        self.backing.write_all_at(data, offset)?;
        self.length = length.max(offset + written);
        self.changed(FileChange {
            sequence,
            offset,
            written,
            length_before: length,
            length_after: self.length,
            replaced,
            state: ChangeState::Unsynced,
        });
        self.allocate(self.length);
        Ok(())
    }

    pub(super) fn set_length(&mut self, sequence: u64, length: u64) -> io::Result<()> {
        let before = self.length;
        let replaced = self.read(length, u64::MAX)?;
        self.backing.set_len(length)?;
        self.length = length;
        self.changed(FileChange {
            sequence,
            offset: length,
            written: 0,
            length_before: before,
            length_after: length,
            replaced,
            state: ChangeState::Unsynced,
        });
        self.allocated = space(length);
        Ok(())
    }

    fn changed(&mut self, change: FileChange) {
        if change.written > 0 || change.length_before != change.length_after {
            self.unsynced.push_back(change);
        }
    }

    /// Makes all changes up to this one permanent, except forgotten ones.
    pub(super) fn synced(&mut self, sequence: u64) {
        self.mark(sequence, ChangeState::Synced);
        while self.unsynced.front().is_some_and(|change| change.state == ChangeState::Synced) {
            self.unsynced.pop_front();
        }
    }

    /// Notes that a sync failed: the system takes the changes up to this one for written, as Linux
    /// does, and no later sync writes them.
    pub(super) fn sync_failed(&mut self, sequence: u64) {
        self.mark(sequence, ChangeState::Forgotten);
    }

    fn mark(&mut self, sequence: u64, state: ChangeState) {
        let covered = self.unsynced.iter_mut().take_while(|change| change.sequence <= sequence);
        covered.filter(|change| change.state == ChangeState::Unsynced).for_each(|change| change.state = state);
    }

    /// The oldest change that is not on the disk.
    pub(super) fn first_unsynced(&self) -> Option<u64> {
        self.unsynced.front().map(|change| change.sequence)
    }

    /// Undoes all unsynced changes, then repeats what survives of them. Returns the number of bytes
    /// written that are lost.
    pub(super) fn cut(&mut self, mut surviving: impl FnMut(&FileChange) -> Surviving) -> io::Result<u64> {
        let mut undone = Vec::new();
        while let Some(change) = self.unsynced.pop_back() {
            let data = self.read(change.offset, change.written)?;
            self.backing.set_len(change.length_before)?;
            self.backing.write_all_at(&change.replaced, change.offset)?;
            self.length = change.length_before;
            undone.push((change, data));
        }
        let mut lost = 0;
        for (change, data) in undone.iter().rev() {
            let surviving = match change.state {
                ChangeState::Unsynced => surviving(change),
                ChangeState::Synced => Surviving::Everything,
                ChangeState::Forgotten => Surviving::Nothing,
            };
            lost += self.repeat(change, data, surviving)?;
        }
        self.length = self.backing.metadata()?.len();
        self.allocated = space(self.length);
        Ok(lost)
    }

    /// Repeats a part of a change; returns the number of bytes left out.
    fn repeat(&mut self, change: &FileChange, data: &[u8], surviving: Surviving) -> io::Result<u64> {
        let mut kept = 0;
        match surviving {
            Surviving::Nothing => {}
            Surviving::Everything if change.written == 0 => self.backing.set_len(change.length_after)?,
            Surviving::Everything => {
                self.backing.write_all_at(data, change.offset)?;
                kept = data.len();
            }
            Surviving::First(bytes) => {
                kept = usize::try_from(bytes).unwrap_or(usize::MAX).min(data.len());
                self.backing.write_all_at(&data[..kept], change.offset)?;
            }
            Surviving::Sectors(mut random) => {
                let mut at = 0;
                while at < data.len() {
                    let offset = change.offset + at as u64;
                    let end = (at + (SECTOR - offset % SECTOR) as usize).min(data.len());
                    if random.bool() {
                        self.backing.write_all_at(&data[at..end], offset)?;
                        kept += end - at;
                    }
                    at = end;
                }
            }
        }
        Ok((data.len() - kept) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, VolatileFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = VolatileFile::create(&folder.path().join("1")).unwrap();
        (folder, file)
    }

    fn contents(file: &VolatileFile) -> String {
        String::from_utf8(file.read(0, u64::MAX).unwrap()).unwrap()
    }

    #[test]
    fn unsynced_changes_are_lost_and_synced_ones_stay() {
        let (_folder, mut file) = file();
        file.write(1, 0, b"abcdef").unwrap();
        file.synced(1);
        file.write(2, 2, b"XY").unwrap();
        file.set_length(3, 3).unwrap();
        file.write(4, 5, b"later").unwrap();
        assert_eq!(contents(&file), "abX\0\0later");
        assert_eq!(file.cut(|_| Surviving::Nothing).unwrap(), 7);
        assert_eq!(contents(&file), "abcdef");
    }

    #[test]
    fn a_sync_covers_only_the_changes_before_it() {
        let (_folder, mut file) = file();
        file.write(1, 0, b"abc").unwrap();
        file.write(2, 3, b"def").unwrap();
        file.synced(1);
        file.cut(|_| Surviving::Nothing).unwrap();
        assert_eq!(contents(&file), "abc");
    }

    #[test]
    fn all_changes_survive_in_their_order() {
        let (_folder, mut file) = file();
        file.write(1, 0, b"abcdef").unwrap();
        file.set_length(2, 2).unwrap();
        file.write(3, 1, b"XYZ").unwrap();
        assert_eq!(file.cut(|_| Surviving::Everything).unwrap(), 0);
        assert_eq!(contents(&file), "aXYZ");
    }

    #[test]
    fn a_write_is_torn() {
        let (_folder, mut file) = file();
        file.write(1, 0, b"abcdef").unwrap();
        assert_eq!(file.cut(|_| Surviving::First(4)).unwrap(), 2);
        assert_eq!(contents(&file), "abcd");
    }

    #[test]
    fn a_failed_sync_loses_what_it_should_have_covered_and_later_changes_can_be_synced() {
        let (_folder, mut file) = file();
        file.write(1, 0, b"abc").unwrap();
        file.synced(1);
        file.write(2, 3, b"def").unwrap();
        file.sync_failed(2);
        file.write(3, 6, b"ghi").unwrap();
        file.synced(3);
        file.write(4, 9, b"jkl").unwrap();
        assert_eq!(contents(&file), "abcdefghijkl");
        file.cut(|_| Surviving::Everything).unwrap();
        assert_eq!(contents(&file), "abc\0\0\0ghijkl");
    }

    #[test]
    fn sectors_survive_one_by_one() {
        let (_folder, mut file) = file();
        file.write(1, 0, &[b'-'; 100]).unwrap();
        file.synced(1);
        file.write(2, 100, &[b'x'; 10_000]).unwrap();
        let lost = file.cut(|_| Surviving::Sectors(fastrand::Rng::with_seed(1))).unwrap();
        let text = contents(&file);
        assert!(lost > 0 && lost < 10_000, "{lost}");
        assert!(text[..100].bytes().all(|b| b == b'-') && text[100..].contains('x') && text[100..].contains('\0'));
    }
}
