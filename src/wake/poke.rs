//! A poke: connecting to a socket and closing the connection.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::unit_name::UnitName;
use crate::io_error::describe;
use crate::net::probe_socket;

/// Connects and closes without waiting: a full queue has a poke already. A symbolic link is
/// refused, so that one created at the last moment leads nowhere.
pub fn poke(path: &Path) -> io::Result<()> {
    let itself = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let kind = SFlag::from_bits_truncate(fstat(&itself)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFSOCK {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket any more: not poked"));
    }
    let itself = PathBuf::from(format!("/proc/self/fd/{}", itself.as_raw_fd()));
    match probe_socket(&itself) {
        Err(Errno::EAGAIN) => Ok(()),
        // a datagram socket: an empty datagram wakes its service
        Err(Errno::EPROTOTYPE) => {
            let datagram = UnixDatagram::unbound()?;
            datagram.set_nonblocking(true)?;
            match datagram.send_to(b"", &itself) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
                sent => sent.map(drop),
            }
        }
        connected => Ok(connected?),
    }
}

/// Returns the remedy for a failed poke of a socket of this unit.
pub fn remedy(unit: Option<&UnitName>, error: &io::Error) -> String {
    match (error.kind(), unit) {
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, Some(unit)) => {
            let unit = unit.socket();
            format!("nobody listens on it: systemctl reset-failed {unit}; systemctl start {unit} makes it listen again")
        }
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, None) => {
            "nobody listens on it: restart the program that created it".to_owned()
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "permission denied: run this program as root, or as a member of the socket's group".to_owned()
        }
        _ => describe(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn stream_and_datagram_sockets_are_poked_and_missing_listeners_reported() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let stream = UnixListener::bind(at("stream")).unwrap();
        let datagram = UnixDatagram::bind(at("datagram")).unwrap();
        poke(&at("stream")).unwrap();
        stream.accept().unwrap();
        poke(&at("datagram")).unwrap();
        datagram.recv(&mut [0; 8]).unwrap();
        // nothing accepts these connections: a full queue must not block
        for _ in 0..10_000 {
            poke(&at("stream")).unwrap();
        }
        drop(stream);
        let error = poke(&at("stream")).unwrap_err();
        let unit = UnitName::of(&at("stream.sock"));
        assert!(
            remedy(Some(&unit), &error)
                .contains("systemctl reset-failed mqueue-consumer@stream.socket; systemctl start ")
        );
        assert!(!remedy(None, &error).contains("systemctl"));
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let outside = UnixListener::bind(at("outside")).unwrap();
        outside.set_nonblocking(true).unwrap();
        std::os::unix::fs::symlink(at("outside"), at("link.sock")).unwrap();
        let error = poke(&at("link.sock")).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert!(outside.accept().is_err(), "nobody came");
    }
}
