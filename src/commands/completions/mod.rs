//! `mqueue completions`: scripts for shells, and the answers that the scripts ask for.
//!
//! ```text
//!  bash: line ─▶ shell_line ─▶ words ─┐                         ┌─ flags, commands, values (clap)
//!  zsh, fish: words ──────────────────┴▶ TypedCommand ─▶ choices ┼─ streams, groups (the broker)
//!                                                                └─ contexts (the file)
//! ```
//!
//! clap's own engine of this kind (`clap_complete`, `unstable-dynamic`) is not used: its completers
//! see only the current word, and groups depend on the stream and on the broker that were typed.
//!
//! The answer is printed at once and complete, or not at all: a broker has 150 ms, errors are no
//! choices, and nothing is written to stderr. Names are data: those that NSQ does not allow are
//! dropped, and what the shell would interpret is quoted.

pub(crate) mod args;
mod choices;
mod queue_names;
mod shell_line;
mod typed_command;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use self::args::{Args, CompletionShell};
use self::choices::{Choices, Completion};
use self::queue_names::QueueNames;
use self::shell_line::ShellLine;
use self::typed_command::TypedCommand;
use super::cli::whole_command_line;
use super::common::exit::Exit;
use super::common::stdout;

/// The first argument of a request of a completion script.
const REQUEST: &str = "__complete";

/// Time for names of a broker, from the start of the program.
const DEADLINE: Duration = Duration::from_millis(150);

/// Prints the script of a shell.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    stdout::print(match args.shell {
        CompletionShell::Bash => include_str!("mqueue.bash"),
        CompletionShell::Zsh => include_str!("mqueue.zsh"),
        CompletionShell::Fish => include_str!("mqueue.fish"),
    })?;
    Ok(Exit::Success)
}

/// Answers a request of a completion script, `__complete SHELL …`; returns `None` for any other
/// command line.
pub(crate) fn answer(words: &[OsString]) -> Option<ExitCode> {
    let until = Instant::now() + DEADLINE;
    let [_, request, rest @ ..] = words else { return None };
    if request != REQUEST {
        return None;
    }
    let rest: Vec<String> = rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(text) = answer_text(&rest, until) {
        // whoever does not read it has no use for an error either
        let _ = stdout::print(&text);
    }
    Some(Exit::Success.into())
}

/// Returns the answer in the form that the script of the shell reads; `None` for an invalid request.
fn answer_text(request: &[String], until: Instant) -> Option<String> {
    let (shell, words) = request.split_first()?;
    match CompletionShell::from_str(shell, false).ok()? {
        CompletionShell::Bash => {
            let [line, current] = words else { return None };
            let line = ShellLine::read(line, current);
            Some(line.reply(&complete(&line.words, &line.current, until)))
        }
        CompletionShell::Zsh | CompletionShell::Fish => {
            let (current, words) = words.split_last()?;
            Some(reply(&complete(words, current, until)))
        }
    }
}

/// Completes the word `current` after `words`, which do not include the program.
fn complete(words: &[String], current: &str, until: Instant) -> Completion {
    let cli = whole_command_line();
    let typed = TypedCommand::read(&cli, words);
    let names = QueueNames::of(typed.given(), until);
    typed.complete(current, &names)
}

/// Formats choices for zsh and fish, which quote them: the kind of completion and the part of the
/// current word that stays, then a line for each choice.
fn reply(completion: &Completion) -> String {
    let Completion { kept, choices } = completion;
    match choices {
        Choices::Files => format!("files\t{kept}\n"),
        Choices::Folders => format!("folders\t{kept}\n"),
        Choices::Words(words) => {
            let line = |choice: &choices::Choice| {
                let mark = if choice.is_open { '+' } else { ' ' };
                format!("{mark}{}\t{}\n", choice.word, choice.about)
            };
            format!("words\t{kept}\n") + &words.iter().map(line).collect::<String>()
        }
    }
}
