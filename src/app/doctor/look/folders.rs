//! Reads the folders of sockets, and from the kernel who listens: a connection would tell as well, but it would wake a consumer.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::app::doctor::observed::{Ears, Entry, Folder, Kind, Unreadable};
use crate::cli::sockets::Args;
use crate::proto::ChannelName;

/// The folders, and each socket that was named as a folder of its own. One place with sockets is enough: others may be missing.
pub(super) fn read(sockets: &Args) -> Vec<Folder> {
    let listening = std::fs::read_to_string("/proc/net/unix").ok().map(|text| Listening::parse(&text));
    let named = sockets.socket.iter().filter_map(|path| {
        let entry = entry(path.clone(), listening.as_ref())?;
        Some(Folder { path: path.clone(), entries: Ok(vec![entry]) })
    });
    let folder = |path: &PathBuf| Folder { path: path.clone(), entries: entries(path, listening.as_ref()) };
    let mut all: Vec<Folder> = named.chain(sockets.socket_dir.iter().map(folder)).collect();
    if all.iter().any(|folder| folder.entries.iter().flatten().any(Entry::is_socket)) {
        all.retain(|folder| !matches!(folder.entries, Err(Unreadable::Missing)));
    }
    all
}

fn entries(folder: &Path, listening: Option<&Listening>) -> Result<Vec<Entry>, Unreadable> {
    let unreadable = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Unreadable::Missing,
        io::ErrorKind::PermissionDenied => Unreadable::Refused,
        _ => Unreadable::Other(e.to_string()),
    };
    let found = std::fs::read_dir(folder).map_err(unreadable)?.filter_map(Result::ok);
    let mut entries: Vec<Entry> = found.filter_map(|found| entry(found.path(), listening)).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// `None` if it has gone, or has a name that no group can have.
fn entry(path: PathBuf, listening: Option<&Listening>) -> Option<Entry> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".sock").unwrap_or(name).to_owned();
    let group = stem.split_once('@').map_or(stem.as_str(), |(group, _)| group);
    ChannelName::new(group).ok()?;
    let about = path.symlink_metadata().ok()?;
    let kind = match about.file_type() {
        kind if kind.is_socket() => Kind::Socket(match listening {
            None => Ears::Unknown,
            Some(listening) => listening.ears_of(&path),
        }),
        kind if kind.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    let mine = access(&path, AccessFlags::W_OK).is_ok();
    Some(Entry { stem, kind, mode: about.mode() & 0o7777, uid: about.uid(), gid: about.gid(), mine, path })
}

/// The sockets in the file system that somebody waits on.
#[derive(Debug)]
struct Listening {
    paths: HashSet<PathBuf>,
    /// File names of those that were bound by a relative path: their folder is not known.
    relative: HashSet<OsString>,
}

impl Listening {
    /// Reads `/proc/net/unix`: address, references, protocol, flags, type, state, inode, path.
    fn parse(text: &str) -> Self {
        let path = |line: &str| {
            let mut words = line.splitn(7, ' ');
            let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
            let kind = words.next()?;
            // the inode is aligned by blanks, and the path may have some
            let (_, path) = words.nth(1)?.trim_start().split_once(' ')?;
            let is_in_files = !path.starts_with('@');
            let accepts = flags & SO_ACCEPTCON != 0;
            (is_in_files && (accepts || kind == DATAGRAM)).then(|| PathBuf::from(path))
        };
        let (absolute, relative): (Vec<_>, Vec<_>) =
            text.lines().skip(1).filter_map(path).partition(|path| path.is_absolute());
        Self {
            paths: absolute.iter().map(|path| real(path)).collect(),
            relative: relative.iter().filter_map(|path| path.file_name()).map(ToOwned::to_owned).collect(),
        }
    }

    fn ears_of(&self, path: &Path) -> Ears {
        if self.paths.contains(&real(path)) {
            Ears::Some
        } else if path.file_name().is_some_and(|name| self.relative.contains(name)) {
            Ears::Unknown
        } else {
            Ears::None
        }
    }
}

/// `__SO_ACCEPTCON` of linux/net.h: somebody has called listen.
const SO_ACCEPTCON: u32 = 1 << 16;
/// `SOCK_DGRAM`: bound is enough.
const DATAGRAM: &str = "0002";

/// The path without links on its way: a socket bound in /var/run is in /run.
fn real(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.zip(path.file_name()).map_or_else(|| path.to_owned(), |(folder, name)| folder.join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn in_folder(folder: &Path) -> Args {
        Args { socket_dir: vec![folder.to_owned()], socket: Vec::new() }
    }

    #[test]
    fn a_named_socket_is_looked_at_alone_and_folders_may_be_missing_then() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let _ears = ["a.sock", "b.sock"].map(|name| UnixListener::bind(at(name)).unwrap());
        let socket = vec![at("a.sock"), at("none.sock")];
        let seen = read(&Args { socket_dir: vec!["/nowhere/at/all".into()], socket });
        let paths: Vec<_> = seen.iter().flat_map(|f| f.entries.iter().flatten()).map(|e| e.path.clone()).collect();
        assert_eq!((seen.len(), paths), (1, vec![at("a.sock")]));
    }

    #[test]
    fn listeners_are_told_from_sockets_that_nobody_waits_on_without_a_connection() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let stream = UnixListener::bind(at("stream.sock")).unwrap();
        let _datagram = UnixDatagram::bind(at("datagram@2.sock")).unwrap();
        drop(UnixListener::bind(at("dead.sock")).unwrap());
        std::fs::write(at("plain.sock"), "").unwrap();
        std::os::unix::fs::symlink(at("stream.sock"), at("link.sock")).unwrap();
        std::fs::write(at("no group's name.sock"), "").unwrap();
        let seen = read(&in_folder(folder.path()));
        let kinds: Vec<_> = seen[0].entries.as_ref().unwrap().iter().map(|e| (e.stem.as_str(), e.kind)).collect();
        let expected = [
            ("datagram@2", Kind::Socket(Ears::Some)),
            ("dead", Kind::Socket(Ears::None)),
            ("link", Kind::Link),
            ("plain", Kind::Other),
            ("stream", Kind::Socket(Ears::Some)),
        ];
        assert_eq!(kinds, expected);
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "it was not poked");
    }

    #[test]
    fn a_listener_bound_by_a_relative_path_may_be_any_socket_of_that_name() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff8881: 00000002 00000000 00010000 0001 01    12 run/a.sock\n\
            ffff8882: 00000002 00000000 00010000 0001 01 40123 @/nowhere/b.sock\n\
            ffff8883: 00000002 00000000 00010000 0001 01 40124 /nowhere/c d.sock\n\
            ffff8884: 00000003 00000000 00000000 0001 03 40125\n";
        let listening = Listening::parse(text);
        let ears = ["a", "b", "c d"].map(|name| listening.ears_of(Path::new(&format!("/nowhere/{name}.sock"))));
        assert_eq!(ears, [Ears::Unknown, Ears::None, Ears::Some]);
    }

    #[test]
    fn an_accepted_connection_is_no_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        let seen = read(&in_folder(folder.path()));
        assert_eq!(seen[0].entries.as_ref().unwrap()[0].kind, Kind::Socket(Ears::None));
    }

    #[test]
    fn a_missing_folder_is_told_as_that() {
        let seen = read(&in_folder(Path::new("/nowhere/at/all")));
        assert_eq!(seen[0].entries.as_ref().unwrap_err(), &Unreadable::Missing);
    }
}
