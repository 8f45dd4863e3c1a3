//! The command line: the subcommands, each declared in the `args.rs` of its folder, and the help of
//! the program.

use std::ffi::OsString;
use std::fmt::Write;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, Parser, Subcommand};

use super::common::context::ContextName;
use super::common::values;
use super::on_demand::OnDemand;
use super::{
    admin, bench, bridge, broker, completions, consumer, context, demo, doctor, errors, gateway, ingest, ls, man, node,
    peek, pipeline, producer, prove, record, replay, send, simulate, stage, tail, top, wakeup, web, worker,
};
/// Producers and consumers for NSQ that lose no message
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// Log filter, for stderr or the journal: error, warn, info, debug, trace or off, or by module,
    /// as in `mqueue::client=debug`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "MQUEUE_LOG",
        value_parser = values::log_filter,
        default_value = "info",
        display_order = 500
    )]
    pub log: String,

    /// Settings of a cluster to use, by name (`mqueue context`) [default: the current one]
    #[arg(long, global = true, value_name = "NAME", env = "MQUEUE_CONTEXT", display_order = 499)]
    pub context: Option<ContextName>,

    /// The command to run.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// The subcommands. Each takes its description from its arguments.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "a doc comment here would hide the long description of the arguments")]
pub(crate) enum CliCommand {
    Producer(OnDemand<producer::args::Args>),
    Ingest(OnDemand<ingest::args::Args>),
    Send(OnDemand<send::args::Args>),
    Consumer(OnDemand<consumer::args::Args>),
    Stage(OnDemand<stage::args::Args>),
    Bridge(OnDemand<bridge::args::Args>),
    Pipeline(OnDemand<pipeline::args::Args>),
    Gateway(OnDemand<gateway::args::Args>),
    Worker(OnDemand<worker::args::Args>),
    Node(OnDemand<node::args::Args>),
    Wakeup(OnDemand<wakeup::args::Args>),
    Ls(OnDemand<ls::args::Args>),
    Top(OnDemand<top::args::Args>),
    Web(OnDemand<web::args::Args>),
    Create(OnDemand<admin::args::CreateArgs>),
    Pause(OnDemand<admin::args::PauseArgs>),
    Unpause(OnDemand<admin::args::UnpauseArgs>),
    Empty(OnDemand<admin::args::EmptyArgs>),
    Delete(OnDemand<admin::args::DeleteArgs>),
    Peek(OnDemand<peek::args::Args>),
    Tail(OnDemand<tail::args::Args>),
    Record(OnDemand<record::args::Args>),
    Replay(OnDemand<replay::args::Args>),
    Context(OnDemand<context::args::Args>),
    Doctor(OnDemand<doctor::args::Args>),
    Errors(OnDemand<errors::args::Args>),
    Bench(OnDemand<bench::args::Args>),
    Simulate(OnDemand<simulate::args::Args>),
    Prove(OnDemand<prove::args::Args>),
    Broker(OnDemand<broker::args::Args>),
    Demo(OnDemand<demo::args::Args>),
    Completions(OnDemand<completions::args::Args>),
    Man(OnDemand<man::args::Args>),
}

/// The commands by task, in the order of the README's table.
pub(crate) const TASKS: [(&str, &[&str]); 7] = [
    ("Publish", &["producer", "ingest", "send"]),
    ("Consume", &["consumer", "stage", "bridge", "pipeline", "gateway", "worker", "node"]),
    ("Sleep and wake", &["wakeup"]),
    (
        "Operate",
        &[
            "ls", "top", "web", "create", "pause", "unpause", "empty", "delete", "peek", "tail", "record", "replay",
            "context", "doctor", "errors",
        ],
    ),
    ("Measure", &["bench", "simulate", "prove"]),
    ("Broker", &["broker", "demo"]),
    ("Set up", &["completions", "man"]),
];

/// Returns the command line with the flags of all subcommands.
pub(crate) fn whole_command_line() -> clap::Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// Parses the command line. The error is for people: the list of commands in `mqueue --help` is
/// grouped by task, and a negative number is named as the value of its flag.
pub(crate) fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words).map_err(|told| match told.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => grouped_by_task(told),
        ErrorKind::UnknownArgument => Cli::try_parse_from(with_negative_values(words)).err().unwrap_or(told),
        _ => told,
    })
}

/// Only a request for help pays for it.
fn grouped_by_task(told: clap::Error) -> clap::Error {
    let template = help_template(&whole_command_line());
    Cli::command().help_template(template).try_get_matches().err().unwrap_or(told)
}

/// Joins each flag with the negative number that follows it, which clap takes for a flag.
fn with_negative_values(words: &[OsString]) -> Vec<OsString> {
    let is_number = |word: &OsString| {
        let digits = word.to_str().and_then(|word| word.strip_prefix('-'));
        digits.is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut joined: Vec<OsString> = Vec::new();
    let flags = words.iter().position(|word| word == "--").unwrap_or(words.len());
    for word in &words[..flags] {
        match joined.last_mut().filter(|flag| is_number(word) && is_flag_without_value(flag)) {
            Some(flag) => {
                flag.push("=");
                flag.push(word);
            }
            None => joined.push(word.clone()),
        }
    }
    joined.extend_from_slice(&words[flags..]);
    joined
}

fn is_flag_without_value(word: &OsString) -> bool {
    word.to_str().is_some_and(|word| word.starts_with('-') && word.len() > 1 && !word.contains('='))
}

/// The help of the program: usage, the commands by task, the options.
fn help_template(cli: &clap::Command) -> StyledStr {
    let header = cli.get_styles().get_header();
    let literal = cli.get_styles().get_literal();
    let mut template = StyledStr::new();
    let _ = write!(template, "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n");
    for (task, names) in TASKS {
        let _ = write!(template, "\n{header}{task}:{header:#}\n");
        for name in names {
            let about = cli.find_subcommand(name).and_then(clap::Command::get_about).cloned().unwrap_or_default();
            let _ = writeln!(template, "  {literal}{name:11}{literal:#}  {about}");
        }
    }
    let _ = write!(template, "\n{header}Options:{header:#}\n{{options}}\n\n");
    let _ = write!(
        template,
        "{literal}mqueue COMMAND --help{literal:#} shows every flag, its environment variable and default."
    );
    template
}

/// Returns the value of an argument as the help shows it; `None` for a flag without one.
pub(crate) fn shown_value(arg: &Arg) -> Option<String> {
    if !arg.get_action().takes_values() {
        return None;
    }
    let names = arg.get_value_names().unwrap_or_default();
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let value = if names.is_empty() { arg.get_id().as_str().to_uppercase() } else { names.join(" ") };
    let is_repeated = arg.is_positional() && arg.get_num_args().is_some_and(|range| range.max_values() > 1);
    let value = if is_repeated { format!("{value}...") } else { value };
    Some(value)
}

/// Returns the default of an argument that its help text does not name.
pub(crate) fn default_value(arg: &Arg) -> Option<String> {
    let values: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let is_shown = arg.get_action().takes_values() && !arg.is_hide_default_value_set() && !values.is_empty();
    is_shown.then(|| values.join(", "))
}

/// Returns the default and the variable of an argument.
pub(crate) fn notes(arg: &Arg) -> Vec<String> {
    let default = default_value(arg).map(|value| format!("default: {value}"));
    let variable = arg.get_env().map(|name| format!("env: {}", name.to_string_lossy()));
    default.into_iter().chain(variable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands without clap's `help`.
    fn own_commands(cli: &clap::Command) -> impl Iterator<Item = &clap::Command> {
        cli.get_subcommands().filter(|command| command.get_name() != "help")
    }

    #[test]
    fn the_command_line_is_valid_for_clap() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_belongs_to_one_task() {
        let cli = whole_command_line();
        let mut grouped: Vec<&str> = TASKS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut declared: Vec<&str> = own_commands(&cli).map(clap::Command::get_name).collect();
        assert_eq!(declared, grouped, "declared in the order of the tasks");
        grouped.sort_unstable();
        grouped.dedup();
        declared.sort_unstable();
        assert_eq!(grouped, declared);
    }

    #[test]
    fn every_command_has_a_line_of_help_and_a_longer_description() {
        for command in own_commands(&whole_command_line()) {
            let (name, about) = (command.get_name(), command.get_about().map(ToString::to_string).unwrap_or_default());
            assert!(!about.is_empty() && about.len() <= 65, "{name}: {} characters: {about}", about.len());
            let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
            assert!(long.len() > about.len(), "{name} has no long description: {long}");
        }
    }

    #[test]
    fn a_negative_number_is_named_as_the_value_of_its_flag() {
        for (line, told) in [
            ("mqueue peek jobs --count -1", "invalid value '-1' for '--count"),
            ("mqueue peek jobs -n -1", "invalid value '-1' for '--count"),
            (
                "mqueue consumer --stream a --group b --timeout -5s --broker-tcp-address=x:1",
                "invalid value '-5s' for '--timeout",
            ),
            ("mqueue peek -1", "unexpected argument '-1'"),
            ("mqueue peek -- --count -1", "unexpected argument '-1'"),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let text = parse(&words).unwrap_err().to_string();
            assert!(text.contains(told), "{line}: {text}");
        }
    }

    #[test]
    fn help_lists_commands_by_task() {
        let help = |words: &[&str]| {
            let told = Cli::try_parse_from(words).unwrap_err();
            Cli::command()
                .help_template(help_template(&whole_command_line()))
                .try_get_matches_from(words)
                .map_or_else(|grouped| grouped.to_string(), |_| told.to_string())
        };
        for words in [&["mqueue", "--help"][..], &["mqueue", "-h"], &["mqueue", "help"], &["mqueue"]] {
            let text = help(words);
            for (task, names) in TASKS {
                let listed: Vec<&str> = text.lines().skip_while(|line| *line != format!("{task}:")).skip(1).collect();
                for (line, name) in listed.iter().zip(names) {
                    assert!(line.starts_with(&format!("  {name} ")) && line.len() <= 80, "{words:?}: {task}: {line}");
                }
            }
            assert!(text.contains("--log <FILTER>") && text.contains("Usage: mqueue"), "{text}");
        }
        let of_command = help(&["mqueue", "help", "wakeup"]);
        assert!(of_command.contains("--poll-interval") && !of_command.contains("Publish:"), "{of_command}");
    }
}
