//! The thread that reads files and stdin, so that a slow pipe, a terminal or a disk never holds up the rest.
//!
//! It hands over what a read brought, cut into records, at once; while a few of these wait to be taken, it does not read. It ends
//! when the receiver is dropped, or with the program: a read of stdin cannot be called off.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

use crate::commands::common::record_splitter::{Cut, Records};

/// Reads that may wait to be taken.
const AHEAD: usize = 4;

/// What the thread hands over.
#[derive(Debug)]
pub(super) enum Piece {
    /// What one read brought, and how many bytes that were.
    Cut(Cut, u64),
    /// An input that could not be read to its end, and why. Others may follow.
    Failed(String),
}

/// Starts reading these files one after the other; `-` is stdin.
pub(super) fn start(inputs: Vec<PathBuf>, mut records: Records) -> io::Result<mpsc::Receiver<Piece>> {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        for path in inputs {
            let read = open(&path).and_then(|file| read(file, &mut records, &pieces));
            let last = match read {
                Ok(Ended::NobodyListens) => return,
                // what stands after the last delimiter is a record, too
                Ok(Ended::OfInput) => Piece::Cut(records.end(), 0),
                // there it is the beginning of one
                Err(e) => {
                    records.end();
                    Piece::Failed(format!("cannot read {}: {e}", name(&path)))
                }
            };
            if pieces.blocking_send(last).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The name of stdin among the inputs.
pub(super) const STDIN: &str = "-";

/// True for `-`.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// Says what stdin is if it is a pipe or a file: somebody sent it here to be read. A terminal, `/dev/null` and a socket
/// (systemd, cron, ssh) are `None`.
pub(super) fn redirected_stdin() -> Option<&'static str> {
    let kind = stdin_metadata().ok()?.file_type();
    match (kind.is_fifo(), kind.is_file()) {
        (true, _) => Some("pipe"),
        (_, true) => Some("file"),
        _ => None,
    }
}

fn stdin_metadata() -> io::Result<Metadata> {
    File::from(io::stdin().as_fd().try_clone_to_owned()?).metadata()
}

fn name(path: &Path) -> String {
    if is_stdin(path) { "stdin".to_owned() } else { path.display().to_string() }
}

fn open(path: &Path) -> io::Result<File> {
    match is_stdin(path) {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(path),
    }
}

enum Ended {
    OfInput,
    NobodyListens,
}

fn read(mut file: File, records: &mut Records, pieces: &mpsc::Sender<Piece>) -> io::Result<Ended> {
    loop {
        let read = match file.read(records.space()) {
            Ok(0) => return Ok(Ended::OfInput),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // somebody who shares the stdin made it so
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
                continue;
            }
            Err(e) => return Err(e),
        };
        if pieces.blocking_send(Piece::Cut(records.take(read), read as u64)).is_err() {
            return Ok(Ended::NobodyListens);
        }
    }
}

/// Checks before anything is published what can be known before: that the files are there and may be read. Gives the length of all
/// together, if it is known.
pub(super) fn check(inputs: &[PathBuf]) -> Result<Option<u64>, String> {
    if inputs.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err("stdin (-) is given twice: name it once".to_owned());
    }
    let mut length = Some(0);
    for path in inputs {
        let size = if is_stdin(path) { stdin_size() } else { size(path) };
        let size = size.map_err(|e| format!("cannot read {}: {e}", name(path)))?;
        length = length.zip(size).map(|(sum, size)| sum + size);
    }
    Ok(length)
}

fn size(path: &Path) -> io::Result<Option<u64>> {
    let metadata = path.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if !metadata.is_file() {
        // opening a named pipe waits for its writer
        return Ok(None);
    }
    File::open(path).map(|_| Some(metadata.len()))
}

fn stdin_size() -> io::Result<Option<u64>> {
    let metadata = stdin_metadata()?;
    Ok(metadata.is_file().then_some(metadata.len()))
}
