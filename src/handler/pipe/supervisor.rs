//! Keeps a command running, and matches its verdicts with messages.
//!
//! ```text
//!  no command ── a message arrives ──▶ running ── it exits, or breaks the rules ──▶ pause, no command
//! ```
//!
//! Invariants:
//! - `waiting` has the order in which the command gets messages; the first
//!   `RunningCommand::unanswered` of them are in its input or in progress.
//! - A verdict counts only for a message that the command can have read completely.
//! - A message leaves `waiting` with its verdict, with a retry if it ended the run, or when it is
//!   released; two runs never have it at the same time.

use std::collections::VecDeque;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::PipeJob;
use super::answer;
use super::running_command::{CommandEvent, RunningCommand};
use crate::backoff::Backoff;
use crate::handler::command_line::CommandLine;
use crate::handler::line_format::LineFormat;
use crate::handler::orphan_guard::OrphanGuard;
use crate::handler::process_group::exit_text;
use crate::handler::{CAPTURE_LIMIT, HandlerOptions, PrintOutput, Verdict};
use crate::io_error::describe;
use crate::proto::{ChannelName, TopicName};

/// The pause between the end of a run and the next start.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Owns the command and all its messages.
#[derive(Debug)]
pub(super) struct Supervisor {
    command: CommandLine,
    stream: TopicName,
    group: ChannelName,
    format: LineFormat,
    captures: bool,
    timeout: Duration,
    inbox: mpsc::UnboundedReceiver<PipeJob>,
    waiting: VecDeque<PipeJob>,
    /// Cancelled to give up on a broken command.
    stop: CancellationToken,
    closing: CancellationToken,
    backoff: Backoff,
    not_before: Instant,
    orphan_guard: OrphanGuard,
    /// True once the command gave an id in an answer: a line without one is then not an answer.
    names_messages: bool,
}

/// The reason for the end of a run.
enum RunEnd {
    Exited(io::Result<ExitStatus>),
    Closed,
    TimedOut,
    /// The command violated the protocol.
    Broken(String),
    /// The handler is closing.
    Closing,
}

impl Supervisor {
    pub(super) fn new(
        command: CommandLine,
        options: &HandlerOptions,
        inbox: mpsc::UnboundedReceiver<PipeJob>,
        closing: CancellationToken,
    ) -> Self {
        Self {
            command,
            stream: options.stream.clone(),
            group: options.group.clone(),
            format: LineFormat::new(PrintOutput::Json, options.stream.clone(), options.group.clone()),
            captures: options.capture_output,
            timeout: options.timeout,
            inbox,
            waiting: VecDeque::new(),
            stop: options.stop.clone(),
            closing,
            backoff: Backoff::new(MIN_PAUSE, MAX_PAUSE, fastrand::Rng::new()),
            not_before: Instant::now(),
            orphan_guard: OrphanGuard::default(),
            names_messages: false,
        }
    }

    /// Runs until the handler is closed or dropped.
    pub(super) async fn run(mut self) {
        while self.wait_for_work().await {
            if !self.wait_to_start().await {
                continue;
            }
            match RunningCommand::start(&mut self.command.command(&self.stream, &self.group), &self.orphan_guard) {
                Ok(mut running) => match self.serve_run(&mut running).await {
                    RunEnd::Closing => return running.close().await,
                    end => self.end_run(running, end).await,
                },
                // The program existed at the start: it is being replaced, or the system is out of
                // processes.
                Err(error) => self.fail_all(&format!("cannot run {:?}: {}", self.command.program(), describe(&error))),
            }
        }
    }

    /// Waits for a message; returns false if the handler is closing.
    async fn wait_for_work(&mut self) -> bool {
        if self.waiting.is_empty() {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {}
                job = self.inbox.recv() => self.waiting.extend(job),
            }
        }
        self.collect_queued();
        !self.waiting.is_empty() && !self.closing.is_cancelled()
    }

    /// Waits until the command may be started again; returns false, and releases the waiting
    /// messages, if it will not be.
    async fn wait_to_start(&mut self) -> bool {
        if Instant::now() >= self.not_before {
            return true;
        }
        tokio::select! {
            biased;
            () = sleep_until(self.not_before) => return true,
            () = self.stop.cancelled() => {}
            () = self.closing.cancelled() => {}
        }
        self.collect_queued();
        self.waiting.clear();
        false
    }

    fn collect_queued(&mut self) {
        while let Ok(job) = self.inbox.try_recv() {
            self.waiting.push_back(job);
        }
    }

    /// Writes messages and reads answers until the run ends.
    async fn serve_run(&mut self, running: &mut RunningCommand) -> RunEnd {
        // the time at which the command could start with the first waiting message
        let mut since = Instant::now();
        loop {
            self.write_lines(running);
            let was_idle = self.waiting.is_empty();
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return RunEnd::Closing,
                event = running.next_event() => match event {
                    CommandEvent::Took => {}
                    CommandEvent::Said => match self.deliver_verdicts(running) {
                        Ok(0) => {}
                        Ok(_) => since = Instant::now(),
                        Err(why) => return RunEnd::Broken(why),
                    },
                    CommandEvent::Closed => return RunEnd::Closed,
                    CommandEvent::Exited(status) => return RunEnd::Exited(status),
                },
                job = self.inbox.recv() => match job {
                    Some(job) => self.waiting.push_back(job),
                    None => return RunEnd::Closing,
                },
                () = sleep(self.timeout.saturating_sub(since.elapsed())), if !was_idle => return RunEnd::TimedOut,
            }
            self.collect_queued();
            if was_idle {
                since = Instant::now();
            }
        }
    }

    /// Writes lines ahead while there is room; skips messages whose caller has given up.
    fn write_lines(&mut self, running: &mut RunningCommand) {
        while running.has_room() && running.unanswered() < self.waiting.len() {
            let job = &self.waiting[running.unanswered()];
            if job.verdict.is_closed() {
                self.waiting.remove(running.unanswered());
            } else {
                running.write_line(|out| self.format.add(&job.message, out));
            }
        }
    }

    /// Delivers the verdicts in the output, and returns their number. Fails, with the reason, on
    /// any other line.
    fn deliver_verdicts(&mut self, running: &mut RunningCommand) -> Result<usize, String> {
        let mut count = 0;
        while let Some(line) = running.line() {
            if !running.has_read_next() {
                return Err(unexpected_line(&line));
            }
            let answer = answer::answer(&line, self.captures)
                .ok_or_else(|| format!("the command answered {:?}, not ok, retry or drop", answer::sanitized(&line)))?;
            self.check_id(&line, answer.id.as_deref())?;
            running.count_answer();
            let job = self.waiting.pop_front().expect("it was asked");
            // The caller may have given up.
            let _ = job.verdict.send(answer.verdict);
            count += 1;
        }
        match running.partial_line() {
            begun if running.unanswered() == 0 && !begun.is_empty() => Err(unexpected_line(begun)),
            _ if running.line_is_too_long() => {
                Err(format!("the command answered with a line of more than {CAPTURE_LIMIT} bytes"))
            }
            _ => Ok(count),
        }
    }

    /// Fails if the answer is not for the next message. Once the command has given an id, each
    /// answer needs one, so that a stray line is not taken for a verdict.
    fn check_id(&mut self, line: &[u8], id: Option<&[u8]>) -> Result<(), String> {
        let next = self.waiting.front().expect("it was asked").message.id;
        match id {
            Some(id) if *id == next.0 || id == next.to_string().as_bytes() => {
                self.names_messages = true;
                Ok(())
            }
            Some(id) => Err(format!("the command answered for message {:?} instead of {next}", answer::sanitized(id))),
            None if self.names_messages => {
                Err(format!("the command answered {:?} without the id that it gave before", answer::sanitized(line)))
            }
            None => Ok(()),
        }
    }

    /// Ends a run. The first waiting message gets the blame; those behind it go to the next run.
    async fn end_run(&mut self, mut running: RunningCommand, end: RunEnd) {
        let end = match end {
            RunEnd::Closed => running.exit().await.map_or(RunEnd::Closed, RunEnd::Exited),
            end => end,
        };
        let mut why = self.reason(&end);
        if matches!(end, RunEnd::Exited(_)) {
            running.read_rest();
            if let Err(broken) = self.deliver_verdicts(&mut running) {
                why = broken;
            }
        }
        let ended_well = matches!(end, RunEnd::Exited(Ok(status)) if status.success());
        let is_nobodys_fault = is_nobodys_fault(&running, ended_well);
        if running.answer_count() > 0 {
            self.backoff.reset();
        }
        running.end().await;
        self.not_before = Instant::now() + self.backoff.next().unwrap_or_default();
        let (command, waiting) = (self.command.program(), self.waiting.len());
        if ended_well {
            tracing::info!(command, waiting, "{why}; it is restarted for the next message");
        } else {
            tracing::warn!(command, waiting, "{why}; it is restarted for the next message");
        }
        if !is_nobodys_fault && let Some(job) = self.waiting.pop_front() {
            let _ = job.verdict.send(Verdict::retry(why));
        }
    }

    fn reason(&self, end: &RunEnd) -> String {
        match end {
            RunEnd::Exited(Ok(status)) => format!("the command ended: {}", exit_text(*status)),
            RunEnd::Exited(Err(error)) => format!("cannot wait for the command: {}", describe(error)),
            RunEnd::Closed => "the command closed its standard input or output".to_owned(),
            RunEnd::TimedOut => format!("timed out after {}", humantime::format_duration(self.timeout)),
            RunEnd::Broken(why) => why.clone(),
            RunEnd::Closing => "the handler is closing".to_owned(),
        }
    }

    /// Fails all waiting messages for the same reason.
    fn fail_all(&mut self, why: &str) {
        self.collect_queued();
        for job in self.waiting.drain(..) {
            let _ = job.verdict.send(Verdict::retry(why));
        }
    }
}

/// True if the next message did not cause the end of the run: the command had not read it, or ended
/// as a command does that restarts now and then. Never true of a run without an answer, so that
/// runs cannot follow each other forever.
fn is_nobodys_fault(running: &RunningCommand, ended_well: bool) -> bool {
    running.answer_count() > 0 && (ended_well || !running.has_read_next())
}

fn unexpected_line(line: &[u8]) -> String {
    format!("the command wrote {:?} without a message to answer", answer::sanitized(line))
}
