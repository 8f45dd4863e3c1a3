//! Reads the folders of sockets, and the listeners from /proc: a test connection would wake a
//! consumer.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::commands::common::socket_args::Args;
use crate::commands::doctor::observed::{EntryKind, FolderEntry, FolderError, ListenerState, SocketFolder};
use mqueue::io_error::describe;
use mqueue::proto::ChannelName;

/// Reads the folders, and each given socket as a folder of its own. One place with sockets is
/// enough: other folders may be missing. A socket that is named has to be there.
pub(super) fn read(sockets: &Args) -> Vec<SocketFolder> {
    let listening = ListeningSockets::all_processes(Path::new("/proc"));
    let named = sockets.socket.iter().filter_map(|path| {
        let entries = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FolderError::NoSocket),
            _ => Ok(vec![entry(path.clone(), &listening)?]),
        };
        Some(SocketFolder { path: path.clone(), entries })
    });
    let folder = |path: &PathBuf| SocketFolder { path: path.clone(), entries: entries(path, &listening) };
    let mut all: Vec<SocketFolder> = named.chain(sockets.socket_dir.iter().map(folder)).collect();
    if all.iter().any(|folder| folder.entries.iter().flatten().any(FolderEntry::is_socket)) {
        all.retain(|folder| !matches!(folder.entries, Err(FolderError::Missing)));
    }
    all
}

fn entries(folder: &Path, listening: &ListeningSockets) -> Result<Vec<FolderEntry>, FolderError> {
    let unreadable = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => FolderError::Missing,
        io::ErrorKind::PermissionDenied => FolderError::Refused,
        _ => FolderError::Other(describe(&e)),
    };
    let found = std::fs::read_dir(folder).map_err(unreadable)?.filter_map(Result::ok);
    let mut entries: Vec<FolderEntry> = found.filter_map(|found| entry(found.path(), listening)).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Reads a file; `None` if it is gone, or if its name is not valid for a group.
fn entry(path: PathBuf, listening: &ListeningSockets) -> Option<FolderEntry> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".sock").unwrap_or(name).to_owned();
    let group = stem.split_once('@').map_or(stem.as_str(), |(group, _)| group);
    ChannelName::new(group).ok()?;
    let about = path.symlink_metadata().ok()?;
    let kind = match about.file_type() {
        kind if kind.is_socket() => EntryKind::Socket(listening.listener_of(&path)),
        kind if kind.is_symlink() => EntryKind::Link,
        _ => EntryKind::Other,
    };
    let may_poke = access(&path, AccessFlags::W_OK).is_ok();
    Some(FolderEntry { stem, kind, mode: about.mode() & 0o7777, uid: about.uid(), gid: about.gid(), may_poke, path })
}

/// The sockets in the file system that have a listener.
#[derive(Debug, Default)]
struct ListeningSockets {
    paths: HashSet<PathBuf>,
    /// File names of sockets bound by a relative path: their folder is unknown.
    relative: HashSet<OsString>,
    /// True if no process is hidden that could have a listener.
    is_complete: bool,
}

impl ListeningSockets {
    /// Reads `net/unix` of every process, once per distinguishable network namespace: the file
    /// shows one namespace, and a socket in the file system is reachable from all.
    fn all_processes(proc: &Path) -> Self {
        let mut all = Self { is_complete: sees_every_process(proc), ..Self::default() };
        let mut spaces = HashSet::new();
        let processes = proc.read_dir().into_iter().flatten().filter_map(|process| process.ok().map(|p| p.path()));
        let is_number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).is_some();
        for process in std::iter::once(proc.join("self")).chain(processes.filter(|path| is_number(path))) {
            let space = std::fs::read_link(process.join("ns/net"));
            if space.is_ok_and(|space| !spaces.insert(space)) {
                continue;
            }
            match std::fs::read_to_string(process.join("net/unix")) {
                Ok(text) => all.add(&text),
                Err(_) => all.is_complete &= has_ended(&process),
            }
        }
        all
    }

    /// Adds a `/proc/PID/net/unix`: address, references, protocol, flags, type, state, inode, path.
    fn add(&mut self, text: &str) {
        let path = |line: &str| {
            let mut words = line.splitn(7, ' ');
            let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
            let kind = words.next()?;
            // the inode is padded with blanks, and the path may contain some
            let (_, path) = words.nth(1)?.trim_start().split_once(' ')?;
            let is_in_files = !path.starts_with('@');
            let accepts = flags & SO_ACCEPTCON != 0;
            (is_in_files && (accepts || kind == DATAGRAM)).then(|| PathBuf::from(path))
        };
        let (absolute, relative): (Vec<_>, Vec<_>) =
            text.lines().skip(1).filter_map(path).partition(|path| path.is_absolute());
        self.paths.extend(absolute.iter().map(|path| resolve_links(path)));
        self.relative.extend(relative.iter().filter_map(|path| path.file_name()).map(ToOwned::to_owned));
    }

    fn listener_of(&self, path: &Path) -> ListenerState {
        if self.paths.contains(&resolve_links(path)) {
            ListenerState::Some
        } else if !self.is_complete || path.file_name().is_some_and(|name| self.relative.contains(name)) {
            ListenerState::Unknown
        } else {
            ListenerState::None
        }
    }
}

/// Returns true for a process that has ended or is a zombie: it has no sockets any more.
fn has_ended(process: &Path) -> bool {
    let Ok(stat) = std::fs::read_to_string(process.join("stat")) else { return true };
    // the name before it may contain any character
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Returns true if no process is hidden: the PID namespace is the initial one, or has its own
/// systemd, which owns all its sockets.
fn sees_every_process(proc: &Path) -> bool {
    let space = std::fs::read_link(proc.join("self/ns/pid"));
    // hidden by the mount option hidepid=
    let first = std::fs::read_to_string(proc.join("1/comm"));
    first.is_ok_and(|name| {
        name.trim_end() == "systemd" || space.is_ok_and(|space| space == Path::new(INITIAL_PID_NAMESPACE))
    })
}

/// The initial PID namespace: `PROC_PID_INIT_INO` of linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// `__SO_ACCEPTCON` of linux/net.h: the socket is listening.
const SO_ACCEPTCON: u32 = 1 << 16;
/// `SOCK_DGRAM`: a bound socket receives.
const DATAGRAM: &str = "0002";

/// Resolves symbolic links in the folder: a socket bound in /var/run is in /run.
fn resolve_links(path: &Path) -> PathBuf {
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
    fn named_sockets_are_probed_alone_and_folders_may_be_missing_then() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let _ears = ["a.sock", "b.sock"].map(|name| UnixListener::bind(at(name)).unwrap());
        let socket = vec![at("a.sock"), at("none.sock")];
        let seen = read(&Args { socket_dir: vec!["/nowhere/at/all".into()], socket });
        let paths: Vec<_> = seen.iter().flat_map(|f| f.entries.iter().flatten()).map(|e| e.path.clone()).collect();
        assert_eq!(paths, [at("a.sock")]);
        let missing: Vec<_> = seen.iter().filter_map(|f| Some((&f.path, f.entries.as_ref().err()?))).collect();
        assert_eq!(missing, [(&at("none.sock"), &FolderError::NoSocket)], "the folder is not missed");
    }

    #[test]
    fn listeners_are_detected_without_connecting() {
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
            ("datagram@2", EntryKind::Socket(ListenerState::Some)),
            ("dead", EntryKind::Socket(nobody())),
            ("link", EntryKind::Link),
            ("plain", EntryKind::Other),
            ("stream", EntryKind::Socket(ListenerState::Some)),
        ];
        assert_eq!(kinds, expected);
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "it was not poked");
    }

    #[test]
    fn listeners_with_a_relative_path_leave_sockets_of_that_name_unknown() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff8881: 00000002 00000000 00010000 0001 01    12 run/a.sock\n\
            ffff8882: 00000002 00000000 00010000 0001 01 40123 @/nowhere/b.sock\n\
            ffff8883: 00000002 00000000 00010000 0001 01 40124 /nowhere/c d.sock\n\
            ffff8884: 00000003 00000000 00000000 0001 03 40125\n";
        let mut listening = ListeningSockets { is_complete: true, ..ListeningSockets::default() };
        listening.add(text);
        let listeners =
            ["a", "b", "c d"].map(|name| listening.listener_of(Path::new(&format!("/nowhere/{name}.sock"))));
        assert_eq!(listeners, [ListenerState::Unknown, ListenerState::None, ListenerState::Some]);
    }

    /// Returns the state of a socket without a listener: unknown where processes are hidden.
    fn nobody() -> ListenerState {
        if sees_every_process(Path::new("/proc")) { ListenerState::None } else { ListenerState::Unknown }
    }

    #[test]
    fn listeners_in_other_network_namespaces_count_and_hidden_processes_leave_it_unknown() {
        let proc = tempfile::tempdir().unwrap();
        let at = |name: &str| proc.path().join(name);
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        for (pid, space, listens) in [("self", "net:[1]", "here"), ("1", "net:[1]", "here"), ("7", "net:[2]", "there")]
        {
            let text = format!("{head}ffff8881: 00000002 00000000 00010000 0001 01    12 /nowhere/{listens}.sock\n");
            std::fs::create_dir_all(at(&format!("{pid}/ns"))).unwrap();
            std::fs::create_dir_all(at(&format!("{pid}/net"))).unwrap();
            std::fs::write(at(&format!("{pid}/net/unix")), text).unwrap();
            std::fs::write(at(&format!("{pid}/stat")), "").unwrap();
            std::os::unix::fs::symlink(space, at(&format!("{pid}/ns/net"))).unwrap();
        }
        std::os::unix::fs::symlink(INITIAL_PID_NAMESPACE, at("self/ns/pid")).unwrap();
        std::fs::write(at("1/comm"), "init\n").unwrap();
        let listeners = || {
            let listening = ListeningSockets::all_processes(proc.path());
            ["here", "there", "none"].map(|name| listening.listener_of(Path::new(&format!("/nowhere/{name}.sock"))))
        };
        assert_eq!(listeners(), [ListenerState::Some, ListenerState::Some, ListenerState::None]);
        std::fs::remove_file(at("7/net/unix")).unwrap();
        assert_eq!(listeners(), [ListenerState::Some, ListenerState::Unknown, ListenerState::Unknown]);
        std::fs::write(at("7/stat"), "7 (a) Z) Z 1 7").unwrap();
        assert_eq!(listeners(), [ListenerState::Some, ListenerState::None, ListenerState::None], "a zombie");
        std::fs::remove_file(at("7/stat")).unwrap();
        assert_eq!(listeners(), [ListenerState::Some, ListenerState::None, ListenerState::None], "it has ended");
        std::fs::remove_file(at("1/comm")).unwrap();
        assert_eq!(
            listeners(),
            [ListenerState::Some, ListenerState::Unknown, ListenerState::Unknown],
            "the first process is hidden"
        );
    }

    #[test]
    fn accepted_connections_are_not_listeners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        let seen = read(&in_folder(folder.path()));
        assert_eq!(seen[0].entries.as_ref().unwrap()[0].kind, EntryKind::Socket(nobody()));
    }

    #[test]
    fn missing_folders_are_recognized() {
        let seen = read(&in_folder(Path::new("/nowhere/at/all")));
        assert_eq!(seen[0].entries.as_ref().unwrap_err(), &FolderError::Missing);
    }
}
