//! The flags for the activation sockets of sleeping consumers: the same for `wakeup`, which pokes them, and `doctor`.

use std::path::PathBuf;

/// The sockets.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// A folder whose sockets are all of sleeping consumers; repeatable, the first one that has a group's socket counts
    ///
    /// A client of nsqd can give a group any name, and so have any socket of the folder poked: never name one with other
    /// programs' sockets, such as /run or /tmp.
    #[arg(long, env = "SOCKET_DIR", value_name = "PATH", value_delimiter = ',', default_values = ["/run/mqueue"])]
    pub socket_dir: Vec<PathBuf>,

    /// One more socket, wherever it is, for the group of its name; repeatable [default: none]
    #[arg(long, env = "SOCKET", value_name = "PATH", value_delimiter = ',')]
    pub socket: Vec<PathBuf>,
}
