//! A disk on which only what was synced survives a power cut.
//!
//! The files are real ones. Each sync is recorded: a file's length then, and with a sync of the
//! folder, its names. A power cut leaves a copy in which everything since may be missing, alone or
//! together, and in which the unsynced end of a file may have holes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that a disk writes as one.
const PAGE: u64 = 4096;

/// A folder on the disk.
#[derive(Debug)]
pub(super) struct Disk {
    root: tempfile::TempDir,
    /// The number of the current folder: each crash leaves a new one.
    generation: usize,
    synced: Arc<Mutex<SyncedFiles>>,
}

/// The synced length of each file, by its number, and the folder's synced names, by links in
/// another folder.
#[derive(Debug, Default)]
struct SyncedFiles(BTreeMap<u64, u64>);

impl Disk {
    pub(super) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let disk = Self { root: root.unwrap(), generation: 0, synced: Arc::default() };
        fs::create_dir(disk.path()).unwrap();
        fs::create_dir(disk.names()).unwrap();
        disk
    }

    /// The current folder.
    pub(super) fn path(&self) -> PathBuf {
        self.root.path().join(self.generation.to_string())
    }

    /// A folder with links to the files that have a synced name.
    fn names(&self) -> PathBuf {
        self.root.path().join(format!("{}.names", self.generation))
    }

    /// The function that syncs a file or the folder.
    pub(super) fn sync(&self) -> impl Fn(&File) -> io::Result<()> + Send + 'static {
        let (folder, names, synced) = (self.path(), self.names(), self.synced.clone());
        move |file| {
            let about = file.metadata()?;
            if about.is_file() {
                let mut synced = synced.lock().unwrap_or_else(PoisonError::into_inner);
                synced.0.insert(about.ino(), about.len());
            } else if fs::metadata(&folder)?.ino() == about.ino() {
                copy_names(&folder, &names)?;
            }
            Ok(())
        }
    }

    /// Ends the process that uses the disk: everything written is there, in a new folder, and what
    /// was not synced can still be lost by a power cut.
    pub(super) fn kill_process(&mut self) {
        let names = self.next_generation(|from, into, synced| {
            fs::copy(from, into)?;
            Ok(synced)
        });
        let old_folder = self.root.path().join((self.generation - 1).to_string());
        for name in list(&names) {
            let (before, old, new) = (names.join(&name), old_folder.join(&name), self.names().join(&name));
            match number(&before) == number(&old) {
                true => fs::hard_link(self.path().join(&name), new).unwrap(),
                false => drop(fs::copy(before, new).unwrap()),
            }
        }
    }

    /// Cuts the power: what was not synced may be lost, in a new folder.
    pub(super) fn cut_power(&mut self, rng: &mut fastrand::Rng) {
        let (folder, names) = (self.path(), self.names());
        // of a name that changed since the folder was synced, the one or the other is there
        for name in list(&folder).union(&list(&names)) {
            let (now, before) = (folder.join(name), names.join(name));
            if number(&now) != number(&before) && rng.bool() {
                let _ = fs::remove_file(&now);
                if before.exists() {
                    fs::hard_link(&before, &now).unwrap();
                }
            }
        }
        self.next_generation(|from, into, synced| {
            fs::copy(from, into)?;
            let file = File::options().write(true).open(into)?;
            let length = file.metadata()?.len();
            let kept = rng.u64(synced.min(length)..=length);
            file.set_len(kept)?;
            // a page that is not wholly synced may be missing
            for page in synced / PAGE..kept.div_ceil(PAGE) {
                let (begin, end) = ((page * PAGE).max(synced), ((page + 1) * PAGE).min(kept));
                if rng.u8(..) < 64 && begin < end {
                    file.write_all_at(&vec![0; (end - begin) as usize], begin)?;
                }
            }
            Ok(kept)
        });
        copy_names(&self.path(), &self.names()).unwrap();
    }

    /// Begins a new folder with what `copy` copies, given the synced length of each file; it
    /// returns that of the copy. Returns the folder of the synced names until now.
    fn next_generation(&mut self, mut copy: impl FnMut(&Path, &Path, u64) -> io::Result<u64>) -> PathBuf {
        let (folder, old_names) = (self.path(), self.names());
        self.generation += 1;
        fs::create_dir(self.path()).unwrap();
        fs::create_dir(self.names()).unwrap();
        let before = std::mem::take(&mut *self.synced.lock().unwrap_or_else(PoisonError::into_inner));
        let mut lengths = SyncedFiles::default();
        for name in list(&folder) {
            let (from, into) = (folder.join(&name), self.path().join(&name));
            let about = fs::metadata(&from).unwrap();
            let synced = before.0.get(&about.ino()).map_or(0, |synced| (*synced).min(about.len()));
            let synced = copy(&from, &into, synced).unwrap();
            lengths.0.insert(fs::metadata(&into).unwrap().ino(), synced);
        }
        self.synced = Arc::new(Mutex::new(lengths));
        old_names
    }
}

fn list(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn number(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|about| about.ino())
}

fn copy_names(folder: &Path, names: &Path) -> io::Result<()> {
    for name in list(names) {
        fs::remove_file(names.join(name))?;
    }
    for name in list(folder) {
        fs::hard_link(folder.join(&name), names.join(&name))?;
    }
    Ok(())
}
