//! Paths of the sockets of sleeping consumers: the same flags in `wakeup`, which pokes them, and `doctor`.

use std::path::PathBuf;

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
