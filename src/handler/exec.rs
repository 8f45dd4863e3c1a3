//! `exec:COMMAND`: one run of a command per message. The body is its standard input, and its exit
//! status is the verdict.
//!
//! The body is a sealed memory file, complete before the command starts: a command never mistakes
//! the beginning of a body for all of it, even if this process is killed. A running command is
//! killed together with this process.
//!
//! ```text
//!  exit 0                    Done
//!  exit 65 (EX_DATAERR)      Drop
//!  75, others, a signal      Retry
//!  timeout                   SIGTERM to the process group ─ 5 s ─▶ SIGKILL, Retry
//!  future dropped            SIGKILL to the process group
//! ```
//!
//! The environment describes the message: MQUEUE_STREAM, MQUEUE_GROUP, MQUEUE_ID, MQUEUE_ATTEMPTS,
//! MQUEUE_TIMESTAMP (ns since 1970). Standard error, and standard output unless it is captured, are
//! inherited.

use std::future;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::sleep;

use crate::proto::{ChannelName, Message, TopicName};

use super::capture::Capture;
use super::command_line::CommandLine;
use super::memory_file;
use super::orphan_guard::OrphanGuard;
use super::process_group::{GRACE, ProcessGroup, exit_text};
use super::{CAPTURE_LIMIT, Handler, HandlerError, HandlerOptions, Verdict};
use crate::io_error::describe;

/// The exit status for invalid input (sysexits.h): a retry would not help.
const EX_DATAERR: i32 = 65;

/// Runs a command for each message.
#[derive(Debug)]
pub struct ExecHandler {
    command: CommandLine,
    stream: TopicName,
    group: ChannelName,
    timeout: Duration,
    grace: Duration,
    capture_output: bool,
    orphan_guard: OrphanGuard,
}

/// The reason why waiting for a command ended.
enum CommandEnd {
    Exited(io::Result<ExitStatus>),
    TooMuchOutput,
    TimedOut,
}

impl ExecHandler {
    /// Creates a handler that runs `command`: directly if it consists of plain words, else by `sh
    /// -c`. Fails if the program does not exist, as far as that is known without a shell.
    pub fn new(command: &str, options: &HandlerOptions) -> Result<Self, HandlerError> {
        Ok(Self {
            command: CommandLine::find(command)?.without(&options.withheld),
            stream: options.stream.clone(),
            group: options.group.clone(),
            timeout: options.timeout,
            grace: GRACE,
            capture_output: options.capture_output,
            orphan_guard: OrphanGuard::default(),
        })
    }

    fn start(&self, message: &Message) -> io::Result<Child> {
        self.orphan_guard.start();
        self.command
            .command(&self.stream, &self.group)
            .env("MQUEUE_ID", message.id.to_string())
            .env("MQUEUE_ATTEMPTS", message.attempts.to_string())
            .env("MQUEUE_TIMESTAMP", message.timestamp.to_string())
            .stdin(memory_file::sealed(c"mqueue-body", &message.body)?)
            .stdout(if self.capture_output { Stdio::piped() } else { Stdio::inherit() })
            .process_group(0)
            .spawn()
    }

    /// Waits for a started command and judges it.
    async fn run(&self, mut child: Child) -> Verdict {
        let mut group = ProcessGroup::led_by(&child, &self.orphan_guard);
        let mut capture = child.stdout.take().map(Capture::new);
        let end = tokio::select! {
            // The exit counts even if the timeout or the output limit is reached at the same
            // moment.
            biased;
            status = child.wait() => CommandEnd::Exited(status),
            () = overflow(&mut capture) => CommandEnd::TooMuchOutput,
            () = sleep(self.timeout) => CommandEnd::TimedOut,
        };
        match end {
            CommandEnd::Exited(Ok(status)) => {
                group.release();
                judge(status, capture)
            }
            CommandEnd::Exited(Err(error)) => {
                Verdict::retry(format!("cannot wait for the command: {}", describe(&error)))
            }
            CommandEnd::TooMuchOutput => {
                group.terminate(&mut child, self.grace).await;
                Verdict::drop(format!("output of more than {CAPTURE_LIMIT} bytes"))
            }
            CommandEnd::TimedOut => {
                group.terminate(&mut child, self.grace).await;
                Verdict::retry(format!("timed out after {}", humantime::format_duration(self.timeout)))
            }
        }
    }
}

impl Handler for ExecHandler {
    async fn handle(&self, message: Message) -> Verdict {
        match self.start(&message) {
            Ok(child) => self.run(child).await,
            // The program existed at the start: it is being replaced, or the system is out of
            // processes.
            Err(error) => Verdict::retry(format!("cannot run {:?}: {}", self.command.program(), describe(&error))),
        }
    }
}

/// Returns only when the output exceeds the limit.
async fn overflow(capture: &mut Option<Capture>) {
    match capture {
        Some(capture) => capture.overflow().await,
        None => future::pending().await,
    }
}

/// Returns the verdict for an exit status.
fn judge(status: ExitStatus, capture: Option<Capture>) -> Verdict {
    match status.code() {
        Some(0) => match capture.map(Capture::finish).transpose() {
            Ok(output) => Verdict::Done(output),
            Err(error) => Verdict::retry(format!("cannot read the output: {}", describe(&error))),
        },
        Some(EX_DATAERR) => Verdict::drop(exit_text(status)),
        _ => Verdict::retry(exit_text(status)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use bytes::Bytes;
    use tokio::task::spawn_blocking;
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::handler::testing::{TestPipe, message, options, rest};

    fn captured(command: &str) -> ExecHandler {
        ExecHandler::new(command, &HandlerOptions { capture_output: true, ..options() }).unwrap()
    }

    async fn output(command: &str, body: impl Into<Bytes>) -> Verdict {
        captured(command).handle(message(body)).await
    }

    fn done(output: impl Into<Bytes>) -> Verdict {
        Verdict::Done(Some(output.into()))
    }

    /// Creates a handler for a script that writes to this pipe.
    fn teller(pipe: &TestPipe, script: &str) -> ExecHandler {
        ExecHandler::new(&pipe.script(script), &options()).unwrap()
    }

    #[tokio::test]
    async fn exit_status_decides_the_verdict() {
        for (command, verdict) in [
            ("true", Verdict::Done(None)),
            ("false", Verdict::retry("exit status 1")),
            ("exit 65", Verdict::drop("exit status 65")),
            ("exit 75", Verdict::retry("exit status 75")),
            ("kill -9 $$", Verdict::retry("killed by signal 9")),
            ("nosuch 2>/dev/null; exit $?", Verdict::retry("exit status 127 (command not found)")),
        ] {
            assert_eq!(ExecHandler::new(command, &options()).unwrap().handle(message("a")).await, verdict, "{command}");
        }
    }

    #[tokio::test]
    async fn body_is_stdin_and_environment_describes_the_message() {
        let script = r#"cat; echo " $MQUEUE_STREAM $MQUEUE_GROUP $MQUEUE_ID $MQUEUE_ATTEMPTS $MQUEUE_TIMESTAMP""#;
        assert_eq!(output(script, "body").await, done("body foo 1 0123456789abcdef 2 1700000000123456789\n"));
    }

    #[tokio::test]
    async fn bodies_larger_than_a_pipe_are_passed_completely() {
        let body = vec![b'x'; 4 << 20];
        assert_eq!(output("cat", body.clone()).await, done(body.clone()));
        assert_eq!(output("true", body).await, done(""));
    }

    #[tokio::test]
    async fn background_children_neither_block_the_run_nor_are_killed() {
        let pipe = TestPipe::new();
        let script = format!("cat {} & echo out", pipe.path().display());
        assert_eq!(output(&script, "a").await, done("out\n"));
        // This open succeeds only if cat, which holds the output open, still reads.
        spawn_blocking(move || File::create(pipe.path()).unwrap().write_all(b"end").unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn output_over_the_limit_drops_the_message_and_ends_the_command() {
        let reason = "output of more than 67108864 bytes";
        assert_eq!(output("cat /dev/zero", "a").await, Verdict::drop(reason));
    }

    #[tokio::test(start_paused = true)]
    async fn timed_out_commands_get_sigterm() {
        let pipe = TestPipe::new();
        let handler = teller(&pipe, "trap 'echo asked >&3; exit 0' TERM; echo up >&3; while :; do sleep 0.01; done");
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        // The paused clock stands still while a blocking task runs: the grace cannot pass.
        let rest = rest(pipe.wait_until_up().await);
        advance(Duration::from_secs(30)).await;
        assert_eq!(rest.await.unwrap(), "asked\n");
        assert_eq!(handling.await.unwrap(), Verdict::retry("timed out after 30s"));
    }

    #[tokio::test(start_paused = true)]
    async fn commands_that_ignore_sigterm_are_killed_with_their_children() {
        let (pipe, start) = (TestPipe::new(), Instant::now());
        let handler = teller(&pipe, "trap '' TERM; sleep 1000 & echo up >&3; wait");
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        let reader = pipe.wait_until_up().await;
        assert_eq!(handling.await.unwrap(), Verdict::retry("timed out after 30s"));
        assert!(start.elapsed() >= Duration::from_secs(30) + GRACE, "{:?}", start.elapsed());
        assert_eq!(rest(reader).await.unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn children_have_the_grace_period_after_their_parent_exits() {
        let pipe = TestPipe::new();
        let child = "trap 'echo child >&3; exit' TERM; echo up >&3; while :; do sleep 0.01; done";
        let handler = teller(&pipe, &format!("({child}) & wait"));
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        let rest = rest(pipe.wait_until_up().await);
        advance(Duration::from_secs(30)).await;
        assert_eq!(rest.await.unwrap(), "child\n");
        assert_eq!(handling.await.unwrap(), Verdict::retry("timed out after 30s"));
    }

    #[tokio::test]
    async fn dropping_a_run_kills_the_command_and_its_children() {
        let pipe = TestPipe::new();
        let handler = teller(&pipe, "trap '' TERM; sleep 1000 & echo up >&3; wait");
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        let reader = pipe.wait_until_up().await;
        handling.abort();
        assert_eq!(rest(reader).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_deleted_program_is_a_retry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let handler = ExecHandler::new(&path.display().to_string(), &options()).unwrap();
        fs::remove_file(&path).unwrap();
        let reason = format!("cannot run {:?}: no such file or directory", path.display().to_string());
        assert_eq!(handler.handle(message("a")).await, Verdict::retry(reason));
    }
}
