//! `exec:COMMAND`: one run of a command a message; the body is its standard input and its exit status the verdict.
//!
//! The body is a sealed file in memory, complete before the command starts: whatever happens to this process, a command never
//! takes the beginning of a body for all of it. A command that still runs when this process is killed is killed with it.
//!
//! ```text
//!  exit 0                    Done
//!  exit 65 (EX_DATAERR)      Drop
//!  75, others, a signal      Retry
//!  no exit in time           SIGTERM to the group ─ 5 s ─▶ SIGKILL, Retry
//!  future dropped            SIGKILL to the group
//! ```
//!
//! The environment says what the message is: MQUEUE_STREAM, MQUEUE_GROUP, MQUEUE_ID, MQUEUE_ATTEMPTS, MQUEUE_TIMESTAMP
//! (ns since 1970). Standard error, and standard output unless it is captured, are those of this process.

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
use super::process_group::{GRACE, ProcessGroup, ended};
use super::{CAPTURE_LIMIT, Handler, HandlerError, HandlerOptions, Verdict};
use crate::io_error::why;

/// sysexits.h: the input was wrong, and will be the next time.
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

/// Why the wait for a command ended.
enum End {
    Exited(io::Result<ExitStatus>),
    TooMuchOutput,
    TimedOut,
}

impl ExecHandler {
    /// A handler that runs `command`: directly if it is only words, else by `sh -c`. Fails if the program does not exist, as
    /// far as that can be seen without a shell.
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
        self.orphan_guard.stand_by();
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

    /// Waits for a started command.
    async fn run(&self, mut child: Child) -> Verdict {
        let mut group = ProcessGroup::led_by(&child, &self.orphan_guard);
        let mut capture = child.stdout.take().map(Capture::new);
        let end = tokio::select! {
            // The exit counts even where the time is over or the output is full in the same moment.
            biased;
            status = child.wait() => End::Exited(status),
            () = overflow(&mut capture) => End::TooMuchOutput,
            () = sleep(self.timeout) => End::TimedOut,
        };
        match end {
            End::Exited(Ok(status)) => {
                group.leave();
                judge(status, capture)
            }
            End::Exited(Err(error)) => Verdict::retry(format!("cannot wait for the command: {}", why(&error))),
            End::TooMuchOutput => {
                group.terminate(&mut child, self.grace).await;
                Verdict::drop(format!("output of more than {CAPTURE_LIMIT} bytes"))
            }
            End::TimedOut => {
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
            // The program was there at the start: it is being replaced, or the system has no process to give now.
            Err(error) => Verdict::retry(format!("cannot run {:?}: {}", self.command.program(), why(&error))),
        }
    }
}

/// Ends only when there is more output than may be kept.
async fn overflow(capture: &mut Option<Capture>) {
    match capture {
        Some(capture) => capture.overflow().await,
        None => future::pending().await,
    }
}

/// What an exit status says of the message.
fn judge(status: ExitStatus, capture: Option<Capture>) -> Verdict {
    match status.code() {
        Some(0) => match capture.map(Capture::finish).transpose() {
            Ok(output) => Verdict::Done(output),
            Err(error) => Verdict::retry(format!("cannot read the output: {}", why(&error))),
        },
        Some(EX_DATAERR) => Verdict::drop(ended(status)),
        _ => Verdict::retry(ended(status)),
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
    use crate::handler::testing::{Tale, message, options, rest};

    fn captured(command: &str) -> ExecHandler {
        ExecHandler::new(command, &HandlerOptions { capture_output: true, ..options() }).unwrap()
    }

    async fn output(command: &str, body: impl Into<Bytes>) -> Verdict {
        captured(command).handle(message(body)).await
    }

    fn done(output: impl Into<Bytes>) -> Verdict {
        Verdict::Done(Some(output.into()))
    }

    /// A handler for a script that tells this tale.
    fn teller(tale: &Tale, script: &str) -> ExecHandler {
        ExecHandler::new(&tale.told_by(script), &options()).unwrap()
    }

    #[tokio::test]
    async fn the_exit_status_is_the_verdict() {
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
    async fn the_body_is_the_input_and_the_environment_says_the_rest() {
        let script = r#"cat; echo " $MQUEUE_STREAM $MQUEUE_GROUP $MQUEUE_ID $MQUEUE_ATTEMPTS $MQUEUE_TIMESTAMP""#;
        assert_eq!(output(script, "body").await, done("body foo 1 0123456789abcdef 2 1700000000123456789\n"));
    }

    #[tokio::test]
    async fn a_body_larger_than_a_pipe_goes_through_whole_or_unread() {
        let body = vec![b'x'; 4 << 20];
        assert_eq!(output("cat", body.clone()).await, done(body.clone()));
        assert_eq!(output("true", body).await, done(""));
    }

    #[tokio::test]
    async fn a_child_left_behind_holds_up_nothing_and_lives_on() {
        let tale = Tale::new();
        let script = format!("cat {} & echo out", tale.path().display());
        assert_eq!(output(&script, "a").await, done("out\n"));
        // This opens only if cat, which holds the output open, is there to read.
        spawn_blocking(move || File::create(tale.path()).unwrap().write_all(b"end").unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn endless_output_is_dropped_and_the_command_ended() {
        let reason = "output of more than 67108864 bytes";
        assert_eq!(output("cat /dev/zero", "a").await, Verdict::drop(reason));
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_takes_too_long_is_asked_to_end() {
        let tale = Tale::new();
        let handler = teller(&tale, "trap 'echo asked >&3; exit 0' TERM; echo up >&3; while :; do sleep 0.01; done");
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        // The paused clock stands still while a blocking task runs: the grace cannot pass.
        let rest = rest(tale.begin().await);
        advance(Duration::from_secs(30)).await;
        assert_eq!(rest.await.unwrap(), "asked\n");
        assert_eq!(handling.await.unwrap(), Verdict::retry("timed out after 30s"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_listen_is_killed_with_its_children() {
        let (tale, start) = (Tale::new(), Instant::now());
        let handler = teller(&tale, "trap '' TERM; sleep 1000 & echo up >&3; wait");
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        let reader = tale.begin().await;
        assert_eq!(handling.await.unwrap(), Verdict::retry("timed out after 30s"));
        assert!(start.elapsed() >= Duration::from_secs(30) + GRACE, "{:?}", start.elapsed());
        assert_eq!(rest(reader).await.unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_may_use_the_grace_after_its_parent_has_ended() {
        let tale = Tale::new();
        let child = "trap 'echo child >&3; exit' TERM; echo up >&3; while :; do sleep 0.01; done";
        let handler = teller(&tale, &format!("({child}) & wait"));
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        let rest = rest(tale.begin().await);
        advance(Duration::from_secs(30)).await;
        assert_eq!(rest.await.unwrap(), "child\n");
        assert_eq!(handling.await.unwrap(), Verdict::retry("timed out after 30s"));
    }

    #[tokio::test]
    async fn a_dropped_run_is_killed_at_once_with_its_children() {
        let tale = Tale::new();
        let handler = teller(&tale, "trap '' TERM; sleep 1000 & echo up >&3; wait");
        let handling = tokio::spawn(async move { handler.handle(message("a")).await });
        let reader = tale.begin().await;
        handling.abort();
        assert_eq!(rest(reader).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_program_that_vanishes_is_a_retry() {
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
