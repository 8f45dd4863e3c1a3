//! The thread that reads files and stdin, so that a slow pipe, terminal or disk never delays the
//! rest.
//!
//! The thread hands over each read at once, cut into records; while `QUEUE_LEN` reads wait, it does
//! not read. It ends when the receiver is dropped, or with the program: a read of stdin cannot be
//! cancelled.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use tokio::sync::mpsc;

use crate::commands::common::record_splitter::{RecordSplitter, SplitRecords};

use mqueue::io_error::describe;

/// Limit on the reads that wait to be taken.
const QUEUE_LEN: usize = 4;

/// A piece that the thread hands over.
#[derive(Debug)]
pub(super) enum ReadPiece {
    /// The records of one read, and its number of bytes.
    Cut(SplitRecords, u64),
    /// Error of an input that could not be read to its end. Others may follow.
    Failed(String),
}

/// Starts reading the inputs one after the other; `-` is stdin.
pub(super) fn start(inputs: Vec<PathBuf>, mut records: RecordSplitter) -> io::Result<mpsc::Receiver<ReadPiece>> {
    let (pieces, receiver) = mpsc::channel(QUEUE_LEN);
    std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        for path in inputs {
            let read = open(&path).and_then(|file| read(file, &mut records, &pieces));
            let last = match read {
                Ok(InputEnd::NobodyListens) => return,
                // the rest after the last delimiter is a record, too
                Ok(InputEnd::OfInput) => ReadPiece::Cut(records.end(), 0),
                // after an error the rest is only the beginning of a record
                Err(e) => {
                    records.end();
                    ReadPiece::Failed(format!("cannot read {}: {}", name(&path), describe(&e)))
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

/// Returns true for `-`.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// Returns the kind of stdin if it is a pipe, a file or a connection, so meant as input. Returns
/// `None` for a terminal and `/dev/null` (systemd), and for a socket that is no connection, such as
/// the listening one of `StandardInput=socket` in a unit.
pub(super) fn redirected_stdin() -> Option<&'static str> {
    match stdin_metadata().ok()?.file_type() {
        kind if kind.is_fifo() => Some("pipe"),
        kind if kind.is_file() => Some("file"),
        // node's child_process, sshd and inetd give sockets where others give pipes
        kind if kind.is_socket() && is_connection(&io::stdin()) => Some("socket"),
        _ => None,
    }
}

/// Returns true for a connected stream socket.
fn is_connection(socket: &impl AsFd) -> bool {
    let is_stream = getsockopt(socket, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream);
    is_stream && getsockopt(socket, sockopt::AcceptConn).is_ok_and(|accepts| !accepts)
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

enum InputEnd {
    OfInput,
    NobodyListens,
}

fn read(mut file: File, records: &mut RecordSplitter, pieces: &mpsc::Sender<ReadPiece>) -> io::Result<InputEnd> {
    loop {
        let read = match file.read(records.space()) {
            Ok(0) => return Ok(InputEnd::OfInput),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // another process that shares stdin made it non-blocking
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
                continue;
            }
            Err(e) => return Err(e),
        };
        if pieces.blocking_send(ReadPiece::Cut(records.take(read), read as u64)).is_err() {
            return Ok(InputEnd::NobodyListens);
        }
    }
}

/// Checks before anything is published that the files exist and may be read; returns their total
/// length, if known.
pub(super) fn check(inputs: &[PathBuf]) -> Result<Option<u64>, String> {
    if inputs.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err("stdin (-) is given twice: name it once".to_owned());
    }
    let mut length = Some(0);
    for path in inputs {
        let size = if is_stdin(path) { stdin_size() } else { size(path) };
        let size = size.map_err(|e| format!("cannot read {}: {}", name(path), describe(&e)))?;
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
        // opening a named pipe would block until it has a writer
        return Ok(None);
    }
    File::open(path).map(|_| Some(metadata.len()))
}

fn stdin_size() -> io::Result<Option<u64>> {
    let metadata = stdin_metadata()?;
    Ok(metadata.is_file().then_some(metadata.len()))
}
