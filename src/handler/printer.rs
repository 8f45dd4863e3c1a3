//! The blocking half of `print`: batches into lines, lines into a descriptor, and what became of each.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio_util::sync::CancellationToken;

use crate::proto::Message;

use super::Verdict;
use super::line::LineFormat;
use crate::io_error::describe;

/// How much is formatted before it is written, in bytes: a batch of common messages is one write(2), and a batch of
/// huge ones is never in memory twice. Up to this much is kept from batch to batch.
const RUN: usize = 512 * 1024;

/// Writes batches of messages to a descriptor.
///
/// - Every line in the output is whole, except the last one while `torn` is not empty.
/// - A message is `Done` only if its whole line was written.
#[derive(Debug)]
pub(super) struct Printer {
    out: File,
    format: LineFormat,
    /// Cancelled when the reader has gone away.
    stop: CancellationToken,
    reader_gone: bool,
    /// The rest of a line of which a failed write left the beginning in the output. It goes out before anything else: the
    /// output then holds that line whole, and once more when its message, which was not done, comes again.
    torn: Vec<u8>,
    /// What is about to be written: what was torn, then lines.
    buffer: Vec<u8>,
    /// How much of `buffer` was torn.
    head: usize,
    /// Where in `buffer` each line ends.
    ends: Vec<usize>,
}

impl Printer {
    /// A printer to `out`, blocking or not.
    pub(super) fn new(out: File, format: LineFormat, stop: CancellationToken) -> Self {
        Self { out, format, stop, reader_gone: false, torn: Vec::new(), buffer: Vec::new(), head: 0, ends: Vec::new() }
    }

    /// Writes the messages' lines and says of each message what became of it. Blocks as long as the reader does.
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

    /// Writes runs of lines, and adds a `Done` for each line that went out whole.
    fn write_lines(&mut self, messages: &[Message], verdicts: &mut Vec<Verdict>) -> io::Result<()> {
        if self.reader_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        while verdicts.len() < messages.len() {
            self.format_run(&messages[verdicts.len()..]);
            let (written, result) = write_all(&self.out, &self.buffer);
            let lines = self.ends.partition_point(|end| *end <= written);
            verdicts.resize(verdicts.len() + lines, Verdict::Done(None));
            self.keep_torn(written, lines);
            result?;
        }
        Ok(())
    }

    /// Fills the buffer with what is torn and the lines of as many messages as make a run, one at the least.
    fn format_run(&mut self, messages: &[Message]) {
        self.buffer.clear();
        self.buffer.shrink_to(2 * RUN);
        self.buffer.extend_from_slice(&self.torn);
        self.head = self.buffer.len();
        self.ends.clear();
        for message in messages {
            self.format.add(message, &mut self.buffer);
            self.ends.push(self.buffer.len());
            if self.buffer.len() >= RUN {
                break;
            }
        }
    }

    /// Keeps the rest of the line that a write of this length ended in, having written that many lines.
    fn keep_torn(&mut self, written: usize, lines: usize) {
        let start = if lines > 0 { self.ends[lines - 1] } else { self.head };
        let rest = match self.ends.get(lines) {
            _ if written < self.head => written..self.head,
            Some(end) if written > start => written..*end,
            Some(_) | None => 0..0,
        };
        self.torn.clear();
        self.torn.extend_from_slice(&self.buffer[rest]);
    }
}

/// Writes all of `bytes` if it can; says how many it wrote even if not.
fn write_all(mut out: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares our terminal or pipe may have made it non-blocking, for all who share it.
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

/// Blocks until a write would do something, be it fail.
fn wait_until_writable(out: &File) -> io::Result<()> {
    match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A pipe says the one, a socket either.
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
    fn a_reader_that_leaves_mid_batch_gets_no_more_and_the_rest_is_released() {
        let (mut reader, writer) = small_pipe();
        let mut printer = printer(writer);
        let batch = vec![message(vec![b'x'; 999]); 10];
        let reading = thread::spawn(move || {
            // Two lines and a half out of ten, and then no reader.
            reader.read_exact(&mut [0; 2500]).unwrap();
        });
        let verdicts = printer.print(&batch);
        reading.join().unwrap();
        let done = verdicts.iter().take_while(|verdict| **verdict == DONE).count();
        // What stood in the pipe when the reader left counts as written: nobody can know better.
        assert!((2..10).contains(&done), "{verdicts:?}");
        assert!(verdicts[done..].iter().all(|verdict| *verdict == Verdict::Release), "{verdicts:?}");
        assert_eq!(verdicts.len(), 10);
        assert!(printer.stop.is_cancelled());
        assert_eq!(printer.print(&batch), vec![Verdict::Release; 10]);
    }

    #[test]
    fn a_reader_that_never_was_releases_all() {
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
    fn a_torn_line_is_completed_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut printer = printer(File::create(&path).unwrap());
        let batch = [message("first"), message("second"), message("third")];
        printer.format_run(&batch);
        // As if the disk was full after "first\nsec".
        (&printer.out).write_all(b"first\nsec").unwrap();
        printer.keep_torn(9, 1);
        assert_eq!(printer.torn, b"ond\n");
        assert_eq!(printer.print(&batch[1..]), [DONE, DONE]);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "first\nsecond\nsecond\nthird\n");
    }

    #[test]
    fn a_write_that_ends_between_lines_or_in_a_torn_one_tears_nothing_new() {
        let mut printer = printer(io::pipe().unwrap().1);
        printer.format_run(&[message("a"), message("b")]);
        printer.keep_torn(0, 0);
        assert_eq!(printer.torn, b"");
        printer.keep_torn(2, 1);
        assert_eq!(printer.torn, b"");
        printer.keep_torn(4, 2);
        assert_eq!(printer.torn, b"");
        for (written, torn) in [(0, "torn\n"), (2, "rn\n"), (5, ""), (6, "\n"), (7, "")] {
            printer.torn = b"torn\n".to_vec();
            printer.format_run(&[message("a")]);
            assert_eq!(printer.buffer, b"torn\na\n");
            printer.keep_torn(written, usize::from(written == 7));
            assert_eq!(printer.torn, torn.as_bytes(), "{written}");
        }
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
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
    fn a_batch_of_huge_messages_goes_out_in_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut printer = printer(File::create(&path).unwrap());
        assert_eq!(printer.print(&vec![message(vec![b'x'; RUN]); 5]), vec![DONE; 5]);
        assert_eq!(std::fs::metadata(path).unwrap().len() as usize, 5 * (RUN + 1));
        assert!(printer.buffer.capacity() <= 2 * RUN + 1, "{}", printer.buffer.capacity());
    }
}
