//! The plan of a run, resolved from the flags: the source of messages, and their pace.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::reader;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::producer::args::{Args, Delimiter};

/// The default time between generated events.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// The plan of a run.
#[derive(Debug)]
pub(super) struct ProducerPlan {
    pub(super) from: InputSource,
    pub(super) pace: ProducerPace,
    /// Limit on the number of messages.
    pub(super) count: Option<u64>,
    pub(super) duration: Option<Duration>,
}

/// The source of messages.
#[derive(Debug)]
pub(super) enum InputSource {
    /// Generated events.
    Events {
        /// Number of concurrent sequences.
        tasks: u32,
        /// Keys in each payload.
        keys: u32,
    },
    /// Input files.
    Files {
        /// Paths; `-` is stdin.
        paths: Vec<PathBuf>,
        /// Delimiter of records; `None`: a file is one record.
        delimiter: Option<Bytes>,
        /// The longest record, in bytes.
        max_record: usize,
        /// Bytes of all files, if known.
        length: Option<u64>,
    },
}

/// The pace of messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ProducerPace {
    /// One by one, with this interval, each after the last is acknowledged.
    OneByOne(Duration),
    /// On a schedule, with this many messages a second.
    Rate(f64),
    /// Bulk: as fast as the in-flight limit allows.
    Bulk,
}

impl ProducerPlan {
    /// Resolves the flags. Fails if an input cannot be read.
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let mut paths: Vec<PathBuf> = args.inputs.iter().chain(&args.input.files).cloned().collect();
        if paths.is_empty() && stdin_is_the_input(args) {
            paths.push(reader::STDIN.into());
        }
        let from = match paths.is_empty() {
            true => InputSource::Events {
                tasks: args.events.tasks.unwrap_or(1),
                keys: args.events.payload_keys.unwrap_or(0),
            },
            false => files(args, paths)?,
        };
        let pace = match (args.pace.rate, args.pace.interval, &from) {
            (Some(rate), _, _) => ProducerPace::Rate(rate),
            (None, Some(Duration::ZERO) | None, InputSource::Files { .. }) => ProducerPace::Bulk,
            (None, interval, _) => ProducerPace::OneByOne(interval.unwrap_or(DEFAULT_INTERVAL)),
        };
        Ok(Self { from, pace, count: args.pace.count, duration: args.pace.duration })
    }
}

/// Returns true if there is no FILE, and stdin takes its place: stdin is a pipe, a file or a
/// connection, and no flag asks for generated events. Logs which source is used in that case.
fn stdin_is_the_input(args: &Args) -> bool {
    let Some(stdin) = reader::redirected_stdin() else { return false };
    match asks_for_events(args) {
        Some(flag) => {
            tracing::warn!(
                "stdin is a {stdin} and is not read: {flag} asks for generated events. To publish stdin, add -"
            );
            false
        }
        None => {
            tracing::info!("publishing stdin, a {stdin} (add --generate for generated events instead)");
            true
        }
    }
}

/// Names the first flag, also if it comes from the environment, that asks for generated events
/// where no FILE is named.
fn asks_for_events(args: &Args) -> Option<&'static str> {
    let Args { pace, events, .. } = args;
    let flags = [
        (events.generate, "--generate"),
        (events.tasks.is_some(), "--tasks"),
        (events.payload_keys.is_some(), "--payload-keys"),
        (pace.count.is_some(), "--count"),
        (pace.rate.is_some(), "--rate"),
        (pace.interval.is_some(), "--interval"),
        (pace.duration.is_some(), "--duration"),
    ];
    flags.into_iter().find_map(|(asks, flag)| asks.then_some(flag))
}

fn files(args: &Args, paths: Vec<PathBuf>) -> Result<InputSource, Failure> {
    if args.events.tasks.is_some() || args.events.payload_keys.is_some() {
        tracing::warn!("--tasks and --payload-keys are for generated events, and have no effect on files and stdin");
    }
    let length = reader::check(&paths).map_err(|line| Failure::new(Exit::Failure, line))?;
    let delimiter = if args.input.null { Delimiter::NULL } else { args.input.delimiter.clone() };
    let delimiter = (!args.input.whole_file).then(|| Bytes::copy_from_slice(delimiter.as_bytes()));
    Ok(InputSource::Files { paths, delimiter, max_record: args.input.max_record as usize, length })
}
