//! A command as typed: run directly if it is only words, by the shell if it needs one. GNU make decides in the same way
//! (`src/job.c`, `construct_command_argv_internal`): a shell doubles the price of a short command.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tokio::process::Command;

use super::HandlerError;
use super::child_environment::withheld;
use crate::proto::{ChannelName, TopicName};

/// What means something to a shell.
const SHELL_CHARACTERS: &[char] = &[
    '#', ';', '"', '\'', '\\', '*', '?', '[', ']', '&', '|', '<', '>', '(', ')', '{', '}', '$', '`', '^', '~', '!',
    '\n',
];
/// Commands that only a shell has, or that mean something else without one. Others that are built in (echo, test) are
/// programs as well.
const SHELL_WORDS: &[&str] = &[
    ".", ":", "alias", "break", "case", "cd", "command", "continue", "eval", "exec", "exit", "export", "for", "hash",
    "if", "local", "read", "readonly", "return", "set", "shift", "source", "times", "trap", "type", "ulimit", "umask",
    "unset", "until", "wait", "while",
];
/// Where programs are looked for when PATH is not set, as execvp does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A command line, and the variables that it does not inherit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandLine {
    line: Line,
    withheld: Vec<OsString>,
}

/// A command line, split or left to the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    /// A program that was found, and its arguments: never empty.
    Words(Vec<String>),
    /// A script for `sh -c`.
    Script([String; 2]),
}

impl CommandLine {
    /// Splits a command that is only words, and fails if its program cannot be found or run.
    pub(super) fn find(text: &str) -> Result<Self, HandlerError> {
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        let line = match words.first() {
            Some(program) if !needs_shell(text, program) => {
                find(program)?;
                Line::Words(words)
            }
            Some(_) => Line::Script(["-c".to_owned(), text.to_owned()]),
            None => return Err(HandlerError::CommandNotFound(text.to_owned())),
        };
        Ok(Self { line, withheld: withheld(env::vars_os()) })
    }

    /// The same command, which does not inherit these variables either.
    pub(super) fn without(mut self, variables: &[String]) -> Self {
        // each costs something at every start: only those that are set
        self.withheld.extend(variables.iter().filter(|name| env::var_os(name).is_some()).map(OsString::from));
        self
    }

    /// The program to run.
    pub(super) fn program(&self) -> &str {
        self.program_and_arguments().0
    }

    /// The program to run, and what it is given.
    pub(super) fn program_and_arguments(&self) -> (&str, &[String]) {
        match &self.line {
            Line::Words(words) => (&words[0], &words[1..]),
            Line::Script(arguments) => ("sh", arguments),
        }
    }

    /// The command to start, whose environment says where its messages come from. Nothing may need `pre_exec` or a changed PATH: std
    /// would fork, which copies this process's page tables, where it now uses posix_spawn.
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

/// Looks for a program as execvp will. PATH is read here, at the edge: it is what execvp itself reads.
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
    fn only_words_are_run_directly() {
        for text in ["true", " cat  -n ", "/bin/echo a=b 100% a,b:c@d +x", "echo ü", "true\n"] {
            let words: Vec<_> = text.split_ascii_whitespace().map(str::to_owned).collect();
            assert_eq!(CommandLine::find(text).unwrap().line, Line::Words(words), "{text}");
        }
    }

    #[test]
    fn all_else_is_the_shells() {
        for text in
            ["cat | wc", "echo \"a\"", "A=b env", "exit 75", "cat >> ~/log", "a\nb", "echo $HOME", "nosuch; true"]
        {
            let command = CommandLine::find(text).unwrap();
            assert_eq!(command.program_and_arguments(), ("sh", &["-c".to_owned(), text.to_owned()][..]), "{text}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = |text: &str| CommandLine::find(text).unwrap_err().to_string();
        assert!(error("nosuch --flag").starts_with(r#"command "nosuch" not found: "#));
        assert!(error("./nosuch").starts_with(r#"command "./nosuch" not found: "#));
        assert!(error("/etc").starts_with(r#"command "/etc" not found: "#));
        assert!(error("/etc/passwd").starts_with(r#"command "/etc/passwd" is not executable: "#));
    }
}
