//! Paths of the sockets of sleeping consumers: the same flags in `wakeup`, which pokes them, and
//! `doctor`.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The sockets of sleeping consumers.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Folder in which every socket belongs to a sleeping consumer; repeatable, the first that has
    /// a group's socket counts
    ///
    /// A client of nsqd can give a group any name, and so have any socket of the folder poked:
    /// never name a folder with sockets of other programs, such as /run or /tmp.
    #[arg(long, env = "MQUEUE_SOCKET_DIR", value_name = "PATH", value_delimiter = ',', default_values = ["/run/mqueue"])]
    pub socket_dir: Vec<PathBuf>,

    /// Path of one more socket, for the group of its name; repeatable [default: none]
    #[arg(long, env = "MQUEUE_SOCKET", value_name = "PATH", value_delimiter = ',')]
    pub socket: Vec<PathBuf>,
}

impl Args {
    /// Returns the names of the groups that have a socket here. Folders that cannot be read are
    /// skipped.
    pub(crate) fn groups(&self) -> BTreeSet<String> {
        let folders = self.socket_dir.iter().filter_map(|folder| folder.read_dir().ok());
        let entries = folders.flatten().filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let sockets = entries.chain(self.socket.iter().cloned()).filter(|path| is_socket(path));
        let name = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            Some(group_of(name.strip_suffix(".sock").unwrap_or(name)).to_owned())
        };
        sockets.filter_map(name).collect()
    }
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
