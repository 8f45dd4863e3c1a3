//! `mqueue doctor`: finds common problems around sleeping consumers, and the commands that fix
//! them.
//!
//! ```text
//!  probe (brokers, folders, systemd) ─▶ Observed ─▶ check ─▶ findings ─▶ lines, or JSON, and the exit code
//! ```
//!
//! Probing changes nothing and wakes no consumer; the checks are pure, one module per subject.

pub(crate) mod args;
mod brokers;
mod certificates;
mod dead_letters;
mod finding;
mod log;
mod observed;
mod plain_clients;
mod probe;
mod queues;
mod secrets;
mod sockets;
mod ungrouped;
mod units;

use std::io::{self, Write};

use self::finding::{DoctorReport, Finding, Level};
use self::observed::{Observed, ProbedTcp};
use super::common::exit::Exit;
use super::common::stdout;
use crate::commands::doctor::args::Args;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let observed = probe::run_all(&args).await;
    let report = DoctorReport::new(check(&observed));
    stdout::ended(print(&report, args.json))?;
    Ok(exit(&observed, report.worst))
}

/// Runs all checks.
fn check(observed: &Observed) -> Vec<Finding> {
    let subjects = [
        brokers::check,
        certificates::check,
        plain_clients::check,
        secrets::check,
        queues::check,
        dead_letters::check,
        sockets::check,
        units::check,
        ungrouped::skipped_starts,
    ];
    subjects.iter().flat_map(|check| check(observed)).collect()
}

fn print(report: &DoctorReport, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::to_string(report).expect("its fields are text"))?,
        false => report.findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?,
    }
    out.flush()
}

/// Returns the exit code; no broker at all has its own, as in the other commands.
fn exit(observed: &Observed, worst: Level) -> Exit {
    let answers = |tcp: &ProbedTcp| tcp.answer.as_ref().map_or_else(|failure| failure.is_refusal, |_| true);
    let nsqd = observed.http.iter().any(|http| http.answer.is_ok()) || observed.tcp.iter().any(answers);
    match worst {
        _ if !nsqd && !observed.lookupds.iter().any(|lookupd| lookupd.answer.is_ok()) => Exit::Unavailable,
        Level::Ok | Level::Skipped => Exit::Success,
        Level::Warning => Exit::Warnings,
        Level::Error => Exit::Errors,
    }
}
