//! Names of files and folders, as a program sees them and as they are on the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};

/// Number of a file or folder.
pub(super) type Inode = u64;

/// The folder that is mounted.
pub(super) const ROOT: Inode = 1;

/// Folders and their entries.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    folders: HashMap<Inode, BTreeMap<OsString, Inode>>,
}

/// A change of a folder's entries.
#[derive(Debug, Clone)]
pub(super) enum EntryChange {
    Add { folder: Inode, name: OsString, inode: Inode, is_folder: bool },
    Remove { folder: Inode, name: OsString },
    Rename { from: Inode, name: OsString, to: Inode, new_name: OsString, inode: Inode },
}

impl EntryChange {
    /// Returns true if the change is about an entry of this folder.
    pub(super) fn is_in(&self, folder: Inode) -> bool {
        match self {
            Self::Add { folder: of, .. } | Self::Remove { folder: of, .. } => *of == folder,
            Self::Rename { from, to, .. } => *from == folder || *to == folder,
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { folders: HashMap::from([(ROOT, BTreeMap::new())]) }
    }
}

impl Tree {
    pub(super) fn get(&self, folder: Inode, name: &OsStr) -> Option<Inode> {
        self.folders.get(&folder)?.get(name).copied()
    }

    pub(super) fn entries(&self, folder: Inode) -> Option<&BTreeMap<OsString, Inode>> {
        self.folders.get(&folder)
    }

    /// The number of names of a file.
    pub(super) fn links(&self, inode: Inode) -> u32 {
        let names = self.folders.values().flat_map(BTreeMap::values).filter(|named| **named == inode);
        u32::try_from(names.count()).unwrap_or(u32::MAX)
    }

    /// Applies a change. A change of what is not there has no effect.
    pub(super) fn apply(&mut self, change: &EntryChange) {
        match change {
            EntryChange::Add { folder, name, inode, is_folder } => {
                if *is_folder {
                    self.folders.entry(*inode).or_default();
                }
                self.folders.entry(*folder).or_default().insert(name.clone(), *inode);
            }
            EntryChange::Remove { folder, name } => {
                self.folders.entry(*folder).or_default().remove(name);
            }
            EntryChange::Rename { from, name, to, new_name, inode } => {
                if self.get(*from, name) == Some(*inode) {
                    self.folders.entry(*from).or_default().remove(name);
                }
                self.folders.entry(*to).or_default().insert(new_name.clone(), *inode);
            }
        }
    }

    /// All files and folders that can be reached from the root.
    pub(super) fn reachable(&self) -> HashSet<Inode> {
        let (mut reached, mut open) = (HashSet::from([ROOT]), vec![ROOT]);
        while let Some(folder) = open.pop() {
            for inode in self.folders.get(&folder).into_iter().flat_map(BTreeMap::values) {
                if reached.insert(*inode) {
                    open.push(*inode);
                }
            }
        }
        reached
    }

    /// Removes what cannot be reached, and gives everything else a new number.
    pub(super) fn renumbered(&self, new: &HashMap<Inode, Inode>) -> Self {
        let folders = self.folders.iter().filter_map(|(inode, entries)| {
            let entries = entries.iter().filter_map(|(name, inode)| Some((name.clone(), *new.get(inode)?)));
            Some((*new.get(inode)?, entries.collect()))
        });
        Self { folders: folders.collect() }
    }
}
