//! The hops as child processes, and their reports.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::mpsc::UnboundedSender;

use super::GROUP;
use crate::commands::common::child_process::{self, ChildProcess};
use crate::commands::pipeline::args::Args;
use crate::commands::send::args::Rate;
use mqueue::proto::TopicName;

/// An event reported by a hop.
#[derive(Debug)]
pub(super) enum HopEvent {
    /// A hop is ready.
    Ready,
    /// A line of ingest's report.
    Ingested(IngestReport),
    /// A line of a stage's report; stages count from 0.
    Passed(usize, StageReport),
    /// A hop has ended.
    Gone(String),
    /// The sender's final report.
    Sent(SenderReport),
    /// A log line for people.
    Said(String),
}

/// The fields used of ingest's report.
#[derive(Debug, Deserialize)]
pub(super) struct IngestReport {
    pub(super) published: u64,
    pub(super) latency_ms: Option<HopQuantiles>,
}

/// The fields used of a stage's report.
#[derive(Debug, Deserialize)]
pub(super) struct StageReport {
    pub(super) passed: u64,
    pub(super) dead: u64,
    pub(super) in_flight: u32,
    pub(super) latency_ms: Option<HopQuantiles>,
}

/// The fields used of the sender's report.
#[derive(Debug, Deserialize)]
pub(super) struct SenderReport {
    pub(super) sent: u64,
    pub(super) sent_again: u64,
    pub(super) late_ms: Option<HopQuantiles>,
}

/// Quantiles of a report, in milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct HopQuantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// The child processes of a run.
#[derive(Debug)]
pub(super) struct Hops {
    program: PathBuf,
    socket: String,
    events: UnboundedSender<HopEvent>,
    ingest: ChildProcess,
    stages: Vec<ChildProcess>,
    sender: Option<ChildProcess>,
}

/// Returns the time that stage `n` (from 0) works on a message.
pub(super) fn work(args: &Args, n: u8) -> Duration {
    args.work.get(usize::from(n)).or(args.work.last()).copied().unwrap_or_default()
}

/// Returns about twice the concurrency that the rate needs, so that a backlog can be worked off.
fn concurrency(rate: Rate, work: Duration) -> u32 {
    match rate {
        Rate::Fixed(rate) => ((2.0 * rate * work.as_secs_f64()).ceil() as u32).saturating_add(10).min(2000),
        Rate::Max => 1000,
    }
}

impl Hops {
    /// Starts all hops but the sender. `nsqd` are the flags that name nsqd and how to connect.
    pub(super) fn start(
        args: &Args,
        nsqd: &[String],
        folder: &Path,
        streams: &[TopicName],
        events: UnboundedSender<HopEvent>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let socket = format!("unix:{}", folder.join("feed.sock").display());
        let mut ingest = vec!["ingest", "--listen", &socket, "--to", streams[0].as_str()];
        ingest.extend(["--report", "json"]);
        ingest.extend(nsqd.iter().map(String::as_str));
        let ingest = hop(&program, &ingest, "listening on", &events, HopEvent::Ingested)?;
        let stages = (0..args.stages).map(|n| {
            let at = usize::from(n);
            let work = work(args, n);
            let (handler, at_once) =
                (format!("sleep:{}us", work.as_micros()), concurrency(args.rate, work).to_string());
            let mut stage = vec!["stage", "--from", streams[at].as_str(), "--to", streams[at + 1].as_str()];
            stage.extend(["--group", GROUP, "--expect", "message", "--report", "json"]);
            stage.extend(nsqd.iter().map(String::as_str));
            if !work.is_zero() {
                stage.extend(["--handler", &handler, "--concurrency", &at_once]);
            }
            hop(&program, &stage, "consuming", &events, move |line| HopEvent::Passed(at, line))
        });
        let stages = stages.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { program, socket, events, ingest, stages, sender: None })
    }

    /// Returns the number of hops without the sender.
    pub(super) fn count(&self) -> usize {
        1 + self.stages.len()
    }

    /// Starts the sender.
    pub(super) fn send(&mut self, args: &Args) -> anyhow::Result<()> {
        let (rate, count) = (args.rate.to_string(), args.count.to_string());
        let send = ["send", "--to", &self.socket, "--rate", &rate, "--count", &count, "--report", "json"];
        self.sender = Some(hop(&self.program, &send, "\0", &self.events, HopEvent::Sent)?);
        Ok(())
    }

    /// Stops all hops, in the direction of the messages.
    pub(super) async fn end(self) {
        for hop in self.sender.into_iter().chain([self.ingest]).chain(self.stages) {
            hop.end().await;
        }
    }
}

/// Starts a hop; sends `Ready` once a log line contains `ready`, and an event for each line of its
/// report.
fn hop<L: for<'a> Deserialize<'a>>(
    program: &Path,
    args: &[&str],
    ready: &'static str,
    events: &UnboundedSender<HopEvent>,
    event: impl Fn(L) -> HopEvent + Send + 'static,
) -> anyhow::Result<ChildProcess> {
    let mut command = child_process::command(Command::new(program), args);
    command.stderr(Stdio::piped());
    let mut running = ChildProcess::start(command)?;
    let gone_notice = GoneNotice { events: events.clone(), name: args[0].to_owned() };
    running.each_line_of_stdout(move |line| {
        if let Ok(line) = serde_json::from_str(line) {
            let _ = gone_notice.events.send(event(line));
        }
    });
    let sender = events.clone();
    running.each_line_of_stderr(move |line| {
        let event = match line.contains(" INFO ") {
            true if line.contains(ready) => HopEvent::Ready,
            true => return,
            false => HopEvent::Said(line.to_owned()),
        };
        let _ = sender.send(event);
    });
    Ok(running)
}

/// Sends `Gone` when dropped, at the end of a hop's stdout.
struct GoneNotice {
    events: UnboundedSender<HopEvent>,
    name: String,
}

impl Drop for GoneNotice {
    fn drop(&mut self) {
        let _ = self.events.send(HopEvent::Gone(std::mem::take(&mut self.name)));
    }
}
