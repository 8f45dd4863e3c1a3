//! Tests that a flag, and an environment variable, means the same in all commands.

use std::collections::BTreeMap;

use super::cli::Cli;
use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, Parser};

/// Flags of one name that may differ between commands, each with the reason.
const DIFFERENT: [(&str, &str); 5] = [
    ("listen", "ingest takes a feed on sockets of four kinds, the others serve HTTP on TCP"),
    ("to", "where messages go next: a stream, a socket, or either"),
    ("output", "consumer: how a message is printed; bench: how a report is"),
    ("report", "a command that reports each second has no `none`"),
    ("rate", "messages a second everywhere; some commands take fractions or `max`"),
];

fn commands() -> Vec<Command> {
    let mut cli = Cli::command();
    cli.build();
    cli.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect()
}

/// Describes an argument's value: its name, which has the unit, its type, and its short flag.
fn meaning(arg: &Arg) -> String {
    let names: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    format!("{names:?} {:?} {:?}", arg.get_value_parser().type_id(), arg.get_short_and_visible_aliases())
}

/// Collects the meanings of each name, with the commands that have them.
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
fn a_flag_takes_the_same_value_in_every_command() {
    let flags = by_name(|arg| arg.get_long().map(str::to_owned));
    assert!(flags.len() > 80, "{}", flags.len());
    for (flag, meanings) in flags {
        let count = meanings.len();
        assert!(count == 1 || is_different(&flag), "--{flag} means {count} things: {meanings:#?}");
    }
}

#[test]
fn a_short_flag_belongs_to_one_long_flag() {
    let mut long: BTreeMap<char, String> = BTreeMap::new();
    for command in commands() {
        for arg in command.get_arguments() {
            let (Some(short), Some(name)) = (arg.get_short(), arg.get_long()) else { continue };
            let first = long.entry(short).or_insert_with(|| name.to_owned());
            assert_eq!(first, name, "-{short} of {}", command.get_name());
        }
    }
    assert_eq!(long.get(&'n').map(String::as_str), Some("name"), "the number of a worker");
}

#[test]
fn a_variable_takes_the_same_value_in_every_command() {
    let flags = by_name(|arg| arg.get_env().map(|name| name.to_string_lossy().into_owned()));
    assert!(flags.len() > 40, "{}", flags.len());
    for (variable, meanings) in flags {
        let flag = variable.to_lowercase().replace('_', "-");
        let count = meanings.len();
        assert!(count == 1 || is_different(&flag), "{variable} means {count} things: {meanings:#?}");
    }
}

#[test]
fn every_json_report_has_the_flag_json() {
    for command in commands() {
        let says_json = command.get_arguments().any(|arg| {
            matches!(arg.get_long(), Some("report" | "output"))
                && arg.get_possible_values().iter().any(|value| value.get_name() == "json")
        });
        // a consumer prints messages, as JSON by default; it has no report
        if says_json && command.get_name() != "consumer" {
            let json = command.get_arguments().find(|arg| arg.get_long() == Some("json"));
            assert!(json.is_some(), "{} has no --json", command.get_name());
        }
    }
}

/// Lists the flags that take an address to connect to or to listen on, with the prefix before
/// `HOST:PORT`.
fn addresses() -> Vec<(String, String, &'static str)> {
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
            all.extend(before.iter().map(|before| (command.get_name().to_owned(), flag.to_owned(), *before)));
        }
    }
    all
}

#[test]
fn every_address_flag_takes_a_port_alone_and_a_host_name() {
    let all = addresses();
    assert!(all.len() > 20, "{all:?}");
    for (command, flag, before) in all {
        // clap reports an invalid value before a missing argument
        let read = |address: &str| {
            let read = Cli::try_parse_from(["mqueue", &command, &format!("--{flag}"), &format!("{before}{address}")]);
            read.err().filter(|error| matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue))
        };
        for address in [":5000", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "a-host.example.org:5000"] {
            let refused = read(address);
            assert!(refused.is_none(), "{command} --{flag} {before}{address}: {}", refused.unwrap());
        }
        for wrong in ["localhost", "5000", "::1:5000", "a b:5000", "localhost:65536", "localhost:"] {
            assert!(read(wrong).is_some(), "{command} --{flag} {before}{wrong} is taken");
        }
    }
}

#[test]
fn every_number_flag_names_the_allowed_range() {
    let cli = Cli::command();
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
