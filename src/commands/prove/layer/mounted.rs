//! The volatile disk as a mounted file system.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use fuser::{
    BackgroundSession, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::errno::Errno;
use nix::unistd::{getgid, getuid};

use super::disk::{BegunSync, VolatileDisk};
use super::tree::Inode;
use super::{CutReport, DirectoryRule, DiskTrouble, PowerCut};

/// The kernel caches no names and attributes: they change with a power cut.
const TTL: Duration = Duration::ZERO;

/// Failure to mount the disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error(
        "/dev/fuse is missing: load the module (modprobe fuse), or give the container the device (docker run --device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoDevice,
    #[error("cannot mount a file system by FUSE at {}: {source}: install fusermount3 (package fuse3), or run as root", path.display())]
    Refused { path: PathBuf, source: io::Error },
    #[error("cannot use {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
}

/// A mounted disk; unmounted when it is dropped.
#[derive(Debug)]
pub(crate) struct PowerDisk {
    path: PathBuf,
    gate: Arc<Gate>,
    session: Option<BackgroundSession>,
}

impl PowerDisk {
    /// Mounts an empty disk at `folder/disk`, with its files in `folder/blocks`.
    pub(crate) fn mount(folder: &Path, rule: DirectoryRule) -> Result<Self, MountError> {
        if !Path::new("/dev/fuse").exists() {
            return Err(MountError::NoDevice);
        }
        let [path, blocks] = ["disk", "blocks"].map(|name| folder.join(name));
        for folder in [&path, &blocks] {
            fs::create_dir(folder).map_err(|source| MountError::Folder { path: folder.clone(), source })?;
        }
        let disk = DiskState {
            disk: VolatileDisk::new(blocks, rule),
            is_frozen: false,
            opened: 0,
            longest_sync: Duration::ZERO,
        };
        let gate = Arc::new(Gate { state: Mutex::new(disk), thawed: Condvar::new() });
        let mut config = fuser::Config::default();
        let name = MountOption::FSName("mqueue-prove".to_owned());
        config.mount_options = vec![name, MountOption::NoSuid, MountOption::NoDev];
        let session = fuser::spawn_mount(MountedDisk(gate.clone()), &path, &config)
            .map_err(|source| MountError::Refused { path: path.clone(), source })?;
        Ok(Self { path, gate, session: Some(session) })
    }

    /// The mounted folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The longest time that a sync took so far.
    pub(crate) fn longest_sync(&self) -> Duration {
        self.gate.lock().longest_sync
    }

    /// Begins a trouble of the disk, or ends it.
    pub(crate) fn set_trouble(&self, trouble: Option<DiskTrouble>) {
        self.gate.lock().disk.set_trouble(trouble);
    }

    /// Stops the disk: from now on no request is answered. The power is off when the program under
    /// test is killed, and [`Self::cut`] was called.
    pub(crate) fn freeze(&self) {
        self.gate.lock().is_frozen = true;
    }

    /// Drops what was not synced, and answers waiting requests of the killed program with errors.
    pub(crate) fn cut(&self, cut: PowerCut, random: &mut Rng) -> io::Result<CutReport> {
        let mut state = self.gate.lock();
        let report = state.disk.cut(cut, random);
        state.is_frozen = false;
        self.gate.thawed.notify_all();
        report
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        self.gate.lock().is_frozen = false;
        self.gate.thawed.notify_all();
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            tracing::warn!("cannot unmount {}: {error}: use fusermount3 -u", self.path.display());
        }
    }
}

/// The disk behind a lock, and whether its power is on.
#[derive(Debug)]
struct Gate {
    state: Mutex<DiskState>,
    thawed: Condvar,
}

#[derive(Debug)]
struct DiskState {
    disk: VolatileDisk,
    is_frozen: bool,
    /// Number of files opened so far.
    opened: u64,
    longest_sync: Duration,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the disk for a request. A request that finds the power off waits for it, and fails.
    fn request(&self) -> Result<MutexGuard<'_, DiskState>, Errno> {
        let state = self.lock();
        if !state.is_frozen {
            return Ok(state);
        }
        let _state = self.thawed.wait_while(state, |state| state.is_frozen).unwrap_or_else(PoisonError::into_inner);
        Err(Errno::EIO)
    }
}

impl DiskState {
    fn attributes(&self, inode: Inode) -> Result<FileAttr, Errno> {
        let info = self.disk.info(inode)?;
        let (size, time) = (self.disk.length(inode), info.modified);
        Ok(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: kind(info.is_folder),
            perm: u16::try_from(info.mode & 0o7777).unwrap_or(0o600),
            nlink: self.disk.links(inode),
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn handle(&mut self) -> FileHandle {
        self.opened += 1;
        FileHandle(self.opened)
    }
}

fn kind(is_folder: bool) -> FileType {
    if is_folder { FileType::Directory } else { FileType::RegularFile }
}

fn error(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno as i32)
}

/// The requests of the kernel.
struct MountedDisk(Arc<Gate>);

impl MountedDisk {
    fn entry(&self, change: impl FnOnce(&mut VolatileDisk) -> Result<Inode, Errno>) -> Result<FileAttr, Errno> {
        let mut state = self.0.request()?;
        let inode = change(&mut state.disk)?;
        state.attributes(inode)
    }

    fn answer_entry(reply: ReplyEntry, entry: Result<FileAttr, Errno>) {
        match entry {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn answer_attributes(reply: ReplyAttr, attributes: Result<FileAttr, Errno>) {
        match attributes {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(error(errno)),
        }
    }

    /// Syncs in a thread of its own: the disk takes other requests meanwhile.
    fn sync(&self, inode: Inode, reply: ReplyEmpty) {
        let (begun, gate) = (Instant::now(), self.0.clone());
        let sync = self.0.request().and_then(|mut state| {
            let delay = state.disk.sync_delay();
            Ok((state.disk.begin_sync(inode)?, delay))
        });
        std::thread::spawn(move || {
            let ended = sync.and_then(|(sync, delay)| {
                std::thread::sleep(delay);
                end_sync(&gate, &sync, begun)
            });
            Self::answer(reply, ended);
        });
    }
}

fn end_sync(gate: &Gate, sync: &BegunSync, begun: Instant) -> Result<(), Errno> {
    if let Some(backing) = &sync.backing {
        backing.sync_data().map_err(|_| Errno::EIO)?;
    }
    let mut state = gate.request()?;
    state.longest_sync = state.longest_sync.max(begun.elapsed());
    state.disk.end_sync(sync)
}

impl Filesystem for MountedDisk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        Self::answer_entry(reply, self.entry(|disk| disk.lookup(parent.0, name)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        Self::answer_attributes(reply, self.0.request().and_then(|state| state.attributes(ino.0)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.entry(|disk| {
            size.map(|size| disk.set_length(ino.0, size)).transpose()?;
            mode.into_iter().for_each(|mode| disk.set_mode(ino.0, mode));
            Ok(ino.0)
        });
        Self::answer_attributes(reply, changed);
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: u32, reply: ReplyEntry) {
        Self::answer_entry(reply, self.entry(|disk| disk.create(parent.0, name, mode & !umask & 0o7777, false)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        Self::answer_entry(reply, self.entry(|disk| disk.create(parent.0, name, mode & !umask & 0o7777, true)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::answer(reply, self.0.request().and_then(|mut state| state.disk.remove(parent.0, name, false)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::answer(reply, self.0.request().and_then(|mut state| state.disk.remove(parent.0, name, true)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = match flags.is_empty() {
            true => self.0.request().and_then(|mut state| state.disk.rename(parent.0, name, newparent.0, newname)),
            false => Err(Errno::EINVAL),
        };
        Self::answer(reply, renamed);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        Self::answer_entry(reply, self.entry(|disk| disk.link(ino.0, newparent.0, newname).map(|()| ino.0)));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.0.request().and_then(|mut state| {
            state.disk.info(ino.0)?;
            Ok(state.handle())
        });
        match opened {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let created = self.0.request().and_then(|mut state| {
            let inode = state.disk.create(parent.0, name, mode & !umask & 0o7777, false)?;
            Ok((state.attributes(inode)?, state.handle()))
        });
        match created {
            Ok((attributes, handle)) => {
                reply.created(&TTL, &attributes, Generation(0), handle, FopenFlags::empty());
            }
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.request().and_then(|mut state| state.disk.read(ino.0, offset, size.into())) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let is_synchronous = flags.0 & nix::fcntl::OFlag::O_DSYNC.bits() != 0;
        let written = self.0.request().and_then(|mut state| state.disk.write(ino.0, offset, data, is_synchronous));
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.0.request().and_then(|state| {
            let entries = state.disk.entries(ino.0)?;
            let entries = entries.into_iter().map(|(name, inode)| {
                let is_folder = state.disk.info(inode).is_ok_and(|info| info.is_folder);
                (name, inode, is_folder)
            });
            Ok([".", ".."].map(|name| (name.into(), ino.0, true)).into_iter().chain(entries).collect::<Vec<_>>())
        });
        match listed {
            Ok(entries) => {
                for (n, (name, inode, is_folder)) in (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(0)) {
                    if reply.add(INodeNo(inode), n, kind(is_folder), name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let found = self.0.request().and_then(|state| {
            let of = nix::sys::statvfs::statvfs(state.disk.folder())?;
            let room = state.disk.room().map(|bytes| bytes / of.fragment_size().max(1));
            Ok((of, room))
        });
        match found {
            Ok((of, room)) => reply.statfs(
                of.blocks(),
                room.unwrap_or(of.blocks_free()),
                room.unwrap_or(of.blocks_available()),
                of.files(),
                of.files_free(),
                u32::try_from(of.block_size()).unwrap_or(4096),
                255,
                u32::try_from(of.fragment_size()).unwrap_or(4096),
            ),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        Self::answer(reply, self.0.request().and_then(|mut state| state.disk.allocate(ino.0, offset, length, mode)));
    }
}
