//! A disk on which only what was synced survives a power cut.
//!
//! The files are real ones. Each sync is recorded: a file's length then, and with a sync of the
//! folder, its names. A power cut leaves a copy in which everything since may be missing, alone or
//! together, and in which the unsynced end of a file may have holes. Syncs can fail for a while, and
//! what they would have synced is lost with the next power cut, as after a failed fsync on Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

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

/// The synced parts of the files of the folder. Its synced names are links in another folder.
#[derive(Debug, Default)]
struct SyncedFiles {
    /// The synced length of each file, by its number.
    lengths: BTreeMap<u64, u64>,
    /// Ranges whose sync failed: as on Linux, later syncs succeed without them.
    lost: BTreeMap<u64, Vec<Range<u64>>>,
    /// The time until which syncs fail.
    fails_until: Option<Instant>,
    /// The time of the first failed sync after which not all files were written again.
    unsynced_since: Option<Instant>,
}

impl SyncedFiles {
    fn sync(&mut self, file: u64, length: u64, fails: bool) -> io::Result<()> {
        let before = self.lengths.insert(file, length).unwrap_or(0);
        if fails && before < length {
            self.lost.entry(file).or_default().push(before..length);
        }
        self.result(fails)
    }

    fn result(&mut self, fails: bool) -> io::Result<()> {
        if fails {
            self.unsynced_since.get_or_insert_with(Instant::now);
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        Ok(())
    }

    fn fails(&self) -> bool {
        self.fails_until.is_some_and(|until| Instant::now() < until)
    }
}

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
            let mut state = synced.lock().unwrap_or_else(PoisonError::into_inner);
            if about.is_file() {
                let fails = state.fails();
                return state.sync(about.ino(), about.len(), fails);
            }
            let fails = state.fails();
            state.result(fails)?;
            if fs::metadata(&folder)?.ino() == about.ino() {
                copy_names(&folder, &names)?;
                let is_lost =
                    |name: &String| number(&folder.join(name)).is_some_and(|file| state.lost.contains_key(&file));
                if !list(&folder).iter().any(is_lost) {
                    state.unsynced_since = None;
                }
            }
            Ok(())
        }
    }

    /// Makes syncs fail until then.
    pub(super) fn fail_syncs_until(&self, until: Instant) {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner).fails_until = Some(until);
    }

    /// The time of the first failed sync after which not all files were written again.
    pub(super) fn unsynced_since(&self) -> Option<Instant> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner).unsynced_since
    }

    /// Ends the process that uses the disk: everything written is there, in a new folder, and what
    /// was not synced can still be lost by a power cut.
    pub(super) fn kill_process(&mut self) {
        let names = self.next_generation(|from, into, synced, lost| {
            fs::copy(from, into)?;
            Ok((synced, lost.to_vec()))
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
        self.next_generation(|from, into, synced, lost| {
            fs::copy(from, into)?;
            let file = File::options().write(true).open(into)?;
            let length = file.metadata()?.len();
            let kept = rng.u64(synced.min(length)..=length);
            file.set_len(kept)?;
            for range in lost.iter().filter(|range| range.end <= kept) {
                if rng.u8(..) < 200 {
                    file.write_all_at(&vec![0; (range.end - range.start) as usize], range.start)?;
                }
            }
            // a page that is not wholly synced may be missing
            for page in synced / PAGE..kept.div_ceil(PAGE) {
                let (begin, end) = ((page * PAGE).max(synced), ((page + 1) * PAGE).min(kept));
                if rng.u8(..) < 64 && begin < end {
                    file.write_all_at(&vec![0; (end - begin) as usize], begin)?;
                }
            }
            Ok((kept, Vec::new()))
        });
        copy_names(&self.path(), &self.names()).unwrap();
    }

    /// Begins a new folder with what `copy` copies, given the synced length of each file and its
    /// lost ranges; it returns both for the copy. Returns the folder of the synced names until now.
    fn next_generation(
        &mut self,
        mut copy: impl FnMut(&Path, &Path, u64, &[Range<u64>]) -> io::Result<(u64, Vec<Range<u64>>)>,
    ) -> PathBuf {
        let (folder, old_names) = (self.path(), self.names());
        self.generation += 1;
        fs::create_dir(self.path()).unwrap();
        fs::create_dir(self.names()).unwrap();
        let before = std::mem::take(&mut *self.synced.lock().unwrap_or_else(PoisonError::into_inner));
        let mut files = SyncedFiles::default();
        for name in list(&folder) {
            let (from, into) = (folder.join(&name), self.path().join(&name));
            let about = fs::metadata(&from).unwrap();
            let synced = before.lengths.get(&about.ino()).map_or(0, |synced| (*synced).min(about.len()));
            let lost = before.lost.get(&about.ino()).map_or(&[][..], Vec::as_slice);
            let (synced, lost) = copy(&from, &into, synced, lost).unwrap();
            let number = fs::metadata(&into).unwrap().ino();
            files.lengths.insert(number, synced);
            if !lost.is_empty() {
                files.lost.insert(number, lost);
                files.unsynced_since = before.unsynced_since;
            }
        }
        self.synced = Arc::new(Mutex::new(files));
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
