//! `mqueue broker import`: takes over the queues of an nsqd.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::go_flags::go_whole;
use super::nsqd_args::default_node_id;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::stdout;
use crate::commands::common::text_table::TextTable;
use mqueue::broker::import::{ImportReport, ImportedQueue, has_nsqd_files, import};
use mqueue::broker::log::{DiskLog, LogOptions};
use mqueue::plural::count;
use mqueue::wake::shell_commands::shell;

/// Import the topics, channels and messages of an nsqd
///
/// Reads the data folder of an nsqd that was stopped, and writes a new log for `mqueue broker`. The
/// folder is not changed. An import that was interrupted is not taken for a log: run it again. Exit
/// code 1: something could not be read, and stderr says what; the rest was imported.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct ImportArgs {
    /// Data folder of nsqd, its --data-path
    #[arg(long, value_name = "PATH")]
    pub from: PathBuf,

    /// Folder of the log; created if missing
    #[arg(
        long,
        env = "MQUEUE_DATA_PATH",
        value_name = "PATH",
        overrides_with = "data_path",
        default_value = "mqueue-data"
    )]
    pub data_path: PathBuf,

    /// The broker's --node-id, for which messages keep their ids [default: a hash of the host name]
    #[arg(long, value_name = "N", value_parser = go_whole::<u16>(0..=1023))]
    pub node_id: Option<u16>,

    /// Print one JSON document [default: false]
    #[arg(long)]
    pub json: bool,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct JsonReport<'a> {
    data_path: String,
    messages: u64,
    bytes: u64,
    topics: Vec<JsonTopic<'a>>,
    problems: Vec<String>,
}

/// A topic as JSON; its messages are those that no channel has yet.
#[derive(Debug, Serialize)]
struct JsonTopic<'a> {
    topic: &'a str,
    paused: bool,
    messages: u64,
    bytes: u64,
    channels: Vec<JsonChannel<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonChannel<'a> {
    channel: &'a str,
    paused: bool,
    messages: u64,
    bytes: u64,
}

/// Runs the import.
pub(crate) async fn run(args: &ImportArgs) -> anyhow::Result<Exit> {
    let node_id = args.node_id.unwrap_or_else(default_node_id);
    let imported = import(&args.from, &LogOptions::new(&args.data_path), node_id).await;
    let report = imported.map_err(|error| Failure::new(Exit::Failure, error))?;
    report.notes().for_each(|note| tracing::warn!("{note}"));
    report.problems().for_each(|problem| tracing::error!("{problem}"));
    let text = match args.json {
        true => serde_json::to_string(&json(&report, &args.data_path))? + "\n",
        false => format!("{}\nnext: mqueue broker --data-path={}\n", table(&report), word(&args.data_path)),
    };
    stdout::print(&text)?;
    Ok(if report.problems().next().is_some() { Exit::Failure } else { Exit::Success })
}

/// Refuses to run a broker in nsqd's folder, whose messages it would ignore; only warns if the
/// folder has a log, too.
///
/// # Errors
/// Fails with a line that has the command for the import.
pub(super) fn check_data_path(path: &Path) -> Result<(), Failure> {
    if !has_nsqd_files(path) {
        return Ok(());
    }
    let other = match path.file_name() {
        Some(name) => path.with_file_name(format!("{}-mqueue", name.to_string_lossy())),
        None => PathBuf::from("../mqueue-data"),
    };
    let command = format!("mqueue broker import --from={} --data-path={}", word(path), word(&other));
    let has_log = DiskLog::exists(path);
    let path = path.display();
    if has_log {
        tracing::warn!("{path} has queues of nsqd besides the log; they are not read: {command}");
        return Ok(());
    }
    let line =
        format!("{path} has queues of nsqd, which a broker does not read: stop nsqd, and import them: {command}");
    Err(Failure::new(Exit::Failure, line))
}

/// The path as a word of a shell command; a placeholder if it cannot be shown in one line.
pub(super) fn word(path: &Path) -> String {
    let shown = path.to_str().filter(|path| !path.contains(char::is_control));
    shown.map_or_else(|| "PATH".to_owned(), shell)
}

/// The queues, one a line.
fn table(report: &ImportReport) -> String {
    let mut table = TextTable::new(["topic", "channel", "messages", "bytes", ""]).with_text_in(1).with_text_in(4);
    let mut row = |topic: &str, channel: &str, queue: ImportedQueue, paused: bool| {
        let state = if paused { "paused" } else { "" };
        let [topic, channel, state] = [topic, channel, state].map(str::to_owned);
        table.row([topic, channel, queue.messages.to_string(), queue.bytes.to_string(), state]);
    };
    for topic in &report.topics {
        row(topic.name.as_str(), "", topic.queue, topic.paused);
        for channel in &topic.channels {
            row(topic.name.as_str(), channel.name.as_str(), channel.queue, channel.paused);
        }
    }
    row("total", "", report.total(), false);
    let mut text = table.text();
    let problems = report.problems().count();
    if problems > 0 {
        let _ = writeln!(text, "{}: see above", count(problems as u64, "problem"));
    }
    text
}

fn json<'a>(report: &'a ImportReport, data_path: &Path) -> JsonReport<'a> {
    let total = report.total();
    let topics = report.topics.iter().map(|topic| JsonTopic {
        topic: topic.name.as_str(),
        paused: topic.paused,
        messages: topic.queue.messages,
        bytes: topic.queue.bytes,
        channels: topic
            .channels
            .iter()
            .map(|channel| JsonChannel {
                channel: channel.name.as_str(),
                paused: channel.paused,
                messages: channel.queue.messages,
                bytes: channel.queue.bytes,
            })
            .collect(),
    });
    JsonReport {
        data_path: data_path.display().to_string(),
        messages: total.messages,
        bytes: total.bytes,
        topics: topics.collect(),
        problems: report.problems().collect(),
    }
}
