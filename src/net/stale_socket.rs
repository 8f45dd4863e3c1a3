//! Removal of socket files without a listener.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;

use crate::net::probe_socket;

/// Removes the socket at `path`, stream or datagram, if its listener was killed. Leaves sockets
/// with a listener and other files alone.
pub fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && has_no_listener(path) { std::fs::remove_file(path) } else { Ok(()) }
}

fn has_no_listener(path: &Path) -> bool {
    match probe_socket(path) {
        Err(Errno::EPROTOTYPE) => {
            let tried = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
            tried.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        }
        // a full queue (EAGAIN) has a listener
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
        let listeners = (UnixListener::bind(&stream).unwrap(), UnixDatagram::bind(&datagram).unwrap());
        std::fs::write(&file, "").unwrap();
        let paths = [stream, datagram, file, folder.path().join("nothing")];
        let exist_after_removal = || {
            paths.iter().for_each(|path| remove_stale_socket(path).unwrap());
            paths.each_ref().map(|path| path.exists())
        };
        assert_eq!(exist_after_removal(), [true, true, true, false]);
        drop(listeners);
        assert_eq!(exist_after_removal(), [false, false, true, false]);
    }
}
