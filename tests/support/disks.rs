//! Full disks and failing disks.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::skip;

/// A file system of 4 MiB; unmounted at the end.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts the file system; returns `None`, and skips the test, if it cannot be mounted, which
    /// takes root.
    pub fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).output();
        let disk = mount.is_ok_and(|output| output.status.success()).then_some(Self(folder));
        if disk.is_none() {
            skip("a small disk can only be mounted by root");
        }
        disk
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns a folder on the file system.
    pub fn folder(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(self.path()).expect("a folder")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

const NO_STRACE: &str = "strace is missing, or may not trace";

/// A failing disk, simulated by strace until this is dropped.
pub struct BadDisk(Child);

impl BadDisk {
    /// Makes each of these system calls of this process fail with EIO, on these files or on all.
    /// Returns `None`, and skips the test, where strace cannot do that. strace reports that it is
    /// attached a moment before it interferes: wait for an effect of a failure.
    pub fn of(pid: u32, calls: &str, files: &[&Path]) -> Option<Self> {
        let mut strace = Command::new("strace")
            .args(["-f", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:error=EIO")])
            .args(files.iter().flat_map(|file| [Path::new("-P"), file]))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok();
        let attached = strace.as_mut().is_some_and(|strace| {
            let mut lines = BufReader::new(strace.stderr.take().expect("piped")).lines();
            let attached = lines.by_ref().map_while(Result::ok).any(|line| line.contains("attached"));
            // strace stops when nobody reads its output
            std::thread::spawn(move || lines.for_each(drop));
            attached
        });
        if !attached {
            skip(NO_STRACE);
        }
        strace.map(Self).filter(|_| attached)
    }

    /// Returns the shell prefix for a command that makes each of these system calls on this file
    /// fail. Returns `None`, and skips the test, where strace cannot do that.
    pub fn around(calls: &str, file: &Path) -> Option<String> {
        let can = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
        if !can.is_ok_and(|output| output.status.success()) {
            skip(NO_STRACE);
            return None;
        }
        let file = file.display();
        Some(format!("strace -D -f -o /dev/null -e trace={calls} -e inject={calls}:error=EIO -P {file}"))
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        // strace detaches from the process
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
        let _ = self.0.wait();
    }
}
