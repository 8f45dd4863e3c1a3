//! Keeps a command running, and matches its verdicts with the messages.
//!
//! ```text
//!  no command ── a message comes ──▶ runs ── it ends, or is broken ──▶ no command, and none for a while
//! ```
//!
//! Invariants:
//! - `waiting` is in the order in which the command is asked; its first `Program::asked` are on the way or with the command.
//! - A verdict is taken only for a message that the command can have read to its end.
//! - A message leaves `waiting` with its verdict, as the one to blame, or to be released; it is never in two runs' hands at once.

use std::collections::VecDeque;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Job;
use super::answer;
use super::program::{Program, Turn};
use crate::backoff::Backoff;
use crate::handler::command_line::CommandLine;
use crate::handler::line::LineFormat;
use crate::handler::orphan_guard::OrphanGuard;
use crate::handler::process_group::ended;
use crate::handler::{CAPTURE_LIMIT, HandlerOptions, PrintOutput, Verdict};
use crate::io_error::why;
use crate::proto::{ChannelName, TopicName};

/// Between the end of a run and the next one's start.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Owns the command and all messages that are with it.
#[derive(Debug)]
pub(super) struct Keeper {
    command: CommandLine,
    stream: TopicName,
    group: ChannelName,
    format: LineFormat,
    captures: bool,
    timeout: Duration,
    inbox: mpsc::UnboundedReceiver<Job>,
    waiting: VecDeque<Job>,
    /// A broken command is not waited for any more.
    stop: CancellationToken,
    closing: CancellationToken,
    backoff: Backoff,
    not_before: Instant,
    orphan_guard: OrphanGuard,
    /// The command names the message in its answers: a line that does not is no answer any more.
    names_messages: bool,
}

/// Why a run is over.
enum Over {
    Exited(io::Result<ExitStatus>),
    Closed,
    TimedOut,
    /// It does not keep to the rules.
    Broken(String),
    /// Nobody needs it any more.
    Closing,
}

impl Keeper {
    pub(super) fn new(
        command: CommandLine,
        options: &HandlerOptions,
        inbox: mpsc::UnboundedReceiver<Job>,
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
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, fastrand::Rng::new()),
            not_before: Instant::now(),
            orphan_guard: OrphanGuard::default(),
            names_messages: false,
        }
    }

    /// Runs until the handler is closed or dropped.
    pub(super) async fn run(mut self) {
        while self.wait_for_work().await {
            if !self.may_start().await {
                continue;
            }
            match Program::start(&mut self.command.command(&self.stream, &self.group), &self.orphan_guard) {
                Ok(mut program) => match self.attend(&mut program).await {
                    Over::Closing => return program.close().await,
                    over => self.see_off(program, over).await,
                },
                // The program was there at the start: it is being replaced, or the system has no process to give now.
                Err(error) => self.refuse(&format!("cannot run {:?}: {}", self.command.program(), why(&error))),
            }
        }
    }

    /// True once a message waits; false if none is to come.
    async fn wait_for_work(&mut self) -> bool {
        if self.waiting.is_empty() {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {}
                job = self.inbox.recv() => self.waiting.extend(job),
            }
        }
        self.gather();
        !self.waiting.is_empty() && !self.closing.is_cancelled()
    }

    /// Waits until the command may be started again; false if it is not to be, and what waited is released.
    async fn may_start(&mut self) -> bool {
        if Instant::now() >= self.not_before {
            return true;
        }
        tokio::select! {
            biased;
            () = sleep_until(self.not_before) => return true,
            () = self.stop.cancelled() => {}
            () = self.closing.cancelled() => {}
        }
        self.gather();
        self.waiting.clear();
        false
    }

    fn gather(&mut self) {
        while let Ok(job) = self.inbox.try_recv() {
            self.waiting.push_back(job);
        }
    }

    /// Asks, and hears the answers, until the run is over.
    async fn attend(&mut self, program: &mut Program) -> Over {
        // when the command could begin with the first that waits
        let mut since = Instant::now();
        loop {
            self.ask(program);
            let was_idle = self.waiting.is_empty();
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return Over::Closing,
                turn = program.turn() => match turn {
                    Turn::Took => {}
                    Turn::Said => match self.settle(program) {
                        Ok(0) => {}
                        Ok(_) => since = Instant::now(),
                        Err(why) => return Over::Broken(why),
                    },
                    Turn::Closed => return Over::Closed,
                    Turn::Exited(status) => return Over::Exited(status),
                },
                job = self.inbox.recv() => match job {
                    Some(job) => self.waiting.push_back(job),
                    None => return Over::Closing,
                },
                () = sleep(self.timeout.saturating_sub(since.elapsed())), if !was_idle => return Over::TimedOut,
            }
            self.gather();
            if was_idle {
                since = Instant::now();
            }
        }
    }

    /// Writes ahead what there is room for; what nobody waits for any more is not begun.
    fn ask(&mut self, program: &mut Program) {
        while program.has_room() && program.asked() < self.waiting.len() {
            let job = &self.waiting[program.asked()];
            if job.verdict.is_closed() {
                self.waiting.remove(program.asked());
            } else {
                program.ask(|out| self.format.add(&job.message, out));
            }
        }
    }

    /// Hands out the verdicts that were said, and counts them. Fails, with what is wrong, on anything else.
    fn settle(&mut self, program: &mut Program) -> Result<usize, String> {
        let mut count = 0;
        while let Some(line) = program.line() {
            if !program.knows_the_question() {
                return Err(unasked(&line));
            }
            let answer = answer::answer(&line, self.captures)
                .ok_or_else(|| format!("the command answered {:?}, not ok, retry or drop", answer::shown(&line)))?;
            self.check_id(&line, answer.id.as_deref())?;
            program.answered();
            let job = self.waiting.pop_front().expect("it was asked");
            // Nobody may be waiting any more.
            let _ = job.verdict.send(answer.verdict);
            count += 1;
        }
        match program.begun_line() {
            begun if program.asked() == 0 && !begun.is_empty() => Err(unasked(begun)),
            _ if program.says_too_much() => {
                Err(format!("the command answered with a line of more than {CAPTURE_LIMIT} bytes"))
            }
            _ => Ok(count),
        }
    }

    /// Fails if the answer is not for the message whose turn it is. Once the command has named a message it has to name each, so
    /// that a stray line is nobody's verdict.
    fn check_id(&mut self, line: &[u8], id: Option<&[u8]>) -> Result<(), String> {
        let next = self.waiting.front().expect("it was asked").message.id;
        match id {
            Some(id) if *id == next.0 || id == next.to_string().as_bytes() => {
                self.names_messages = true;
                Ok(())
            }
            Some(id) => {
                Err(format!("the command answered for message {:?} when it was {next}'s turn", answer::shown(id)))
            }
            None if self.names_messages => {
                Err(format!("the command answered {:?} without the id that it gave before", answer::shown(line)))
            }
            None => Ok(()),
        }
    }

    /// Ends a run that is over. The first message that waits is to blame; those behind it go to the next run.
    async fn see_off(&mut self, mut program: Program, over: Over) {
        let over = match over {
            Over::Closed => program.exit().await.map_or(Over::Closed, Over::Exited),
            over => over,
        };
        let mut why = self.reason(&over);
        if matches!(over, Over::Exited(_)) {
            program.read_rest();
            if let Err(broken) = self.settle(&mut program) {
                why = broken;
            }
        }
        let ended_well = matches!(over, Over::Exited(Ok(status)) if status.success());
        let is_nobodys_fault = nobodys_fault(&program, ended_well);
        if program.answers() > 0 {
            self.backoff.reset();
        }
        program.end().await;
        self.not_before = Instant::now() + self.backoff.next().unwrap_or_default();
        let (command, waiting) = (self.command.program(), self.waiting.len());
        if ended_well {
            tracing::info!(command, waiting, "{why}, and is started again for the next message");
        } else {
            tracing::warn!(command, waiting, "{why}, and is started again for the next message");
        }
        if !is_nobodys_fault && let Some(job) = self.waiting.pop_front() {
            let _ = job.verdict.send(Verdict::retry(why));
        }
    }

    fn reason(&self, over: &Over) -> String {
        match over {
            Over::Exited(Ok(status)) => format!("the command ended: {}", ended(*status)),
            Over::Exited(Err(error)) => format!("cannot wait for the command: {}", why(error)),
            Over::Closed => "the command closed its standard input or output".to_owned(),
            Over::TimedOut => format!("timed out after {}", humantime::format_duration(self.timeout)),
            Over::Broken(why) => why.clone(),
            Over::Closing => "the command is needed no more".to_owned(),
        }
    }

    /// All that waits fails for the same reason.
    fn refuse(&mut self, why: &str) {
        self.gather();
        for job in self.waiting.drain(..) {
            let _ = job.verdict.send(Verdict::retry(why));
        }
    }
}

/// True if the message at whose turn a run was over has nothing to do with that: the command had not even read it, or ended as one does
/// that means to begin afresh from time to time. Never true of a run without an answer, so that runs cannot follow each other for ever.
fn nobodys_fault(program: &Program, ended_well: bool) -> bool {
    program.answers() > 0 && (ended_well || !program.knows_the_question())
}

fn unasked(line: &[u8]) -> String {
    format!("the command said {:?} without having been asked", answer::shown(line))
}
