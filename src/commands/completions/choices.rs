//! Choices for the current word.

use std::any::TypeId;

use clap::Arg;
use mqueue::cluster::QueueTarget;
use mqueue::handler::HandlerSpec;
use mqueue::net::Endpoint;
use mqueue::proto::{ChannelName, TopicName};

use crate::commands::common::context::ContextName;
use crate::commands::common::values::MaybePath;
use crate::commands::stage::args::Hop;

/// The ways to go on with the current word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Completion {
    /// The beginning of the current word that stays as it is: `--stream=`, `file:`.
    pub(super) kept: String,
    pub(super) choices: Choices,
}

/// The rest of the word, after what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choices {
    /// One of these, whether or not they begin like the current word.
    Words(Vec<Choice>),
    /// A file, which the shell completes.
    Files,
    /// A folder, which the shell completes.
    Folders,
}

/// One choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) word: String,
    /// A description of a few words, or nothing.
    pub(super) about: String,
    /// True if more has to follow in the same word, as after `file:`.
    pub(super) is_open: bool,
}

impl Choice {
    pub(super) fn new(word: impl Into<String>, about: impl Into<String>) -> Self {
        Self { word: word.into(), about: about.into(), is_open: false }
    }

    pub(super) fn open(word: impl Into<String>, about: impl Into<String>) -> Self {
        Self { is_open: true, ..Self::new(word, about) }
    }
}

/// The names that exist. Unknown ones are no error: there are no choices.
pub(super) trait KnownNames {
    /// Returns the streams.
    fn streams(&self) -> Vec<TopicName>;
    /// Returns the groups of a stream.
    fn groups(&self, stream: &TopicName) -> Vec<ChannelName>;
    /// Returns the contexts.
    fn contexts(&self) -> Vec<ContextName>;
}

/// Handlers, by the words of `--handler`.
const HANDLERS: [(&str, &str); 9] = [
    ("print", "write the message to stdout"),
    ("exec:", "run a command for each message"),
    ("pipe:", "run one command for all messages"),
    ("http://", "POST the body"),
    ("https://", "POST the body"),
    ("file:", "append to a file, or to files in a folder"),
    ("unix:", "write a line to a stream socket"),
    ("forward:", "publish to another stream"),
    ("sleep:", "only wait: sleep:20ms..50ms"),
];

/// Next hops of a stage, besides streams.
const HOPS: [(&str, &str); 3] =
    [("unix:", "lines to a stream socket"), ("http://", "POST the body"), ("https://", "POST the body")];

/// Addresses of feeds.
const ENDPOINTS: [(&str, &str); 4] =
    [("unix:", "a stream socket"), ("unixgram:", "a datagram socket"), ("tcp:", "HOST:PORT"), ("udp:", "HOST:PORT")];

/// Log levels.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Returns the choices for a value of an argument, of which `typed` is there. `stream` is the
/// stream that the command line names; `kept` precedes the value in its word, as in `--stream=`.
pub(super) fn of_value(
    arg: &Arg,
    kept: &str,
    typed: &str,
    stream: Option<&TopicName>,
    names: &dyn KnownNames,
) -> Completion {
    // of several values the last one is completed
    let last = arg.get_value_delimiter().and_then(|delimiter| typed.rfind(delimiter)).map_or(0, |at| at + 1);
    let (before, typed) = typed.split_at(last);
    let kept = format!("{kept}{before}");
    let words = |choices| Completion { kept: kept.clone(), choices: Choices::Words(choices) };
    let streams = || names.streams().iter().map(|name| Choice::new(name.as_str(), "")).collect::<Vec<_>>();

    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let shown = possible.iter().filter(|value| !value.is_hide_set());
        let about = |value: &clap::builder::PossibleValue| value.get_help().map(ToString::to_string);
        return words(shown.map(|value| Choice::new(value.get_name(), about(value).unwrap_or_default())).collect());
    }
    if is::<TopicName>(arg) {
        return words(streams());
    }
    if is::<ChannelName>(arg) {
        let groups = stream.map(|stream| names.groups(stream)).unwrap_or_default();
        return words(groups.iter().map(|name| Choice::new(name.as_str(), "")).collect());
    }
    if is::<QueueTarget>(arg) {
        return target(&kept, typed, names);
    }
    if is::<ContextName>(arg) {
        return words(names.contexts().iter().map(|name| Choice::new(name.to_string(), "")).collect());
    }
    if is::<HandlerSpec>(arg) {
        return after_scheme(&kept, typed, names).unwrap_or_else(|| words(schemes(&HANDLERS)));
    }
    if is::<Hop>(arg) {
        return after_scheme(&kept, typed, names).unwrap_or_else(|| words([streams(), schemes(&HOPS)].concat()));
    }
    if is::<Endpoint>(arg) {
        return after_scheme(&kept, typed, names).unwrap_or_else(|| words(schemes(&ENDPOINTS)));
    }
    if arg.get_id() == "log" {
        return words(LEVELS.map(|level| Choice::new(level, "")).to_vec());
    }
    match path(arg) {
        Some(choices) => Completion { kept, choices },
        None => words(Vec::new()),
    }
}

fn is<T: 'static>(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<T>()
}

/// Returns files or folders if the value is a path.
fn path(arg: &Arg) -> Option<Choices> {
    let is_path = is::<std::path::PathBuf>(arg) || is::<MaybePath>(arg);
    let id = arg.get_id().as_str();
    let is_folder =
        id == "from" || id.ends_with("dir") || id.ends_with("data_path") || values(arg).any(|name| name == "DIR");
    match is_path {
        true if is_folder => Some(Choices::Folders),
        true => Some(Choices::Files),
        false => None,
    }
}

/// The names of an argument's values in its help.
fn values(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str())
}

fn schemes(known: &[(&str, &str)]) -> Vec<Choice> {
    let choice = |(word, about): &(&str, &str)| match word.ends_with([':', '/']) {
        true => Choice::open(*word, *about),
        false => Choice::new(*word, *about),
    };
    known.iter().map(choice).collect()
}

/// Returns what follows `file:`, `forward:` and the like; `None` if no such word is there.
fn after_scheme(kept: &str, typed: &str, names: &dyn KnownNames) -> Option<Completion> {
    let (scheme, rest) = typed.split_once(':')?;
    let kept = format!("{kept}{scheme}:");
    match scheme {
        // of a command's words the last one may be a file
        "exec" | "pipe" => {
            let last = rest.rfind(' ').map_or(0, |at| at + 1);
            Some(Completion { kept: kept + &rest[..last], choices: Choices::Files })
        }
        "file" | "unix" | "unixgram" => Some(Completion { kept, choices: Choices::Files }),
        "forward" => {
            let streams = names.streams().iter().map(|name| Choice::new(name.as_str(), "")).collect();
            Some(Completion { kept, choices: Choices::Words(streams) })
        }
        _ => Some(Completion { kept, choices: Choices::Words(Vec::new()) }),
    }
}

/// Returns the choices for `STREAM[/GROUP]`: each stream, as it is and with the slash before a
/// group, and after the slash groups.
fn target(kept: &str, typed: &str, names: &dyn KnownNames) -> Completion {
    match typed.split_once('/') {
        None => {
            let both = |name: &TopicName| [Choice::new(name.as_str(), ""), Choice::open(format!("{name}/"), "")];
            let choices = names.streams().iter().flat_map(both).collect();
            Completion { kept: kept.to_owned(), choices: Choices::Words(choices) }
        }
        Some((stream, _)) => {
            let groups = stream.parse().map(|stream| names.groups(&stream)).unwrap_or_default();
            let choices = groups.iter().map(|name| Choice::new(name.as_str(), "")).collect();
            Completion { kept: format!("{kept}{stream}/"), choices: Choices::Words(choices) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handler_is_a_choice() {
        let refused = "no-such-handler".parse::<HandlerSpec>().unwrap_err().to_string();
        let (_, known) = refused.split_once("use ").unwrap();
        let schemes = |word: &str| word.split_inclusive([':', '.']).next().map(str::to_owned).unwrap();
        for known in known.replace(" or ", ", ").split(", ") {
            let scheme = schemes(known);
            assert!(HANDLERS.iter().any(|(word, _)| word.starts_with(&scheme)), "{known} is no choice");
        }
        assert_eq!(known.replace(" or ", ", ").split(", ").count(), HANDLERS.len());
    }

    #[test]
    fn levels_are_those_of_log() {
        for level in LEVELS {
            assert!(crate::commands::common::values::log_filter(level).is_ok(), "{level}");
        }
    }
}
