//! The manual page of a command, from its declaration for clap.

use clap::{Arg, ArgAction, Command};

use super::roff::{RoffPage, Word};
use super::{ManualPage, RELEASED};
use crate::commands::cli::{self, TASKS};
use crate::commands::common::exit::Exit;
use crate::commands::examples;

/// The beginning of the paragraph on exit codes in a long description.
const EXIT_CODE: &str = "Exit code: ";

/// Returns the pages of the program and of all commands.
pub(super) fn of_all(cli: &Command) -> Vec<ManualPage> {
    let mut pages = vec![of_program(cli)];
    for command in own_subcommands(cli) {
        add_with_subcommands(command, &["mqueue"], &mut pages);
    }
    pages
}

fn own_subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| command.get_name() != "help" && !command.is_hide_set())
}

fn add_with_subcommands(command: &Command, parents: &[&str], pages: &mut Vec<ManualPage>) {
    let words: Vec<&str> = parents.iter().copied().chain([command.get_name()]).collect();
    pages.push(of_command(command, &words));
    own_subcommands(command).for_each(|subcommand| add_with_subcommands(subcommand, &words, pages));
}

fn begin(words: &[&str], about: &str) -> (String, RoffPage) {
    let name = words.join("-");
    let mut page = RoffPage::new(&name, 1, RELEASED, env!("CARGO_PKG_VERSION"));
    page.section("Name");
    page.name(&name, about);
    (name, page)
}

fn ended(name: &str, page: RoffPage) -> ManualPage {
    ManualPage { file: format!("{name}.1"), text: page.into_text() }
}

/// mqueue(1): the commands by task, and the options of all.
fn of_program(cli: &Command) -> ManualPage {
    let (name, mut page) = begin(&["mqueue"], &text(cli.get_about()));
    page.section("Synopsis");
    page.line(&usage(cli));
    page.section("Description");
    page.paragraphs(
        "Each command has a page of its own, mqueue-COMMAND(1). mqueue(7) explains the words: stream, group, socket, \
         poke, dead letter.",
        false,
    );
    page.section("Commands");
    for (task, names) in TASKS {
        page.subsection(task);
        for command in names.iter().filter_map(|name| cli.find_subcommand(name)) {
            page.term(&[Word::Bold(&format!("mqueue-{}", command.get_name())), Word::Plain("(1)")]);
            page.line(&text(command.get_about()));
        }
    }
    options(&mut page, cli);
    page.section("Exit status");
    for exit in Exit::ALL {
        page.term(&[Word::Bold(&(exit as u8).to_string())]);
        page.line(exit.meaning());
    }
    environment(&mut page, cli);
    examples_of(&mut page, "mqueue");
    page.section("See also");
    page.line("mqueue(7), nsqd(1), systemd.socket(5)");
    ended(&name, page)
}

fn of_command(command: &Command, words: &[&str]) -> ManualPage {
    let about = text(command.get_about());
    let (name, mut page) = begin(words, &about);
    page.section("Synopsis");
    page.line(&usage(command));
    page.section("Description");
    let long = text(command.get_long_about());
    let long = if long.is_empty() { about.clone() } else { long };
    let (description, exit_codes) = split_exit_codes(&long);
    // NAME has the first line, unless there is no other
    let description = description.strip_prefix(&format!("{about}\n\n")).unwrap_or(&description).to_owned();
    page.paragraphs(&description, false);
    let subcommands: Vec<&Command> = own_subcommands(command).collect();
    if !subcommands.is_empty() {
        page.section("Commands");
    }
    for subcommand in subcommands {
        page.term(&[Word::Bold(&format!("{name}-{}", subcommand.get_name())), Word::Plain("(1)")]);
        page.line(&text(subcommand.get_about()));
    }
    options(&mut page, command);
    page.section("Exit status");
    if let Some(codes) = exit_codes {
        page.paragraphs(&codes, false);
    } else {
        page.line("0 if all was done, another code of mqueue(1) if not.");
    }
    environment(&mut page, command);
    examples_of(&mut page, &words[1..].join(" "));
    page.section("See also");
    page.line(&see_also(words));
    ended(&name, page)
}

/// The program, the concepts and the commands for the same task.
fn see_also(words: &[&str]) -> String {
    let of_task = TASKS.iter().find(|(_, names)| names.contains(&words[1])).map_or(&[][..], |(_, names)| names);
    let others = of_task.iter().filter(|name| words.len() > 2 || **name != words[1]);
    let others = others.map(|name| format!(", mqueue-{name}(1)")).collect::<String>();
    format!("mqueue(1), mqueue(7){others}")
}

/// Separates the paragraph on exit codes from a description.
fn split_exit_codes(long: &str) -> (String, Option<String>) {
    let is_codes = |paragraph: &&str| paragraph.starts_with(EXIT_CODE);
    let paragraphs: Vec<&str> = long.split("\n\n").collect();
    let codes = paragraphs.iter().find(|paragraph| is_codes(paragraph));
    let codes = codes.map(|codes| codes.trim_start_matches(EXIT_CODE).to_owned());
    (paragraphs.iter().filter(|paragraph| !is_codes(paragraph)).copied().collect::<Vec<_>>().join("\n\n"), codes)
}

/// The flags and arguments, under the headings of the help.
fn options(page: &mut RoffPage, command: &Command) {
    let shown: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set()).collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in shown.iter().filter(|arg| !arg.is_positional()) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    headings.sort_by_key(Option::is_some);
    let positional: Vec<&&Arg> = shown.iter().filter(|arg| arg.is_positional()).collect();
    if !positional.is_empty() {
        page.section("Arguments");
        positional.into_iter().for_each(|arg| option(page, arg));
    }
    page.section("Options");
    for heading in headings {
        if let Some(heading) = heading {
            page.subsection(heading);
        }
        let of_heading = shown.iter().filter(|arg| !arg.is_positional() && arg.get_help_heading() == heading);
        of_heading.for_each(|arg| option(page, arg));
    }
}

fn option(page: &mut RoffPage, arg: &Arg) {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
    let longs: Vec<String> = longs.iter().map(|long| format!("--{long}")).collect();
    let names: Vec<&str> = short.iter().chain(&longs).map(String::as_str).collect();
    let value = cli::shown_value(arg);
    let mut words: Vec<Word<'_>> = Vec::new();
    for name in &names {
        if !words.is_empty() {
            words.push(Word::Plain(", "));
        }
        words.push(Word::Bold(name));
    }
    if let Some(value) = &value {
        let is_optional = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
        let (before, after) = match (names.is_empty(), arg.is_require_equals_set(), is_optional) {
            (true, ..) => ("", ""),
            (false, true, true) => ("[=", "]"),
            (false, false, true) => (" [", "]"),
            (false, true, false) => ("=", ""),
            (false, false, false) => (" ", ""),
        };
        words.extend([Word::Plain(before), Word::Value(value), Word::Plain(after)]);
    }
    page.term(&words);
    let help = arg.get_long_help().or(arg.get_help());
    page.paragraphs(&text(help), true);
    let values = arg.get_possible_values();
    let described = values.iter().filter(|value| !value.is_hide_set());
    let described: Vec<String> = described
        .map(|value| match value.get_help() {
            Some(help) => format!("{}: {}", value.get_name(), text(Some(help))),
            None => value.get_name().to_owned(),
        })
        .collect();
    if !described.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        page.paragraphs(&format!("\n\nOne of: {}.", described.join("; ")), true);
    }
    let notes = cli::notes(arg);
    if !notes.is_empty() {
        page.paragraphs(&format!("[{}]", notes.join("; ")), true);
    }
}

fn environment(page: &mut RoffPage, command: &Command) {
    let of_flags: Vec<(&Arg, String)> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| Some((arg, arg.get_env()?.to_string_lossy().into_owned())))
        .collect();
    if of_flags.is_empty() {
        return;
    }
    page.section("Environment");
    page.line("Each variable sets a flag; the flag on the command line beats it.");
    for (arg, variable) in of_flags {
        page.term(&[Word::Bold(&variable)]);
        match arg.get_long() {
            Some(long) => page.line(&format!("--{long}")),
            None => page.line(&cli::shown_value(arg).unwrap_or_default()),
        }
    }
}

fn examples_of(page: &mut RoffPage, command: &str) {
    let of_command = examples::of(command);
    if of_command.is_empty() {
        return;
    }
    page.section("Examples");
    for (line, about) in of_command {
        page.example(&format!("{about}:"), line);
    }
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.trim_start_matches("Usage: ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    styled.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::cli::whole_command_line;

    #[test]
    fn every_flag_variable_and_example_is_on_its_page() {
        let cli = whole_command_line();
        let pages = of_all(&cli);
        for command in own_subcommands(&cli) {
            let name = command.get_name();
            let page = pages.iter().find(|page| page.file == format!("mqueue-{name}.1")).unwrap();
            let roff = |text: &str| text.replace('-', "\\-");
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let long = arg.get_long().map(|long| roff(&format!("\\fB--{long}\\fR")).replace("\\\\-", "\\-"));
                assert!(long.is_none_or(|long| page.text.contains(&long)), "{name}: {:?}", arg.get_long());
                let variable = arg.get_env().map(|name| format!("\\fB{}\\fR", name.to_string_lossy()));
                assert!(variable.is_none_or(|name| page.text.contains(&name)), "{name}: {:?}", arg.get_env());
            }
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
                assert!(page.text.contains(&format!(".SH \"{section}\"\n")), "{name} has no {section}");
            }
            let (_, codes) = split_exit_codes(&text(command.get_long_about()));
            assert!(codes.is_some_and(|codes| codes.starts_with('0')), "{name} has no exit codes in its description");
        }
    }
}
