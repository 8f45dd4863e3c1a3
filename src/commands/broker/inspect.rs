//! `mqueue broker verify` and `mqueue broker backup`: the log of a broker that may be running.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::import::word;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::{open_files, stdout};
use mqueue::broker::log::{self, Damage, DiskLog, RecoveryReport, Torn};
use mqueue::plural::count;

/// Verify every checksum of a log, and name the damaged places
///
/// Reads the log as `mqueue broker` would at its start, and changes nothing. The broker may be
/// running. What to do about damage: docs/recovery.md. Exit code 1: something is damaged or
/// missing.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct VerifyArgs {
    /// Folder of the log, the broker's --data-path, or a backup
    #[arg(value_name = "PATH", env = "MQUEUE_DATA_PATH", default_value = "mqueue-data")]
    pub path: PathBuf,

    /// Print one JSON document [default: false]
    #[arg(long)]
    pub json: bool,
}

/// Copy the log, as it is at one moment, while the broker runs
///
/// Every checksum of the copy is verified. It appears under its name when it is complete and
/// synced, and is private (0700). The broker is not stopped, and does not wait for it. To restore,
/// start a broker with a copy of the backup as its --data-path. Exit code 1: no backup, or a backup
/// of a damaged log.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct BackupArgs {
    /// New folder of the copy; empty, or created with its parents
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// Folder of the log
    #[arg(
        long,
        env = "MQUEUE_DATA_PATH",
        value_name = "PATH",
        overrides_with = "data_path",
        default_value = "mqueue-data"
    )]
    pub data_path: PathBuf,

    /// Print one JSON document [default: false]
    #[arg(long)]
    pub json: bool,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct LogReport<'a> {
    path: String,
    segments: u32,
    bytes: u64,
    messages: u64,
    seconds: f64,
    sound: bool,
    damage: Vec<LogDamage<'a>>,
}

/// A damaged place as JSON.
#[derive(Debug, Serialize)]
struct LogDamage<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u64>,
}

/// Verifies a log.
pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    open_files::raise_limit();
    let report = log::verify(&args.path).map_err(|error| Failure::new(Exit::Failure, error))?;
    if report.segments == 0 {
        return Err(no_log(&args.path).into());
    }
    problems(&report).for_each(|problem| tracing::error!("{problem}"));
    report.warnings().for_each(|warning| tracing::warn!("{warning}"));
    print(&report, &args.path, args.json, "sound")
}

/// Copies a log.
pub(crate) fn backup(args: &BackupArgs) -> anyhow::Result<Exit> {
    open_files::raise_limit();
    if !DiskLog::exists(&args.data_path) {
        return Err(no_log(&args.data_path).into());
    }
    let report = log::backup(&args.data_path, &args.to).map_err(|error| Failure::new(Exit::Failure, error))?;
    problems(&report).for_each(|problem| tracing::error!("{problem}"));
    let exit = print(&report, &args.to, args.json, "copied and verified")?;
    if !args.json {
        stdout::print(&format!("to run it: mqueue broker --data-path={}\n", word(&args.to)))?;
    }
    Ok(exit)
}

fn no_log(path: &Path) -> Failure {
    Failure::new(Exit::Failure, format!("{} has no log: give the --data-path of a broker", path.display()))
}

fn is_sound(report: &RecoveryReport) -> bool {
    !report.is_damaged() && report.torn.is_empty()
}

fn print(report: &RecoveryReport, path: &Path, json: bool, done: &str) -> anyhow::Result<Exit> {
    let RecoveryReport { segments, bytes, messages, took, .. } = report;
    let places = report.damage.len() + report.torn.len();
    let text = if json {
        let (path, seconds) = (path.display().to_string(), took.as_secs_f64());
        let (segments, bytes, messages, sound) = (*segments, *bytes, *messages, is_sound(report));
        let damage = report.torn.iter().map(torn_json).chain(report.damage.iter().map(damage_json)).collect();
        serde_json::to_string(&LogReport { path, segments, bytes, messages, seconds, sound, damage })? + "\n"
    } else {
        let result = if places == 0 { done.to_owned() } else { format!("{} damaged", count(places as u64, "place")) };
        let (segments, messages) = (count(u64::from(*segments), "segment"), count(*messages, "message"));
        format!("{}: {segments}, {:.1} MB, {messages}: {result}\n", path.display(), *bytes as f64 / 1e6)
    };
    stdout::print(&text)?;
    Ok(if places == 0 { Exit::Success } else { Exit::Failure })
}

/// A line for each problem.
fn problems(report: &RecoveryReport) -> impl Iterator<Item = String> {
    let torn = report.torn.iter().map(|Torn { segment, bytes }| {
        format!(
            "{segment:010}.log: the last {} no whole record: an interrupted write, or damaged messages, which may \
             have been acknowledged; the broker's next start cuts them off, and keeps them in {segment:010}.log.torn",
            if *bytes == 1 { "byte is".to_owned() } else { format!("{} are", count(*bytes, "byte")) }
        )
    });
    let damage = report.damage.iter().map(|damage| match damage {
        Damage::Bytes { segment, range } => {
            format!(
                "{segment:010}.log is damaged from byte {} to {}: messages may be lost or come again; check the disk",
                range.start, range.end
            )
        }
        Damage::Missing { .. } | Damage::Unknown { .. } => damage.to_string(),
    });
    torn.chain(damage)
}

fn torn_json(torn: &Torn) -> LogDamage<'_> {
    let file = Some(format!("{:010}.log", torn.segment));
    LogDamage { kind: "torn_end", file, from: None, to: None, topic: None, messages: None }
}

fn damage_json(damage: &Damage) -> LogDamage<'_> {
    let none = LogDamage { kind: "", file: None, from: None, to: None, topic: None, messages: None };
    let file = |segment: &u32| Some(format!("{segment:010}.log"));
    match damage {
        Damage::Bytes { segment, range } => {
            LogDamage { kind: "bytes", file: file(segment), from: Some(range.start), to: Some(range.end), ..none }
        }
        Damage::Missing { segment } => LogDamage { kind: "missing", file: file(segment), ..none },
        Damage::Unknown { name, messages, .. } => LogDamage {
            kind: "unknown_topic",
            topic: name.as_ref().map(mqueue::proto::TopicName::as_str),
            messages: Some(*messages),
            ..none
        },
    }
}
