//! A command as typed: run directly if it consists of plain words, and by the shell otherwise. GNU
//! make decides in the same way (`src/job.c`, `construct_command_argv_internal`): a shell doubles
//! the cost of a short command.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tokio::process::Command;

use super::HandlerError;
use super::child_environment::withheld;
use crate::proto::{ChannelName, TopicName};

/// Characters with a meaning to a shell.
const SHELL_CHARACTERS: &[char] = &[
    '#', ';', '"', '\'', '\\', '*', '?', '[', ']', '&', '|', '<', '>', '(', ')', '{', '}', '$', '`', '^', '~', '!',
    '\n',
];
/// Commands that only a shell has, or that mean something else in a shell. Other built-ins (echo,
/// test) exist as programs as well.
const SHELL_WORDS: &[&str] = &[
    ".", ":", "alias", "break", "case", "cd", "command", "continue", "eval", "exec", "exit", "export", "for", "hash",
    "if", "local", "read", "readonly", "return", "set", "shift", "source", "times", "trap", "type", "ulimit", "umask",
    "unset", "until", "wait", "while",
];
/// The search path when PATH is not set, as in execvp.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A command line, and the variables that its process does not inherit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandLine {
    line: ParsedCommand,
    withheld: Vec<OsString>,
}

/// A command line, split or left to the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ParsedCommand {
    /// An existing program and its arguments: never empty.
    Words(Vec<String>),
    /// A script for `sh -c`.
    Script([String; 2]),
}

impl CommandLine {
    /// Splits a command of plain words; fails if its program does not exist or is not executable.
    pub(super) fn find(text: &str) -> Result<Self, HandlerError> {
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        let line = match words.first() {
            Some(program) if !needs_shell(text, program) => {
                find(program)?;
                ParsedCommand::Words(words)
            }
            Some(_) => ParsedCommand::Script(["-c".to_owned(), text.to_owned()]),
            None => return Err(HandlerError::CommandNotFound(text.to_owned())),
        };
        Ok(Self { line, withheld: withheld(env::vars_os()) })
    }

    /// Returns the same command, which does not inherit these variables either.
    pub(super) fn without(mut self, variables: &[String]) -> Self {
        // each costs something at every start: only those that are set
        self.withheld.extend(variables.iter().filter(|name| env::var_os(name).is_some()).map(OsString::from));
        self
    }

    /// Returns the program to run.
    pub(super) fn program(&self) -> &str {
        self.program_and_arguments().0
    }

    /// Returns the program to run and its arguments.
    pub(super) fn program_and_arguments(&self) -> (&str, &[String]) {
        match &self.line {
            ParsedCommand::Words(words) => (&words[0], &words[1..]),
            ParsedCommand::Script(arguments) => ("sh", arguments),
        }
    }

    /// Returns the command to start; its environment names the stream and group. It must not need
    /// `pre_exec` or a changed PATH: std would fork, which copies this process's page tables,
    /// instead of using posix_spawn.
    pub(super) fn command(&self, stream: &TopicName, group: &ChannelName) -> Command {
        let (program, arguments) = self.program_and_arguments();
        let mut command = Command::new(program);
        command.args(arguments);
        for name in &self.withheld {
            command.env_remove(name);
        }
        command.env("MQUEUE_STREAM", stream.as_str()).env("MQUEUE_GROUP", group.as_str());
        command
    }
}

fn needs_shell(text: &str, program: &str) -> bool {
    // "A=b command" sets a variable; in later words = is only a character.
    text.trim_end().contains(SHELL_CHARACTERS) || program.contains('=') || SHELL_WORDS.contains(&program)
}

/// Looks for a program as execvp does, which reads PATH as well.
fn find(program: &str) -> Result<(), HandlerError> {
    let candidates: Vec<PathBuf> = match program.contains('/') {
        true => vec![PathBuf::from(program)],
        false => {
            let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
            env::split_paths(&path).map(|folder| folder.join(program)).collect()
        }
    };
    let files: Vec<&PathBuf> = candidates.iter().filter(|path| path.is_file()).collect();
    if files.iter().any(|path| is_executable(path)) {
        return Ok(());
    }
    Err(match files.is_empty() {
        true => HandlerError::CommandNotFound(program.to_owned()),
        false => HandlerError::CommandNotExecutable(program.to_owned()),
    })
}

fn is_executable(path: &Path) -> bool {
    access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_are_run_without_a_shell() {
        for text in ["true", " cat  -n ", "/bin/echo a=b 100% a,b:c@d +x", "echo ü", "true\n"] {
            let words: Vec<_> = text.split_ascii_whitespace().map(str::to_owned).collect();
            assert_eq!(CommandLine::find(text).unwrap().line, ParsedCommand::Words(words), "{text}");
        }
    }

    #[test]
    fn other_commands_are_run_by_the_shell() {
        for text in
            ["cat | wc", "echo \"a\"", "A=b env", "exit 75", "cat >> ~/log", "a\nb", "echo $HOME", "nosuch; true"]
        {
            let command = CommandLine::find(text).unwrap();
            assert_eq!(command.program_and_arguments(), ("sh", &["-c".to_owned(), text.to_owned()][..]), "{text}");
        }
    }

    #[test]
    fn missing_programs_are_named() {
        let error = |text: &str| CommandLine::find(text).unwrap_err().to_string();
        assert!(error("nosuch --flag").starts_with(r#"command "nosuch" not found: "#));
        assert!(error("./nosuch").starts_with(r#"command "./nosuch" not found: "#));
        assert!(error("/etc").starts_with(r#"command "/etc" not found: "#));
        assert!(error("/etc/passwd").starts_with(r#"command "/etc/passwd" is not executable: "#));
    }
}
