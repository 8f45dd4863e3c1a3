//! The reference in docs/reference: made from the command line, and compared with it.
//! `MQUEUE_TEST_SNAPSHOTS=write cargo test --bin mqueue reference` writes it.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command};

use super::cli::{TASKS, default_value, shown_value, whole_command_line};
use super::common::exit::Exit;
use super::examples;

/// Flags that are not in every build (the feature `tokio-nsq`).
const NOT_IN_EVERY_BUILD: [&str; 1] = ["client"];

const MADE: &str = "<!-- Made from the program: MQUEUE_TEST_SNAPSHOTS=write cargo test --bin mqueue reference -->\n";

/// Compares a page with the file, or writes it.
#[track_caller]
fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(name);
    if std::env::var("MQUEUE_TEST_SNAPSHOTS").is_ok_and(|mode| mode == "write") {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("docs can be written to");
        std::fs::write(&path, page).expect("docs can be written to");
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(kept.lines()).find(|(now, then)| now != then);
    assert!(
        page == kept,
        "docs/reference/{name} is stale (MQUEUE_TEST_SNAPSHOTS=write writes it); the first difference, program and page: {differs:#?}"
    );
}

fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    styled.map(ToString::to_string).unwrap_or_default()
}

/// Returns text for a cell of a table.
fn cell(text: &str) -> String {
    let escaped = text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ");
    escaped.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn own_subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| command.get_name() != "help" && !command.is_hide_set())
}

fn shown_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_shown = |arg: &&Arg| !arg.is_hide_set() && !NOT_IN_EVERY_BUILD.contains(&arg.get_id().as_str());
    command.get_arguments().filter(is_shown)
}

/// The flags of the program, which every command has.
fn is_of_all(arg: &Arg) -> bool {
    ["log", "context", "help", "version"].contains(&arg.get_id().as_str())
}

fn row(arg: &Arg) -> String {
    let value = shown_value(arg);
    let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    let names: Vec<String> = short.into_iter().chain(longs.iter().map(|long| format!("`--{long}`"))).collect();
    let names = match (names.is_empty(), &value) {
        (true, Some(value)) => format!("`{value}`"),
        (_, _) => names.join(", "),
    };
    let value = value.filter(|_| !arg.is_positional()).map(|value| format!("`{value}`").replace('|', "\\|"));
    let (help, default) = match text(arg.get_help()) {
        // what a help text says of its default beats clap's
        help if help.contains(" [default: ") => {
            let (help, default) = help.split_once(" [default: ").expect("it is there");
            (help.to_owned(), default.trim_end_matches(']').to_owned())
        }
        help => (help, default_value(arg).map(|value| format!("`{value}`")).unwrap_or_default()),
    };
    let values: Vec<String> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let is_listed = arg.get_action().takes_values() && !values.is_empty();
    let help = if is_listed { format!("{help}: {}", values.join(", ")) } else { help };
    let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    format!("| {names} | {} | {} | {variable} | {} |\n", value.unwrap_or_default(), cell(&default), cell(&help))
}

fn table(page: &mut String, arguments: &[&Arg]) {
    if arguments.is_empty() {
        return;
    }
    page.push_str("\n| flag | value | default | variable | |\n|---|---|---|---|---|\n");
    arguments.iter().for_each(|arg| page.push_str(&row(arg)));
}

fn add_command(page: &mut String, command: &Command, words: &str, level: &str) {
    let long = text(command.get_long_about());
    let about = text(command.get_about());
    let described = if long.is_empty() { about } else { long };
    let _ = write!(page, "\n{level} {words}\n\n");
    for paragraph in described.split("\n\n") {
        let is_table = paragraph.lines().any(|line| line.trim().contains("  "));
        let paragraph = if is_table { format!("```text\n{paragraph}\n```") } else { paragraph.replace('<', "&lt;") };
        let _ = write!(page, "{paragraph}\n\n");
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    table(page, &shown_arguments(command).filter(|arg| !is_of_all(arg)).collect::<Vec<_>>());
    let of_command = examples::of(words.trim_start_matches("mqueue "));
    if !of_command.is_empty() {
        page.push_str("\n```console\n");
        for (line, about) in of_command {
            let _ = writeln!(page, "$ {line}  # {about}");
        }
        page.push_str("```\n");
    }
    for subcommand in own_subcommands(command) {
        add_command(page, subcommand, &format!("{words} {}", subcommand.get_name()), "###");
    }
}

#[test]
fn the_reference_of_commands_is_fresh() {
    let cli = whole_command_line();
    let mut page = format!("# Commands and flags\n\n{MADE}\n");
    page.push_str(
        "A flag beats its variable, a variable beats the [context](../context.md), and the context the default.\n",
    );
    page.push_str("Every command has these flags:\n");
    table(&mut page, &shown_arguments(&cli).filter(|arg| is_of_all(arg)).collect::<Vec<_>>());
    for command in TASKS.iter().flat_map(|(_, names)| *names).filter_map(|name| cli.find_subcommand(name)) {
        add_command(&mut page, command, &format!("mqueue {}", command.get_name()), "##");
    }
    check("commands.md", &page);
}

#[test]
fn the_reference_of_exit_codes_is_fresh() {
    let cli = whole_command_line();
    let mut page = format!("# Exit codes\n\n{MADE}\n| code | meaning |\n|---|---|\n");
    for exit in Exit::ALL {
        let _ = writeln!(page, "| {} | {} |", exit as u8, exit.meaning());
    }
    page.push_str("\nA command that a signal ends has 128 and its number, as a shell reports it.\n\n| command | codes |\n|---|---|\n");
    for command in own_subcommands(&cli) {
        let long = text(command.get_long_about());
        let codes = long.split("\n\n").find_map(|paragraph| paragraph.strip_prefix("Exit code: ")).unwrap_or_default();
        assert!(!codes.is_empty(), "{}", command.get_name());
        let _ = writeln!(page, "| `{}` | {} |", command.get_name(), cell(codes));
    }
    check("exit-codes.md", &page);
}
