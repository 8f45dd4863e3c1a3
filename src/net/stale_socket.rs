//! Socket files that nobody listens on any more.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;

use crate::net::knock;

/// Removes the socket at `path`, stream or datagram, if who listened on it was killed. Leaves alone what somebody listens on, and what
/// is no socket.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && nobody_listens(path) { std::fs::remove_file(path) } else { Ok(()) }
}

fn nobody_listens(path: &Path) -> bool {
    match knock(path) {
        Err(Errno::EPROTOTYPE) => {
            let tried = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
            tried.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        }
        // a full queue (EAGAIN) is somebody's
        tried => tried == Err(Errno::ECONNREFUSED),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_socket_without_a_listener_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [stream, datagram, file] = ["stream", "datagram", "file"].map(|name| folder.path().join(name));
        let ears = (UnixListener::bind(&stream).unwrap(), UnixDatagram::bind(&datagram).unwrap());
        std::fs::write(&file, "").unwrap();
        let paths = [stream, datagram, file, folder.path().join("nothing")];
        let there = || {
            paths.iter().for_each(|path| remove_stale(path).unwrap());
            paths.each_ref().map(|path| path.exists())
        };
        assert_eq!(there(), [true, true, true, false]);
        drop(ears);
        assert_eq!(there(), [false, false, true, false]);
    }
}
