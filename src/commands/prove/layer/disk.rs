//! A disk that forgets what was not synced: files, folders, and a power cut.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use nix::errno::Errno;

use super::file::{Surviving, VolatileFile, space};
use super::tree::{EntryChange, Inode, ROOT, Tree};
use super::{CutReport, DirectoryRule, DiskTrouble, PowerCut};

/// A file's or folder's attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeInfo {
    pub(super) is_folder: bool,
    pub(super) mode: u32,
    pub(super) modified: SystemTime,
}

/// The disk's state. Its files are in a folder, named by their numbers.
#[derive(Debug)]
pub(super) struct VolatileDisk {
    folder: PathBuf,
    rule: DirectoryRule,
    nodes: HashMap<Inode, NodeInfo>,
    files: HashMap<Inode, VolatileFile>,
    /// The entries that programs see.
    current: Tree,
    /// The entries that are on the disk.
    durable: Tree,
    /// Changes of entries that are not on the disk, the oldest first.
    pending: VecDeque<(u64, EntryChange)>,
    /// Number of the last change.
    sequence: u64,
    last_inode: Inode,
    trouble: Option<DiskTrouble>,
    /// Bytes that a full disk has left.
    room: Option<u64>,
    /// Number of power cuts so far.
    pub(super) cuts: u64,
}

/// A sync that has begun: it covers the changes up to `covered`.
#[derive(Debug)]
pub(super) struct BegunSync {
    inode: Inode,
    covered: u64,
    cuts: u64,
    /// The backing file to sync; `None` for a folder.
    pub(super) backing: Option<File>,
}

type DiskResult<T> = Result<T, Errno>;

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl VolatileDisk {
    /// Makes an empty disk whose backing files are in `folder`.
    pub(super) fn new(folder: PathBuf, rule: DirectoryRule) -> Self {
        let root = NodeInfo { is_folder: true, mode: 0o755, modified: SystemTime::now() };
        Self {
            folder,
            rule,
            nodes: HashMap::from([(ROOT, root)]),
            files: HashMap::new(),
            current: Tree::default(),
            durable: Tree::default(),
            pending: VecDeque::new(),
            sequence: 0,
            last_inode: ROOT,
            trouble: None,
            room: None,
            cuts: 0,
        }
    }

    /// The folder of the backing files.
    pub(super) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Begins a trouble of the disk, or ends it.
    pub(super) fn set_trouble(&mut self, trouble: Option<DiskTrouble>) {
        self.trouble = trouble;
        self.room = match trouble {
            Some(DiskTrouble::Full { bytes }) => Some(bytes),
            Some(_) | None => None,
        };
    }

    /// The bytes that are left on a full disk.
    pub(super) fn room(&self) -> Option<u64> {
        self.room
    }

    /// The time that a sync takes in addition to that of the real disk.
    pub(super) fn sync_delay(&self) -> Duration {
        match self.trouble {
            Some(DiskTrouble::SlowSync(delay)) => delay,
            Some(_) | None => Duration::ZERO,
        }
    }

    /// Takes the space that a file needs to reach `end`.
    fn take_room(&mut self, inode: Inode, end: u64) -> DiskResult<()> {
        let needed = space(end).saturating_sub(self.file(inode)?.allocated());
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(needed).ok_or(Errno::ENOSPC)?;
        }
        Ok(())
    }

    pub(super) fn info(&self, inode: Inode) -> DiskResult<NodeInfo> {
        self.nodes.get(&inode).copied().ok_or(Errno::ESTALE)
    }

    pub(super) fn length(&self, inode: Inode) -> u64 {
        self.files.get(&inode).map_or(0, VolatileFile::length)
    }

    pub(super) fn links(&self, inode: Inode) -> u32 {
        if inode == ROOT { 1 } else { self.current.links(inode) }
    }

    pub(super) fn lookup(&self, folder: Inode, name: &OsStr) -> DiskResult<Inode> {
        self.current.get(folder, name).ok_or(Errno::ENOENT)
    }

    /// Names and numbers of a folder's entries.
    pub(super) fn entries(&self, folder: Inode) -> DiskResult<Vec<(OsString, Inode)>> {
        let entries = self.current.entries(folder).ok_or(Errno::ENOTDIR)?;
        Ok(entries.iter().map(|(name, inode)| (name.clone(), *inode)).collect())
    }

    pub(super) fn create(&mut self, folder: Inode, name: &OsStr, mode: u32, is_folder: bool) -> DiskResult<Inode> {
        self.info(folder)?;
        if self.current.get(folder, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let inode = self.last_inode + 1;
        if !is_folder {
            let file = VolatileFile::create(&self.folder.join(inode.to_string())).map_err(errno)?;
            self.files.insert(inode, file);
        }
        self.last_inode = inode;
        self.nodes.insert(inode, NodeInfo { is_folder, mode, modified: SystemTime::now() });
        self.change(EntryChange::Add { folder, name: name.to_owned(), inode, is_folder });
        Ok(inode)
    }

    pub(super) fn link(&mut self, inode: Inode, folder: Inode, name: &OsStr) -> DiskResult<()> {
        self.info(inode)?;
        if self.current.get(folder, name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.change(EntryChange::Add { folder, name: name.to_owned(), inode, is_folder: false });
        Ok(())
    }

    pub(super) fn remove(&mut self, folder: Inode, name: &OsStr, is_folder: bool) -> DiskResult<()> {
        let inode = self.lookup(folder, name)?;
        match (self.info(inode)?.is_folder, is_folder) {
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            (true, true) if !self.entries(inode)?.is_empty() => return Err(Errno::ENOTEMPTY),
            (true, true) | (false, false) => {}
        }
        self.change(EntryChange::Remove { folder, name: name.to_owned() });
        if let (0, Some(room)) = (self.current.links(inode), &mut self.room) {
            *room += self.files.get(&inode).map_or(0, VolatileFile::allocated);
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: Inode, name: &OsStr, to: Inode, new_name: &OsStr) -> DiskResult<()> {
        let inode = self.lookup(from, name)?;
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.change(EntryChange::Rename { from, name, to, new_name, inode });
        Ok(())
    }

    fn change(&mut self, change: EntryChange) {
        self.sequence += 1;
        self.current.apply(&change);
        self.pending.push_back((self.sequence, change));
    }

    fn file(&mut self, inode: Inode) -> DiskResult<&mut VolatileFile> {
        self.files.get_mut(&inode).ok_or(Errno::EIO)
    }

    pub(super) fn read(&mut self, inode: Inode, offset: u64, size: u64) -> DiskResult<Vec<u8>> {
        match self.trouble {
            Some(DiskTrouble::ReadError) => Err(Errno::EIO),
            Some(_) | None => self.file(inode)?.read(offset, size).map_err(errno),
        }
    }

    /// Writes; a synchronous write is on the disk when this returns, with all earlier ones of its
    /// file.
    pub(super) fn write(&mut self, inode: Inode, offset: u64, data: &[u8], is_synchronous: bool) -> DiskResult<()> {
        if self.trouble == Some(DiskTrouble::WriteError) {
            return Err(Errno::EIO);
        }
        self.take_room(inode, offset + data.len() as u64)?;
        let sequence = self.touched(inode);
        let file = self.file(inode)?;
        file.write(sequence, offset, data).map_err(errno)?;
        if is_synchronous {
            file.backing().and_then(|backing| backing.sync_data()).map_err(errno)?;
            file.synced(sequence);
        }
        Ok(())
    }

    pub(super) fn set_length(&mut self, inode: Inode, length: u64) -> DiskResult<()> {
        let sequence = self.touched(inode);
        let file = self.file(inode)?;
        let before = file.allocated();
        file.set_length(sequence, length).map_err(errno)?;
        let freed = before.saturating_sub(file.allocated());
        self.room.iter_mut().for_each(|room| *room += freed);
        Ok(())
    }

    pub(super) fn set_mode(&mut self, inode: Inode, mode: u32) {
        if let Some(info) = self.nodes.get_mut(&inode) {
            info.mode = mode & 0o7777;
        }
    }

    /// Allocates space; what is beyond the end of the file stays beyond it.
    pub(super) fn allocate(&mut self, inode: Inode, offset: u64, length: u64, mode: i32) -> DiskResult<()> {
        use nix::fcntl::{FallocateFlags, fallocate};
        let signed = |number: u64| i64::try_from(number).map_err(|_| Errno::EFBIG);
        let flags = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        if !FallocateFlags::FALLOC_FL_KEEP_SIZE.contains(flags) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.take_room(inode, offset + length)?;
        self.file(inode)?.allocate(offset + length);
        let backing = self.file(inode)?.backing().map_err(errno)?;
        let kept = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&backing, kept, signed(offset)?, signed(length)?)?;
        if flags.is_empty() && offset + length > self.length(inode) {
            self.set_length(inode, offset + length)?;
        }
        Ok(())
    }

    fn touched(&mut self, inode: Inode) -> u64 {
        self.sequence += 1;
        if let Some(info) = self.nodes.get_mut(&inode) {
            info.modified = SystemTime::now();
        }
        self.sequence
    }

    /// Begins the sync of a file or folder. Changes that are made while it runs are not covered.
    pub(super) fn begin_sync(&mut self, inode: Inode) -> DiskResult<BegunSync> {
        let backing = match self.info(inode)?.is_folder {
            true => None,
            false => Some(self.file(inode)?.backing().map_err(errno)?),
        };
        Ok(BegunSync { inode, covered: self.sequence, cuts: self.cuts, backing })
    }

    /// Ends a sync: the changes that it covers are on the disk.
    pub(super) fn end_sync(&mut self, sync: &BegunSync) -> DiskResult<()> {
        if sync.cuts != self.cuts {
            return Err(Errno::EIO);
        }
        if self.trouble == Some(DiskTrouble::SyncError) {
            if let Some(file) = self.files.get_mut(&sync.inode) {
                file.sync_failed(sync.covered);
            }
            return Err(Errno::EIO);
        }
        if let Some(file) = self.files.get_mut(&sync.inode) {
            file.synced(sync.covered);
        }
        let rule = self.rule;
        let pending = std::mem::take(&mut self.pending);
        for (sequence, change) in pending {
            let is_synced = rule == DirectoryRule::Journal || change.is_in(sync.inode);
            if is_synced && sequence <= sync.covered {
                self.durable.apply(&change);
            } else {
                self.pending.push_back((sequence, change));
            }
        }
        Ok(())
    }

    /// Cuts the power: of what was not synced, only what `cut` says is left. All numbers of files
    /// change, so that nobody takes an open file along.
    pub(super) fn cut(&mut self, cut: PowerCut, random: &mut Rng) -> io::Result<CutReport> {
        self.cuts += 1;
        let first = self.first_unsynced();
        // the disk had written everything up to this change, and a part of this one
        let last = random.u64(first..=self.sequence.max(first));
        let mut report = CutReport::default();
        for (sequence, change) in std::mem::take(&mut self.pending) {
            let survives = match (cut, self.rule) {
                (PowerCut::Unsynced, _) => false,
                (PowerCut::InOrder, _) | (PowerCut::Scattered, DirectoryRule::Journal) => sequence < last,
                (PowerCut::Scattered, DirectoryRule::Posix) => random.bool(),
            };
            if survives {
                self.durable.apply(&change);
            } else {
                report.entries += 1;
            }
        }
        let mut files: Vec<_> = self.files.iter_mut().collect();
        files.sort_unstable_by_key(|(inode, _)| **inode);
        for (_, file) in files {
            report.bytes += file.cut(|change| match cut {
                PowerCut::Unsynced => Surviving::Nothing,
                PowerCut::InOrder if change.sequence < last => Surviving::Everything,
                PowerCut::InOrder if change.sequence == last && change.written > 0 => {
                    Surviving::First(random.u64(..change.written))
                }
                PowerCut::InOrder => Surviving::Nothing,
                PowerCut::Scattered if change.written > 0 => Surviving::Sectors(random.fork()),
                PowerCut::Scattered if random.bool() => Surviving::Everything,
                PowerCut::Scattered => Surviving::Nothing,
            })?;
        }
        self.restart();
        Ok(report)
    }

    /// The oldest change that is not on the disk; the next one if there is none.
    fn first_unsynced(&self) -> u64 {
        let of_files = self.files.values().filter_map(VolatileFile::first_unsynced).min();
        let of_entries = self.pending.front().map(|(sequence, _)| *sequence);
        of_files.into_iter().chain(of_entries).min().unwrap_or(self.sequence + 1)
    }

    /// Forgets all but what is on the disk, under new numbers.
    fn restart(&mut self) {
        let mut kept: Vec<Inode> = self.durable.reachable().into_iter().filter(|inode| *inode != ROOT).collect();
        kept.sort_unstable();
        let mut new = HashMap::from([(ROOT, ROOT)]);
        for inode in kept {
            self.last_inode += 1;
            new.insert(inode, self.last_inode);
        }
        self.durable = self.durable.renumbered(&new);
        self.current = self.durable.clone();
        let mut nodes = std::mem::take(&mut self.nodes);
        let mut files = std::mem::take(&mut self.files);
        for (old, new) in new {
            self.nodes.extend(nodes.remove(&old).map(|info| (new, info)));
            if let Some(file) = files.remove(&old) {
                let path = |inode: Inode| self.folder.join(inode.to_string());
                let _ = std::fs::rename(path(old), path(new));
                self.files.insert(new, file);
            }
        }
        for gone in files.into_keys() {
            let _ = std::fs::remove_file(self.folder.join(gone.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(rule: DirectoryRule) -> (tempfile::TempDir, VolatileDisk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = VolatileDisk::new(folder.path().to_owned(), rule);
        (folder, disk)
    }

    fn sync(disk: &mut VolatileDisk, inode: Inode) {
        let begun = disk.begin_sync(inode).unwrap();
        disk.end_sync(&begun).unwrap();
    }

    fn cut(disk: &mut VolatileDisk, cut: PowerCut) -> CutReport {
        disk.cut(cut, &mut Rng::with_seed(1)).unwrap()
    }

    fn names(disk: &VolatileDisk) -> Vec<String> {
        let entries = disk.entries(ROOT).unwrap();
        entries.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    }

    fn contents(disk: &mut VolatileDisk, name: &str) -> Option<String> {
        let inode = disk.lookup(ROOT, OsStr::new(name)).ok()?;
        Some(String::from_utf8(disk.read(inode, 0, u64::MAX).unwrap()).unwrap())
    }

    fn written(disk: &mut VolatileDisk, name: &str, data: &str) -> Inode {
        let inode = disk.create(ROOT, OsStr::new(name), 0o644, false).unwrap();
        disk.write(inode, 0, data.as_bytes(), false).unwrap();
        inode
    }

    #[test]
    fn a_synced_file_without_its_directory_is_lost_by_the_rule_of_posix_only() {
        for (rule, left) in [(DirectoryRule::Posix, None), (DirectoryRule::Journal, Some("data".to_owned()))] {
            let (_folder, mut disk) = disk(rule);
            let inode = written(&mut disk, "a", "data");
            sync(&mut disk, inode);
            cut(&mut disk, PowerCut::Unsynced);
            assert_eq!(contents(&mut disk, "a"), left, "{rule:?}");
        }
    }

    #[test]
    fn a_file_that_was_not_synced_is_empty_where_its_name_was() {
        let (_folder, mut disk) = disk(DirectoryRule::Posix);
        written(&mut disk, "a", "data");
        sync(&mut disk, ROOT);
        let report = cut(&mut disk, PowerCut::Unsynced);
        assert_eq!((contents(&mut disk, "a").as_deref(), report.bytes), (Some(""), 4));
    }

    #[test]
    fn a_rename_and_a_removal_are_undone_until_the_directory_is_synced() {
        let (_folder, mut disk) = disk(DirectoryRule::Posix);
        for name in ["a", "b"] {
            let inode = written(&mut disk, name, name);
            sync(&mut disk, inode);
        }
        sync(&mut disk, ROOT);
        let change = |disk: &mut VolatileDisk| {
            disk.rename(ROOT, OsStr::new("a"), ROOT, OsStr::new("c")).unwrap();
            disk.remove(ROOT, OsStr::new("b"), false).unwrap();
            assert_eq!(names(disk), ["c"]);
        };
        change(&mut disk);
        assert_eq!(cut(&mut disk, PowerCut::Unsynced).entries, 2);
        assert_eq!(names(&disk), ["a", "b"]);
        assert_eq!(contents(&mut disk, "b").as_deref(), Some("b"));
        change(&mut disk);
        sync(&mut disk, ROOT);
        cut(&mut disk, PowerCut::Unsynced);
        assert_eq!(names(&disk), ["c"]);
        assert_eq!(contents(&mut disk, "c").as_deref(), Some("a"));
    }

    #[test]
    fn a_change_during_a_sync_is_not_covered_and_a_sync_across_a_power_cut_fails() {
        let (_folder, mut disk) = disk(DirectoryRule::Journal);
        let inode = written(&mut disk, "a", "1");
        let begun = disk.begin_sync(inode).unwrap();
        disk.write(inode, 1, b"2", false).unwrap();
        disk.end_sync(&begun).unwrap();
        let begun = disk.begin_sync(inode).unwrap();
        cut(&mut disk, PowerCut::Unsynced);
        assert_eq!(contents(&mut disk, "a").as_deref(), Some("1"));
        assert_eq!(disk.end_sync(&begun), Err(Errno::EIO));
        assert_eq!(disk.read(inode, 0, 1), Err(Errno::EIO), "an open file does not survive");
    }

    #[test]
    fn a_synchronous_write_is_on_the_disk() {
        let (_folder, mut disk) = disk(DirectoryRule::Journal);
        let inode = written(&mut disk, "a", "1");
        sync(&mut disk, inode);
        disk.write(inode, 1, b"2", true).unwrap();
        cut(&mut disk, PowerCut::Unsynced);
        assert_eq!(contents(&mut disk, "a").as_deref(), Some("12"));
    }

    #[test]
    fn a_full_disk_takes_what_was_allocated_and_what_was_freed() {
        let (_folder, mut disk) = disk(DirectoryRule::Journal);
        let inode = written(&mut disk, "a", "1");
        disk.allocate(inode, 0, 8192, 1).unwrap();
        disk.set_trouble(Some(DiskTrouble::Full { bytes: 0 }));
        disk.write(inode, 1, &[b'x'; 8191], false).unwrap();
        assert_eq!(disk.write(inode, 8192, b"x", false), Err(Errno::ENOSPC));
        let other = disk.create(ROOT, OsStr::new("b"), 0o644, false).unwrap();
        assert_eq!(disk.write(other, 0, b"x", false), Err(Errno::ENOSPC));
        disk.set_length(inode, 4096).unwrap();
        disk.write(other, 0, b"x", false).unwrap();
        assert_eq!(disk.room(), Some(0));
        disk.remove(ROOT, OsStr::new("a"), false).unwrap();
        assert_eq!(disk.room(), Some(4096));
        disk.set_trouble(None);
        disk.write(other, 0, &[b'x'; 100_000], false).unwrap();
    }

    #[test]
    fn failing_calls_fail_until_the_trouble_is_over() {
        let (_folder, mut disk) = disk(DirectoryRule::Journal);
        let inode = written(&mut disk, "a", "1");
        disk.set_trouble(Some(DiskTrouble::WriteError));
        assert_eq!(disk.write(inode, 0, b"2", false), Err(Errno::EIO));
        disk.set_trouble(Some(DiskTrouble::ReadError));
        assert_eq!(disk.read(inode, 0, 1), Err(Errno::EIO));
        disk.set_trouble(Some(DiskTrouble::SyncError));
        let begun = disk.begin_sync(inode).unwrap();
        assert_eq!(disk.end_sync(&begun), Err(Errno::EIO));
        disk.set_trouble(None);
        sync(&mut disk, inode);
        assert_eq!(contents(&mut disk, "a").as_deref(), Some("1"));
        cut(&mut disk, PowerCut::Unsynced);
        assert_eq!(contents(&mut disk, "a").as_deref(), Some(""), "the failed sync is not made up for");
    }

    #[test]
    fn a_cut_in_order_leaves_a_beginning_of_all_changes() {
        for seed in 0..200 {
            let (_folder, mut disk) = disk(DirectoryRule::Posix);
            let [a, b] = ["a", "b"].map(|name| disk.create(ROOT, OsStr::new(name), 0o644, false).unwrap());
            sync(&mut disk, ROOT);
            for n in 0..10 {
                disk.write(a, n, b"x", false).unwrap();
                disk.write(b, n, b"x", false).unwrap();
            }
            disk.cut(PowerCut::InOrder, &mut Rng::with_seed(seed)).unwrap();
            let [a, b] = ["a", "b"].map(|name| contents(&mut disk, name).unwrap().len());
            assert!(a == b || a == b + 1, "seed {seed}: {a} and {b}");
        }
    }
}
