//! The blocking half of `print`: formats batches as lines, writes them to a descriptor, and returns
//! the verdicts.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio_util::sync::CancellationToken;

use crate::proto::Message;

use super::Verdict;
use super::line_format::LineFormat;
use crate::io_error::describe;

/// The size of one write, in bytes: a batch of ordinary messages is one write(2), and a batch of
/// huge ones is never in memory twice. A buffer of this size is kept from batch to batch.
const WRITE_SIZE: usize = 512 * 1024;

/// Writes batches of messages to a descriptor.
///
/// - Every line in the output is whole, except the last one while `unwritten` is not empty.
/// - A message is `Done` only if its whole line was written.
#[derive(Debug)]
pub(super) struct Printer {
    out: File,
    format: LineFormat,
    /// Cancelled when the reader has gone.
    stop: CancellationToken,
    reader_gone: bool,
    /// The rest of a line that a failed write left incomplete in the output. It is written before
    /// anything else: that line is then complete, and appears again when its message is delivered
    /// again.
    unwritten: Vec<u8>,
    /// The bytes to write: the rest of a torn line, then lines.
    buffer: Vec<u8>,
    /// The length of the torn line's rest in `buffer`.
    torn_end: usize,
    /// The end of each line in `buffer`.
    ends: Vec<usize>,
}

impl Printer {
    /// Creates a printer to `out`, blocking or not.
    pub(super) fn new(out: File, format: LineFormat, stop: CancellationToken) -> Self {
        Self {
            out,
            format,
            stop,
            reader_gone: false,
            unwritten: Vec::new(),
            buffer: Vec::new(),
            torn_end: 0,
            ends: Vec::new(),
        }
    }

    /// Writes the messages' lines and returns a verdict for each. Blocks as long as the reader
    /// does.
    pub(super) fn print(&mut self, messages: &[Message]) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(messages.len());
        let rest = match self.write_lines(messages, &mut verdicts) {
            Ok(()) => return verdicts,
            Err(error) if is_reader_gone(&error) => {
                self.reader_gone = true;
                self.stop.cancel();
                Verdict::Release
            }
            Err(error) => Verdict::retry(format!("cannot write to standard output: {}", describe(&error))),
        };
        verdicts.resize(messages.len(), rest);
        verdicts
    }

    /// Writes lines, and adds a `Done` for each line that was written completely.
    fn write_lines(&mut self, messages: &[Message], verdicts: &mut Vec<Verdict>) -> io::Result<()> {
        if self.reader_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        while verdicts.len() < messages.len() {
            self.fill_buffer(&messages[verdicts.len()..]);
            let (written, result) = write_all(&self.out, &self.buffer);
            let lines = self.ends.partition_point(|end| *end <= written);
            verdicts.resize(verdicts.len() + lines, Verdict::Done(None));
            self.keep_unwritten(written, lines);
            result?;
        }
        Ok(())
    }

    /// Fills the buffer with the torn line's rest and the lines of at least one message, up to the
    /// size of one write.
    fn fill_buffer(&mut self, messages: &[Message]) {
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_SIZE);
        self.buffer.extend_from_slice(&self.unwritten);
        self.torn_end = self.buffer.len();
        self.ends.clear();
        for message in messages {
            self.format.add(message, &mut self.buffer);
            self.ends.push(self.buffer.len());
            if self.buffer.len() >= WRITE_SIZE {
                break;
            }
        }
    }

    /// Keeps the rest of the line that a write of this length ended in, after this many complete
    /// lines.
    fn keep_unwritten(&mut self, written: usize, lines: usize) {
        let start = if lines > 0 { self.ends[lines - 1] } else { self.torn_end };
        let rest = match self.ends.get(lines) {
            _ if written < self.torn_end => written..self.torn_end,
            Some(end) if written > start => written..*end,
            Some(_) | None => 0..0,
        };
        self.unwritten.clear();
        self.unwritten.extend_from_slice(&self.buffer[rest]);
    }
}

/// Writes all of `bytes` if possible; returns the number of written bytes in any case.
fn write_all(mut out: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares our terminal or pipe may have made it non-blocking for
            // all.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if let Err(error) = wait_until_writable(out) {
                    return (written, Err(error));
                }
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Blocks until a write would succeed or fail.
fn wait_until_writable(out: &File) -> io::Result<()> {
    match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// True if the reader has gone: pipes report the first kind, sockets either.
fn is_reader_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read};
    use std::os::fd::OwnedFd;
    use std::thread;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;
    use crate::handler::PrintOutput;
    use crate::handler::testing::{message, options};

    const DONE: Verdict = Verdict::Done(None);

    fn printer(out: impl Into<OwnedFd>) -> Printer {
        let format = LineFormat::new(PrintOutput::Body, options().stream, options().group);
        Printer::new(File::from(out.into()), format, CancellationToken::new())
    }

    /// A pipe that holds one page.
    fn small_pipe() -> (PipeReader, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap(), 4096);
        (reader, writer)
    }

    #[test]
    fn unwritten_messages_are_released_when_the_reader_leaves() {
        let (mut reader, writer) = small_pipe();
        let mut printer = printer(writer);
        let batch = vec![message(vec![b'x'; 999]); 10];
        let reading = thread::spawn(move || {
            // Two and a half lines out of ten, and then no reader.
            reader.read_exact(&mut [0; 2500]).unwrap();
        });
        let verdicts = printer.print(&batch);
        reading.join().unwrap();
        let done = verdicts.iter().take_while(|verdict| **verdict == DONE).count();
        // Bytes in the pipe when the reader left count as written: this cannot be known better.
        assert!((2..10).contains(&done), "{verdicts:?}");
        assert!(verdicts[done..].iter().all(|verdict| *verdict == Verdict::Release), "{verdicts:?}");
        assert_eq!(verdicts.len(), 10);
        assert!(printer.stop.is_cancelled());
        assert_eq!(printer.print(&batch), vec![Verdict::Release; 10]);
    }

    #[test]
    fn all_messages_are_released_without_a_reader() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut printer = printer(writer);
        assert_eq!(printer.print(&[message("a"), message("b")]), [Verdict::Release, Verdict::Release]);
        assert!(printer.stop.is_cancelled());
    }

    #[test]
    fn a_full_disk_is_a_retry_with_the_reason() {
        let mut printer = printer(File::options().write(true).open("/dev/full").unwrap());
        let reason = "cannot write to standard output: no space left on device";
        assert_eq!(printer.print(&[message("a"), message("b")]), vec![Verdict::retry(reason); 2]);
        assert!(!printer.stop.is_cancelled());
    }

    #[test]
    fn torn_lines_are_completed_before_the_next_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut printer = printer(File::create(&path).unwrap());
        let batch = [message("first"), message("second"), message("third")];
        printer.fill_buffer(&batch);
        // As if the disk was full after "first\nsec".
        (&printer.out).write_all(b"first\nsec").unwrap();
        printer.keep_unwritten(9, 1);
        assert_eq!(printer.unwritten, b"ond\n");
        assert_eq!(printer.print(&batch[1..]), [DONE, DONE]);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "first\nsecond\nsecond\nthird\n");
    }

    #[test]
    fn only_lines_cut_by_the_last_write_are_torn() {
        let mut printer = printer(io::pipe().unwrap().1);
        printer.fill_buffer(&[message("a"), message("b")]);
        printer.keep_unwritten(0, 0);
        assert_eq!(printer.unwritten, b"");
        printer.keep_unwritten(2, 1);
        assert_eq!(printer.unwritten, b"");
        printer.keep_unwritten(4, 2);
        assert_eq!(printer.unwritten, b"");
        for (written, unwritten) in [(0, "torn\n"), (2, "rn\n"), (5, ""), (6, "\n"), (7, "")] {
            printer.unwritten = b"torn\n".to_vec();
            printer.fill_buffer(&[message("a")]);
            assert_eq!(printer.buffer, b"torn\na\n");
            printer.keep_unwritten(written, usize::from(written == 7));
            assert_eq!(printer.unwritten, unwritten.as_bytes(), "{written}");
        }
    }

    #[test]
    fn non_blocking_pipes_are_waited_for() {
        let (mut reader, writer) = small_pipe();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut printer = printer(writer);
        let reading = thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes.len())
        });
        assert_eq!(printer.print(&vec![message(vec![b'x'; 999]); 100]), vec![DONE; 100]);
        drop(printer);
        assert_eq!(reading.join().unwrap().unwrap(), 100_000);
    }

    #[test]
    fn batches_of_huge_messages_are_split_into_several_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut printer = printer(File::create(&path).unwrap());
        assert_eq!(printer.print(&vec![message(vec![b'x'; WRITE_SIZE]); 5]), vec![DONE; 5]);
        assert_eq!(std::fs::metadata(path).unwrap().len() as usize, 5 * (WRITE_SIZE + 1));
        assert!(printer.buffer.capacity() <= 2 * WRITE_SIZE + 1, "{}", printer.buffer.capacity());
    }
}
