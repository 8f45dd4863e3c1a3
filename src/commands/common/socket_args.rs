//! Paths of the sockets of sleeping consumers: the same flags in `wakeup`, which pokes them, and
//! `doctor`.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The folder of the systemd units.
const SOCKET_DIR: &str = "/run/mqueue";

/// The sockets of sleeping consumers.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Folder in which every socket belongs to a sleeping consumer; repeatable, the first that has
    /// a group's socket counts
    ///
    /// A client of nsqd can give a group any name, and so have any socket of the folder poked:
    /// never name a folder with sockets of other programs, such as /run or /tmp.
    #[arg(long, env = "MQUEUE_SOCKET_DIR", value_name = "PATH", value_delimiter = ',', default_values = [SOCKET_DIR])]
    pub socket_dir: Vec<PathBuf>,

    /// Path of one more socket, for the group of its name; repeatable [default: none]
    #[arg(long, env = "MQUEUE_SOCKET", value_name = "PATH", value_delimiter = ',')]
    pub socket: Vec<PathBuf>,
}

impl Default for Args {
    /// The folder of the systemd units.
    fn default() -> Self {
        Self { socket_dir: vec![PathBuf::from(SOCKET_DIR)], socket: Vec::new() }
    }
}

impl Args {
    /// Returns the names of the groups that have a socket here. Folders that cannot be read are
    /// skipped.
    pub(crate) fn groups(&self) -> BTreeSet<String> {
        self.sockets().filter_map(|path| Some(group_of(stem(&path)?).to_owned())).collect()
    }

    /// Returns the sockets of a group: of the first place that has any.
    pub(crate) fn of_group(&self, group: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            self.sockets().filter(|path| stem(path).is_some_and(|name| group_of(name) == group)).collect();
        let place = found.first().and_then(|path| path.parent()).map(Path::to_owned);
        found.retain(|path| path.parent() == place.as_deref());
        found
    }

    fn sockets(&self) -> impl Iterator<Item = PathBuf> {
        let folders = self.socket_dir.iter().filter_map(|folder| folder.read_dir().ok());
        let entries = folders.flatten().filter_map(|entry| entry.ok().map(|entry| entry.path()));
        self.socket.iter().cloned().chain(entries).filter(|path| is_socket(path))
    }
}

/// Returns the name of a socket's file without `.sock`.
fn stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    Some(name.strip_suffix(".sock").unwrap_or(name))
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|about| about.file_type().is_socket())
}

/// Returns the group of a socket or unit instance: `billing@2` is for billing.
pub(crate) fn group_of(name: &str) -> &str {
    match name.rsplit_once('@') {
        Some((group, number)) if number.parse::<u64>().is_ok() => group,
        _ => name,
    }
}
