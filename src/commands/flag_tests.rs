//! Checks that a flag, and an environment variable, has one meaning over all commands.

use std::collections::BTreeMap;

use super::cli::whole_command_line;
use clap::error::ErrorKind;
use clap::{Arg, Command};

/// Flags of one name that differ between commands, with the reason.
const DIFFERENT: [(&str, &str); 11] = [
    ("count", "peek, tail: -n for short, as tail(1) has it, and no variable"),
    ("from", "stage: a stream; broker import: nsqd's folder; replay: a time; bridge: a stream or a list"),
    ("listen", "ingest reads a feed on sockets of four kinds, the others serve HTTP on TCP"),
    ("in-flight", "peek: the messages in flight; worker: how many jobs may be"),
    ("to", "the next hop: a stream, a socket, or either; record: a folder"),
    ("output", "consumer: the format of messages; bench: the format of the report"),
    ("report", "a command that reports each second has no `none`"),
    ("deflate", "broker: offers it, as nsqd's flag does; the others ask for it, at a level"),
    ("snappy", "broker: offers it, as nsqd's flag does; the others ask for it"),
    ("verbose", "broker: nsqd's flag, without effect there and here"),
    ("rate", "messages a second everywhere; some commands take fractions or `max`"),
];

/// Variables without the program's prefix: the names of the first commands, and of nsq's addresses.
/// All others begin with `MQUEUE_`, because a COUNT, OUTPUT, FILE or LISTEN of the caller's shell
/// is not meant for this program.
const WITHOUT_PREFIX: [&str; 23] = [
    "BUFFER_SIZE",
    "CHUNK_SIZE",
    "CONSUMER_MAX_GOROUTINES",
    "GENERATOR_INTERVAL",
    "GENERATOR_PING_INTERVAL",
    "GOROUTINES",
    "GROUP",
    "LOOKUPD_HTTP_ADDRESS",
    "LOOKUPD_TCP_ADDRESS",
    "MODE",
    "MPORT",
    "NSQD_HTTP_ADDRESS",
    "NSQD_TCP_ADDRESS",
    "PAYLOAD_KEYS",
    "REDIS_ERROR_QUEUE",
    "REDIS_POOL_SIZE",
    "REDIS_QUEUE",
    "REDIS_URL",
    "STREAM",
    "STREAMS_COUNT",
    "STREAM_INTERVAL",
    "TIMEOUT",
    "WORKERS_COUNT",
];

/// The commands, and theirs.
fn commands() -> Vec<Command> {
    let cli = whole_command_line();
    let commands = cli.get_subcommands().flat_map(|command| std::iter::once(command).chain(command.get_subcommands()));
    commands.filter(|command| command.get_name() != "help").cloned().collect()
}

/// The meaning of an argument: its value's name, which names the unit, its type, its short flag.
fn meaning(arg: &Arg) -> String {
    let names: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    format!("{names:?} {:?} {:?}", arg.get_value_parser().type_id(), arg.get_short_and_visible_aliases())
}

/// The arguments of all commands by this name, and the commands that have each meaning.
fn by_name(name: impl Fn(&Arg) -> Option<String>) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut all: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for command in commands() {
        for arg in command.get_arguments() {
            if let Some(name) = name(arg) {
                let meanings = all.entry(name).or_default();
                meanings.entry(meaning(arg)).or_default().push(command.get_name().to_owned());
            }
        }
    }
    all
}

fn is_different(name: &str) -> bool {
    DIFFERENT.iter().any(|(different, _)| *different == name)
}

#[test]
fn a_flag_has_one_meaning_in_all_commands() {
    let flags = by_name(|arg| arg.get_long().map(str::to_owned));
    assert!(flags.len() > 80, "{}", flags.len());
    for (flag, meanings) in flags {
        let count = meanings.len();
        assert!(count == 1 || is_different(&flag), "--{flag} means {count} things: {meanings:#?}");
    }
}

/// Short flags of one command that stand for another long flag elsewhere, with the reason.
const DIFFERENT_SHORT: [(&str, &str, &str); 2] =
    [("peek", "count", "as head(1) has it"), ("tail", "count", "as tail(1) and nsq_tail have it")];

#[test]
fn a_short_flag_belongs_to_one_long_flag() {
    let mut long: BTreeMap<char, String> = BTreeMap::new();
    for command in commands() {
        for arg in command.get_arguments() {
            let (Some(short), Some(name)) = (arg.get_short(), arg.get_long()) else { continue };
            if DIFFERENT_SHORT.iter().any(|(other, long, _)| (*other, *long) == (command.get_name(), name)) {
                continue;
            }
            let first = long.entry(short).or_insert_with(|| name.to_owned());
            assert_eq!(first, name, "-{short} of {}", command.get_name());
        }
    }
    assert_eq!(long.get(&'n').map(String::as_str), Some("name"), "the number of a worker");
}

#[test]
fn a_variable_has_one_meaning_in_all_commands() {
    let flags = by_name(|arg| arg.get_env().map(|name| name.to_string_lossy().into_owned()));
    assert!(flags.len() > 40, "{}", flags.len());
    for (variable, meanings) in flags {
        let flag = variable.trim_start_matches("MQUEUE_").to_lowercase().replace('_', "-");
        let count = meanings.len();
        assert!(count == 1 || is_different(&flag), "{variable} means {count} things: {meanings:#?}");
    }
}

#[test]
fn a_variable_has_the_programs_prefix_or_is_on_the_list() {
    let variables = by_name(|arg| arg.get_env().map(|name| name.to_string_lossy().into_owned()));
    for (variable, meanings) in &variables {
        let listed = WITHOUT_PREFIX.contains(&variable.as_str());
        assert!(listed || variable.starts_with("MQUEUE_"), "{variable} needs the prefix MQUEUE_: {meanings:?}");
    }
    for listed in WITHOUT_PREFIX {
        assert!(variables.contains_key(listed), "{listed} sets no flag");
    }
}

#[test]
fn the_manual_lists_every_variable() {
    let page = include_str!("../../docs/environment.md");
    let variables = by_name(|arg| arg.get_env().map(|name| name.to_string_lossy().into_owned()));
    for (variable, meanings) in &variables {
        assert!(
            page.contains(&format!("| `{variable}` | ")),
            "{variable} of {meanings:?} is not in docs/environment.md"
        );
    }
}

#[test]
fn every_report_in_json_has_the_same_flag() {
    for command in commands() {
        let says_json = command.get_arguments().any(|arg| {
            matches!(arg.get_long(), Some("report" | "output"))
                && arg.get_possible_values().iter().any(|value| value.get_name() == "json")
        });
        // a consumer prints messages, as JSON by default; that is no report
        if says_json && command.get_name() != "consumer" {
            let json = command.get_arguments().find(|arg| arg.get_long() == Some("json"));
            assert!(json.is_some(), "{} has no --json", command.get_name());
        }
    }
}

/// Flags with an address to connect to or to listen on, and the prefix of `HOST:PORT` in it.
fn addresses() -> Vec<(Command, String, &'static str)> {
    let mut all = Vec::new();
    for command in commands() {
        for arg in command.get_arguments() {
            let Some(flag) = arg.get_long() else { continue };
            let names = arg.get_value_names().unwrap_or_default();
            let before: &[&'static str] = match names.first().map(|name| name.as_str()) {
                Some("HOST:PORT") => &[""],
                Some("ADDRESS") if command.get_name() == "broker" => &[""],
                Some("ADDRESS") if flag == "listen" || flag == "to" => &["tcp:", "udp:"],
                Some(name) if name.contains("ADDRESS") => panic!("--{flag} of {}: add it here", command.get_name()),
                _ => continue,
            };
            all.extend(before.iter().map(|before| (command.clone(), flag.to_owned(), *before)));
        }
    }
    all
}

#[test]
fn every_address_flag_accepts_a_port_alone_and_a_name() {
    let all = addresses();
    assert!(all.len() > 20, "{all:?}");
    for (command, flag, before) in all {
        let name = command.get_name();
        // other missing flags are reported after invalid values
        let read = |address: &str| {
            let words = ["mqueue", &format!("--{flag}"), &format!("{before}{address}")];
            let read = command.clone().try_get_matches_from(words);
            read.err().filter(|error| matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue))
        };
        for address in [":5000", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "a-host.example.org:5000"] {
            let refused = read(address);
            assert!(refused.is_none(), "{name} --{flag} {before}{address}: {}", refused.unwrap());
        }
        for wrong in ["localhost", "5000", "::1:5000", "a b:5000", "localhost:65536", "localhost:"] {
            assert!(read(wrong).is_some(), "{name} --{flag} {before}{wrong} is taken");
        }
    }
}

#[test]
fn every_invalid_number_is_answered_with_the_allowed_ones() {
    let cli = whole_command_line();
    let mut asked = 0;
    for command in cli.get_subcommands() {
        for arg in command.get_arguments() {
            let (Some(long), true) = (arg.get_long(), arg.get_action().takes_values()) else { continue };
            let error = command.clone().try_get_matches_from(["mqueue", &format!("--{long}=1e6x")]).err();
            let said = error.map(|error| error.to_string()).unwrap_or_default();
            for nothing in ["invalid digit", "cannot parse", "too large", "out of range", "is not in", "invalid float"]
            {
                assert!(!said.contains(nothing), "{} --{long}: {said}", command.get_name());
            }
            asked += 1;
        }
    }
    assert!(asked > 150, "{asked}");
}
