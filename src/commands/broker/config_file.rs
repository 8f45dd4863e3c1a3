//! nsqd's configuration file: TOML, with the names of flags in other spelling (`data_path` for
//! `--data-path`).

use std::ffi::OsString;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::go_flags::{is_answered_by_clap, takes_value};
use crate::commands::common::exit::{Exit, Failure};
use mqueue::io_error::describe;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// nsqd's keys that are not a flag's name with underscores.
const OTHER_KEYS: [(&str, &str); 4] = [
    ("id", "node-id"),
    ("nsqlookupd_tcp_addresses", "lookupd-tcp-address"),
    ("auth_http_addresses", "auth-http-address"),
    ("e2e_processing_latency_percentiles", "e2e-processing-latency-percentile"),
];

/// Flags that a file cannot set.
const ONLY_FLAGS: [&str; 2] = ["config", "log"];

/// The settings of a file, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ConfigFile {
    pub(super) settings: Vec<Setting>,
    /// One line for each key that is not known.
    pub(super) warnings: Vec<String>,
}

/// A setting, as arguments of the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The id of clap's argument.
    pub(super) id: String,
    pub(super) words: Vec<OsString>,
}

impl ConfigFile {
    /// Reads the file; `command` is `mqueue broker` with its flags.
    ///
    /// # Errors
    /// A file that cannot be read, that is not TOML, or that has a value that its flag refuses:
    /// names the line.
    pub(super) fn read(path: &Path, command: &Command) -> Result<Self, Failure> {
        let refused = |why: String| Failure::new(Exit::Usage, format!("--config {}: {why}", path.display()));
        let text = read_text(path).map_err(|error| refused(describe(&error)))?;
        Self::parse(&text, command).map_err(|(line, why)| {
            Failure::new(Exit::Usage, format!("{}:{line}: {}", path.display(), why.trim().replace('\n', ": ")))
        })
    }

    /// Fails with the line and the reason.
    fn parse(text: &str, command: &Command) -> Result<Self, (usize, String)> {
        let line = |span: Range<usize>| text.as_bytes()[..span.start].iter().filter(|byte| **byte == b'\n').count() + 1;
        let table = DeTable::parse(text)
            .map_err(|error| (line(error.span().unwrap_or(0..0)), error.message().to_owned()))?
            .into_inner();
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut file = Self::default();
        for (key, value) in entries {
            let (at, key) = (line(key.span()), key.into_inner());
            match flag(&key, command) {
                None => file.warnings.push(unknown(&key, at, command)),
                Some(arg) => {
                    let words = words(arg, value).and_then(|words| checked(words, command));
                    let words = words.map_err(|why| (at, format!("{key}: {why}")))?;
                    file.settings.push(Setting { id: arg.get_id().to_string(), words });
                }
            }
        }
        Ok(file)
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("the file is longer than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// Returns the flag of a key.
fn flag<'a>(key: &str, command: &'a Command) -> Option<&'a Arg> {
    let other = OTHER_KEYS.iter().find(|(other, _)| *other == key);
    let name = other.map_or_else(|| key.replace('_', "-"), |(_, flag)| (*flag).to_owned());
    let is_other = OTHER_KEYS.iter().any(|(_, flag)| *flag == name);
    if key.contains('-') || ONLY_FLAGS.contains(&name.as_str()) || (is_other && other.is_none()) {
        return None;
    }
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name.as_str()))?;
    (!is_answered_by_clap(arg)).then_some(arg)
}

/// The key that sets a flag.
fn key_of(flag: &str) -> String {
    let other = OTHER_KEYS.iter().find(|(_, of)| *of == flag);
    other.map_or_else(|| flag.replace('-', "_"), |(key, _)| (*key).to_owned())
}

/// The warning about an unknown key, with the key that is meant if one is similar. nsqd ignores it
/// without a word.
fn unknown(key: &str, line: usize, command: &Command) -> String {
    let name = key.replace('_', "-");
    let similar = match OTHER_KEYS.iter().any(|(_, flag)| *flag == name) {
        true => Some(name),
        false => command.clone().try_get_matches_from(["", &format!("--{name}")]).err().and_then(|error| {
            match error.get(ContextKind::SuggestedArg) {
                Some(ContextValue::String(flag)) => Some(flag.trim_start_matches('-').to_owned()),
                _ => None,
            }
        }),
    };
    let hint = similar.map(|flag| format!("; is {} meant?", key_of(&flag))).unwrap_or_default();
    format!("line {line}: unknown key {key:?} has no effect{hint}")
}

/// The arguments that set a flag to a value of the file. Fails with the reason.
fn words(arg: &Arg, value: Spanned<DeValue<'_>>) -> Result<Vec<OsString>, String> {
    let long = arg.get_long().unwrap_or_default();
    let word = |value: &DeValue<'_>| Ok(OsString::from(format!("--{long}={}", text(arg, value)?)));
    match value.into_inner() {
        DeValue::Boolean(value) if !takes_value(arg) => {
            Ok(if value { vec![format!("--{long}").into()] } else { Vec::new() })
        }
        DeValue::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
            values.iter().map(|value| word(value.get_ref())).collect()
        }
        value => Ok(vec![word(&value)?]),
    }
}

/// The text of a value on the command line. A number for a duration is in milliseconds, as in nsqd.
fn text(arg: &Arg, value: &DeValue<'_>) -> Result<String, String> {
    let is =
        |names: &[&str]| arg.get_value_names().unwrap_or_default().iter().any(|name| names.contains(&name.as_str()));
    let needs_text = is(&["PATH", "HOST", "HOST:PORT", "ADDRESS", "TEXT", "PREFIX"]);
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if !needs_text => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            let number = number.map_err(|_| "the number is too large".to_owned())?;
            Ok(if is(&["DURATION"]) { format!("{number}ms") } else { number.to_string() })
        }
        DeValue::Float(number) if !needs_text => Ok(number.as_str().to_owned()),
        DeValue::Boolean(value) if !needs_text => Ok(value.to_string()),
        _ if needs_text => Err("use text in quotes".to_owned()),
        _ => Err("use one text, number or boolean".to_owned()),
    }
}

/// Asks the flag whether it takes the values.
fn checked(words: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, String> {
    let typed = std::iter::once(OsString::new()).chain(words.iter().cloned());
    match command.clone().try_get_matches_from(typed) {
        Ok(_) => Ok(words),
        Err(error) => Err(reason(&error)),
    }
}

/// clap's error in one line.
pub(super) fn reason(error: &clap::Error) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => format!("invalid value {value:?}: "),
        _ => String::new(),
    };
    let source = std::error::Error::source(error).map(ToString::to_string);
    let rendered = error.render().to_string();
    let first = || rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    source.map_or_else(first, |source| format!("{value}{source}"))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::commands::cli::whole_command_line;

    fn parse(text: &str) -> Result<ConfigFile, (usize, String)> {
        let cli = whole_command_line();
        ConfigFile::parse(text, cli.find_subcommand("broker").unwrap())
    }

    fn words_of(text: &str) -> Vec<String> {
        let settings = parse(text).unwrap().settings;
        settings.into_iter().flat_map(|setting| setting.words).map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn values_are_read_as_nsqd_reads_them() {
        for (text, words) in [
            ("data_path = \"/var/lib/nsq\"", &["--data-path=/var/lib/nsq"][..]),
            ("id = 7", &["--node-id=7"]),
            ("id = \"7\"", &["--node-id=7"]),
            ("max_msg_size = 0x100000", &["--max-msg-size=1048576"]),
            ("msg_timeout = \"1m30s\"", &["--msg-timeout=1m30s"]),
            ("msg_timeout = 1500", &["--msg-timeout=1500ms"]),
            ("tls_required = false", &["--tls-required=false"]),
            ("tls_required = \"tcp-https\"", &["--tls-required=tcp-https"]),
            ("snappy = \"0\"\ndeflate = false", &["--snappy=0", "--deflate=false"]),
            (
                "nsqlookupd_tcp_addresses = [\"a:1\", \"b:2\"]",
                &["--lookupd-tcp-address=a:1", "--lookupd-tcp-address=b:2"],
            ),
            ("nsqlookupd_tcp_addresses = \"a:1,b:2\"", &["--lookupd-tcp-address=a:1,b:2"]),
            ("nsqlookupd_tcp_addresses = []", &[]),
            ("memory = true", &["--memory=true"]),
            ("memory = false", &["--memory=false"]),
            (
                "http_address = \"\"\ntls_cert = \"\"\ntls_min_version = \"\"",
                &["--http-address=", "--tls-cert=", "--tls-min-version="],
            ),
            ("log_level = \"WARN\"", &["--log-level=WARN"]),
        ] {
            assert_eq!(words_of(text), words, "{text}");
        }
    }

    #[test]
    fn an_error_names_its_line() {
        for (text, line, why) in [
            ("# a comment\nmsg_timeout = \"60\"", 2, "msg_timeout: invalid value \"60\": say the unit: 60s, 60ms"),
            ("tcp_address = 4150", 1, "tcp_address: use text in quotes"),
            ("data_path = true", 1, "data_path: use text in quotes"),
            ("max_rdy_count = 1.5", 1, "max_rdy_count: invalid value \"1.5\": use a whole number from 0 to 4294967295"),
            ("id = 1024", 1, "id: invalid value \"1024\": use a whole number from 0 to 1023"),
            ("max_rdy_count = [1]", 1, "max_rdy_count: use one text, number or boolean"),
            ("deflate = 1979-05-27", 1, "deflate: use one text, number or boolean"),
            ("sync_every = \"often\"", 1, "sync_every: invalid value \"often\": use a whole number of at least 0"),
        ] {
            assert_eq!(parse(text).unwrap_err(), (line, why.to_owned()), "{text}");
        }
        let (line, why) = parse("id = 1\n\ndata_path = /var").unwrap_err();
        assert!(line == 3 && !why.is_empty() && !why.contains('\n'), "{line}: {why}");
        assert_eq!(parse("id = 1\nid = 2").unwrap_err().0, 2);
    }

    #[test]
    fn unknown_keys_are_named_with_the_one_that_is_meant() {
        for (text, warning) in [
            ("msg_timout = \"60s\"", "line 1: unknown key \"msg_timout\" has no effect; is msg_timeout meant?"),
            ("\nnode_id = 1", "line 2: unknown key \"node_id\" has no effect; is id meant?"),
            ("data-path = \"x\"", "line 1: unknown key \"data-path\" has no effect"),
            ("config = \"x\"", "line 1: unknown key \"config\" has no effect"),
            ("[zzzzzz]\nid = 1", "line 1: unknown key \"zzzzzz\" has no effect"),
        ] {
            let file = parse(text).unwrap();
            assert!(file.settings.is_empty(), "{text}");
            assert!(matches!(&file.warnings[..], [only] if only.starts_with(warning)), "{text}: {:?}", file.warnings);
        }
    }
}
