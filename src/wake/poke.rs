//! Poking a socket: connecting to it, and letting go.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::unit::Unit;
use crate::net::knock;

/// Connects and lets go, without ever waiting: a queue that is full has a poke already. What is not the socket itself is refused, so
/// that a link put there in the last moment leads nowhere.
pub fn poke(path: &Path) -> io::Result<()> {
    let itself = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let kind = SFlag::from_bits_truncate(fstat(&itself)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFSOCK {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket any more: it is left alone"));
    }
    let itself = PathBuf::from(format!("/proc/self/fd/{}", itself.as_raw_fd()));
    match knock(&itself) {
        Err(Errno::EAGAIN) => Ok(()),
        // it takes datagrams: an empty one will do
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

/// The remedy for a poke that failed, of a socket of this unit.
pub fn remedy(unit: Option<&Unit>, error: &io::Error) -> String {
    match (error.kind(), unit) {
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, Some(unit)) => {
            let unit = unit.socket();
            format!("nobody listens on it: systemctl reset-failed {unit}; systemctl start {unit} has it listen again")
        }
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, None) => {
            "nobody listens on it: start again what made it".to_owned()
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "permission denied: run wakeup as root, or as a member of the socket's group".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn pokes_streams_and_datagrams_and_says_who_does_not_listen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let stream = UnixListener::bind(at("stream")).unwrap();
        let datagram = UnixDatagram::bind(at("datagram")).unwrap();
        poke(&at("stream")).unwrap();
        stream.accept().unwrap();
        poke(&at("datagram")).unwrap();
        datagram.recv(&mut [0; 8]).unwrap();
        // nobody takes these: a full queue makes nobody wait
        for _ in 0..10_000 {
            poke(&at("stream")).unwrap();
        }
        drop(stream);
        let error = poke(&at("stream")).unwrap_err();
        let unit = Unit::of(&at("stream.sock"));
        assert!(
            remedy(Some(&unit), &error)
                .contains("systemctl reset-failed mqueue-consumer@stream.socket; systemctl start ")
        );
        assert!(!remedy(None, &error).contains("systemctl"));
    }

    #[test]
    fn a_link_to_a_socket_is_not_followed() {
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
