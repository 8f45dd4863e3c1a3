//! The command line of `mqueue broker`: nsqd's spelling of flags, and its configuration file.
//!
//! A flag precedes an environment variable, which precedes the configuration file.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use super::config_file::{self, ConfigFile};
use super::{go_flags, log_level};
use crate::commands::cli::{Cli, CliCommand, whole_command_line};
use crate::commands::common::exit::{Exit, Failure};

/// Rewrites the arguments of `mqueue broker` from nsqd's spelling; others are left as they are.
pub(crate) fn in_our_spelling(words: Vec<OsString>) -> Vec<OsString> {
    let Some(at) = command_at(&words) else { return words };
    let mut words = words;
    let flags = words.split_off(at + 1);
    words.extend(go_flags::with_two_dashes(flags, &broker_command()));
    words
}

/// Adds the settings of the configuration file to the parsed arguments of `mqueue broker`; others
/// are left as they are.
///
/// # Errors
/// A file that cannot be used, with the line.
pub(crate) fn with_config_file(cli: Cli, words: &[OsString]) -> Result<Cli, Failure> {
    let CliCommand::Broker(args) = &cli.command else { return Ok(cli) };
    let Some(path) = args.nsqd.config.clone() else { return with_log_level(cli, &matches(words)?) };
    let refused = |why: String| Failure::new(Exit::Usage, format!("--config {}: {why}", path.display()));
    let file = ConfigFile::read(&path, &broker_command())?;
    let given = matches(words)?;
    let is_given = |id: &str| source(&given, id) > Some(ValueSource::DefaultValue);
    let mut all = words.to_vec();
    let after_command = command_at(words).map_or(words.len(), |at| at + 1);
    let settings = file.settings.into_iter().filter(|setting| {
        // --log is a level, too
        !is_given(&setting.id) && (setting.id != "log_level" || !is_given("log"))
    });
    all.splice(after_command..after_command, settings.flat_map(|setting| setting.words));
    let matches = matches(&all).map_err(|failure| refused(failure.line))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| refused(config_file::reason(&error)))?;
    if let CliCommand::Broker(args) = &mut cli.command {
        args.warnings = file.warnings.into_iter().map(|warning| format!("{}: {warning}", path.display())).collect();
    }
    with_log_level(cli, &matches)
}

/// Sets the log filter to `--log-level`, unless `--log` was given as well.
fn with_log_level(mut cli: Cli, matches: &ArgMatches) -> Result<Cli, Failure> {
    let CliCommand::Broker(args) = &cli.command else { return Ok(cli) };
    if let Some(level) = args.nsqd.log_level
        && source(matches, "log") < Some(ValueSource::CommandLine)
    {
        log_level::filter(level).clone_into(&mut cli.log);
    }
    Ok(cli)
}

/// Returns the position of `broker`, if that is the command. The flags of the program may precede
/// it, with their values.
fn command_at(words: &[OsString]) -> Option<usize> {
    // building the whole command line would double the time to parse it
    if words.get(1).is_none_or(|word| word != "broker" && !word.as_encoded_bytes().starts_with(b"-")) {
        return None;
    }
    let cli = Cli::command();
    let takes_value = |flag: &str| {
        let name = flag.strip_prefix("--");
        cli.get_arguments().any(|arg| arg.get_long() == name && arg.get_action().takes_values())
    };
    let mut at = 1;
    while let Some(word) = words.get(at) {
        match word.to_str() {
            Some("broker") => return Some(at),
            Some(flag) if takes_value(flag) => at += 2,
            Some(flag) if flag.starts_with('-') => at += 1,
            Some(_) | None => return None,
        }
    }
    None
}

/// `mqueue broker` with all its flags, also those of the program.
fn broker_command() -> Command {
    let cli = whole_command_line();
    cli.find_subcommand("broker").cloned().unwrap_or_default()
}

fn matches(words: &[OsString]) -> Result<ArgMatches, Failure> {
    Cli::command().try_get_matches_from(words).map_err(|error| Failure::new(Exit::Usage, config_file::reason(&error)))
}

/// Returns where the value of an argument of `mqueue broker` is from.
fn source(matches: &ArgMatches, id: &str) -> Option<ValueSource> {
    matches.subcommand_matches("broker").and_then(|matches| matches.value_source(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nsqds_spelling_is_rewritten_after_the_flags_of_the_program() {
        for (line, rewritten) in [
            ("mqueue broker -data-path x", "mqueue broker --data-path x"),
            ("mqueue --log debug broker -data-path=x", "mqueue --log debug broker --data-path=x"),
            ("mqueue --context prod broker -data-path x", "mqueue --context prod broker --data-path x"),
            (
                "mqueue --context=prod --log=warn broker -snappy=false",
                "mqueue --context=prod --log=warn broker --snappy=false",
            ),
            ("mqueue --context broker ls -x", "mqueue --context broker ls -x"),
            ("mqueue consumer -n broker", "mqueue consumer -n broker"),
        ] {
            let words = line.split(' ').map(OsString::from).collect();
            let expected: Vec<OsString> = rewritten.split(' ').map(OsString::from).collect();
            assert_eq!(in_our_spelling(words), expected, "{line}");
        }
    }
}
