//! Folders in which files may appear: the kernel tells (inotify), so nobody looks in vain.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// A watch of folders for new files.
pub(super) struct FolderWatch {
    /// `None` if the kernel refuses a watch: files are then found at the next look.
    inotify: Option<AsyncFd<PolledInotify>>,
    folders: BTreeSet<PathBuf>,
}

/// An inotify that tokio can poll.
struct PolledInotify(Inotify);

impl AsRawFd for PolledInotify {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl FolderWatch {
    /// Watches these folders; those that do not exist, when [`Self::renew`] finds them.
    pub(super) fn new(folders: &[PathBuf]) -> Self {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        #[allow(deprecated, reason = "its successor is unsafe; the descriptor is open as long as its owner")]
        let inotify = Inotify::init(flags).ok().and_then(|inotify| AsyncFd::new(PolledInotify(inotify)).ok());
        let mut watch = Self { inotify, folders: folders.iter().cloned().collect() };
        watch.renew();
        watch
    }

    /// Watches the folders that exist by now. A folder that is watched already stays so.
    pub(super) fn renew(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        for folder in &self.folders {
            let _ = inotify.get_ref().0.add_watch(folder, flags);
        }
    }

    /// Waits for a new file. Cancel-safe.
    pub(super) async fn changed(&self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
            match ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) {
                Ok(Ok(_)) => return,
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn new_files_are_told_also_in_a_folder_that_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let (here, later) = (folder.path().to_owned(), folder.path().join("later"));
        let mut watch = FolderWatch::new(&[here.clone(), later.clone()]);
        timeout(Duration::from_millis(20), watch.changed()).await.unwrap_err();
        std::fs::create_dir(&later).unwrap();
        timeout(Duration::from_secs(20), watch.changed()).await.unwrap();
        watch.renew();
        std::os::unix::net::UnixListener::bind(later.join("a.sock")).unwrap();
        timeout(Duration::from_secs(20), watch.changed()).await.unwrap();
        timeout(Duration::from_millis(20), watch.changed()).await.unwrap_err();
    }
}
