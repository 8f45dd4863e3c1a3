//! The sockets of sleeping consumers: found in folders, and poked.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Finds sockets, and says what is wrong with one, once.
#[derive(Debug)]
pub(super) struct Sockets {
    folders: Vec<PathBuf>,
    complaints: HashSet<String>,
}

impl Sockets {
    pub(super) fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, complaints: HashSet::new() }
    }

    /// Each of these groups' sockets: `G.sock` or `G`, then `G@1.sock`, `G@2.sock` …; those of the first folder that has any.
    pub(super) fn of<'a>(&mut self, groups: impl Iterator<Item = &'a str>) -> HashMap<String, Vec<PathBuf>> {
        let wanted: HashSet<&str> = groups.collect();
        let mut found: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let mut complaints = HashSet::new();
        for folder in &self.folders {
            let mut here: HashMap<String, Vec<(u64, PathBuf)>> = HashMap::new();
            let entries = match std::fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(e) => {
                    complaints.insert(format!("cannot look for sockets in {}: {e}", folder.display()));
                    continue;
                }
            };
            for entry in entries.filter_map(Result::ok) {
                let name = entry.file_name();
                let Some((group, number)) = name.to_str().and_then(|name| group_of(name, &wanted)) else { continue };
                // of the entry itself: a link that leads elsewhere is no socket
                if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                    here.entry(group.to_owned()).or_default().push((number, entry.path()));
                } else if name.to_str().is_some_and(|name| name.ends_with(".sock")) {
                    complaints.insert(format!("{} is no socket: it wakes nobody", entry.path().display()));
                }
            }
            for (group, mut sockets) in here {
                sockets.sort();
                found.entry(group).or_insert_with(|| sockets.into_iter().map(|(_, path)| path).collect());
            }
        }
        for complaint in complaints.difference(&self.complaints) {
            tracing::warn!("{complaint}");
        }
        self.complaints = complaints;
        found
    }
}

/// The group that a file of this name wakes, and the consumer's number (0 without one).
fn group_of<'a>(file: &'a str, groups: &HashSet<&str>) -> Option<(&'a str, u64)> {
    let stem = file.strip_suffix(".sock").unwrap_or(file);
    if groups.contains(stem) {
        return Some((stem, 0));
    }
    let (group, number) = stem.rsplit_once('@')?;
    Some((group, number.parse().ok()?)).filter(|(group, _)| groups.contains(group))
}

/// Connects and lets go, without ever waiting: a queue that is full has a poke already.
pub(super) fn poke(path: &Path) -> io::Result<()> {
    let address = UnixAddr::new(path)?;
    match connect_to(SockType::Stream, &address) {
        Err(Errno::EAGAIN) => Ok(()),
        // it takes datagrams: an empty one will do
        Err(Errno::EPROTOTYPE) => {
            let datagram = UnixDatagram::unbound()?;
            datagram.set_nonblocking(true)?;
            match datagram.send_to(b"", path) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
                sent => sent.map(drop),
            }
        }
        connected => Ok(connected?),
    }
}

fn connect_to(kind: SockType, address: &UnixAddr) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let ours = socket(AddressFamily::Unix, kind, flags, None)?;
    connect(ours.as_raw_fd(), address)
}

/// What to do about a poke that failed.
pub(super) fn remedy(socket: &Path, error: &io::Error) -> String {
    let unit = socket.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!(
            "nobody listens on it: systemctl reset-failed 'mqueue-consumer@{unit}.socket' && systemctl start 'mqueue-consumer@{unit}.socket'"
        ),
        io::ErrorKind::PermissionDenied => "run wakeup as root, or as a member of the socket's group".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn finds_plain_and_numbered_sockets_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let _listening = ["mail.sock", "mail@10.sock", "mail@2.sock", "bare", "other.sock"]
            .map(|name| UnixListener::bind(at(name)).unwrap());
        std::fs::write(at("plain.sock"), "").unwrap();
        std::os::unix::fs::symlink(at("other.sock"), at("link.sock")).unwrap();
        let mut sockets = Sockets::new(vec![folder.path().join("missing"), folder.path().to_owned()]);
        let found = sockets.of(["mail", "bare", "plain", "link", "none"].into_iter());
        assert_eq!(found["mail"], ["mail.sock", "mail@2.sock", "mail@10.sock"].map(at));
        assert_eq!(found["bare"], [at("bare")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(sockets.complaints.len(), 3, "{:?}", sockets.complaints);
    }

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
        assert!(remedy(&at("stream"), &error).contains("systemctl reset-failed"));
    }
}
