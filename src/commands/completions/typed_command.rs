//! The command line before the current word, read as far as it makes sense, and what may follow.

use clap::builder::ValueRange;
use clap::{Arg, ArgAction, Command};
use mqueue::proto::TopicName;

use super::choices::{Choice, Choices, Completion, KnownNames, of_value};

/// The longest description, in characters.
const MAX_ABOUT: usize = 60;

/// A command line that is not finished.
#[derive(Debug)]
pub(super) struct TypedCommand<'a> {
    command: &'a Command,
    /// The arguments so far, with their values; flags without a value have an empty one.
    given: Vec<(&'a Arg, String)>,
    /// The flag whose value is next.
    awaiting: Option<&'a Arg>,
    /// The number of positional arguments so far.
    positionals: usize,
    /// True after `--`.
    flags_ended: bool,
}

impl<'a> TypedCommand<'a> {
    /// Reads words. Unknown ones are skipped, as nobody has finished typing.
    pub(super) fn read(cli: &'a Command, words: &[String]) -> Self {
        let mut typed = Self { command: cli, given: Vec::new(), awaiting: None, positionals: 0, flags_ended: false };
        words.iter().for_each(|word| typed.word(word));
        typed
    }

    /// Returns the arguments so far, with their values.
    pub(super) fn given(&self) -> &[(&'a Arg, String)] {
        &self.given
    }

    fn word(&mut self, word: &str) {
        if let Some(arg) = self.awaiting.take() {
            self.given.push((arg, word.to_owned()));
        } else if self.flags_ended {
            self.positional(word);
        } else if word == "--" {
            self.flags_ended = true;
        } else if word.starts_with('-') && word != "-" {
            self.flag(word);
        } else if let Some(command) = self.subcommands().find(|command| command.get_name() == word) {
            self.command = command;
        } else {
            self.positional(word);
        }
    }

    fn positional(&mut self, word: &str) {
        if let Some(arg) = self.next_positional() {
            self.given.push((arg, word.to_owned()));
        }
        self.positionals += 1;
    }

    fn flag(&mut self, word: &str) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let Some(arg) = self.find_flag(name) else { return };
        match value {
            Some(value) => self.given.push((arg, value.to_owned())),
            None if needs_next_word(arg) => self.awaiting = Some(arg),
            None => self.given.push((arg, String::new())),
        }
    }

    /// Finds a flag by its name as typed: `--name`, `-n`, or nsqd's `-name` of the broker.
    fn find_flag(&self, typed: &str) -> Option<&'a Arg> {
        let long = typed.strip_prefix("--").or_else(|| typed.strip_prefix('-').filter(|name| name.len() > 1));
        let short = typed.strip_prefix('-').and_then(|name| name.chars().next().filter(|_| name.chars().count() == 1));
        self.command.get_arguments().find(|arg| {
            let has = |name| arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&name));
            long.is_some_and(has) || short.is_some_and(|short| arg.get_short() == Some(short))
        })
    }

    /// The subcommands that the next word may name.
    fn subcommands(&self) -> impl Iterator<Item = &'a Command> + use<'a> {
        let none_yet = self.positionals == 0;
        self.command.get_subcommands().filter(move |command| none_yet && !command.is_hide_set())
    }

    /// The argument that the next word without a flag belongs to.
    fn next_positional(&self) -> Option<&'a Arg> {
        let mut all = self.command.get_positionals();
        let repeated = |arg: &&Arg| arg.get_num_args().is_some_and(|range| range.max_values() > 1);
        all.nth(self.positionals).or_else(|| self.command.get_positionals().last().filter(repeated))
    }

    /// Returns what may stand in place of the current word.
    pub(super) fn complete(&self, current: &str, names: &dyn KnownNames) -> Completion {
        if let Some(arg) = self.awaiting {
            return self.value(arg, "", current, names);
        }
        if current.starts_with('-') && !self.flags_ended {
            return match current.split_once('=') {
                Some((name, value)) => match self.find_flag(name) {
                    Some(arg) => self.value(arg, &format!("{name}="), value, names),
                    None => words(Vec::new()),
                },
                None => words(self.flags()),
            };
        }
        let commands: Vec<Choice> =
            self.subcommands().map(|command| Choice::new(command.get_name(), about(command.get_about()))).collect();
        match self.next_positional() {
            Some(arg) => self.value(arg, "", current, names),
            None if !commands.is_empty() => words(commands),
            None if current.is_empty() => words(self.flags()),
            None => words(Vec::new()),
        }
    }

    fn value(&self, arg: &Arg, kept: &str, typed: &str, names: &dyn KnownNames) -> Completion {
        of_value(arg, kept, typed, self.stream().as_ref(), names)
    }

    /// The stream that the command line or the environment names.
    fn stream(&self) -> Option<TopicName> {
        let is_stream = |arg: &Arg| matches!(arg.get_id().as_str(), "stream" | "from");
        let typed = self.given.iter().find(|(arg, _)| is_stream(arg)).map(|(_, value)| value.clone());
        let variable = || self.command.get_arguments().find(|arg| is_stream(arg))?.get_env();
        typed.or_else(|| std::env::var(variable()?).ok())?.parse().ok()
    }

    /// The flags that are not given yet, or may be repeated.
    fn flags(&self) -> Vec<Choice> {
        let is_repeated = |arg: &Arg| matches!(arg.get_action(), ArgAction::Append | ArgAction::Count);
        let is_given = |arg: &Arg| self.given.iter().any(|(given, _)| given.get_id() == arg.get_id());
        let offered = |arg: &&Arg| !arg.is_hide_set() && (is_repeated(arg) || !is_given(arg));
        let choice = |arg: &Arg| Some(Choice::new(format!("--{}", arg.get_long()?), about(arg.get_help())));
        self.command.get_arguments().filter(offered).filter_map(choice).collect()
    }
}

fn words(choices: Vec<Choice>) -> Completion {
    Completion { kept: String::new(), choices: Choices::Words(choices) }
}

/// True if the value of a flag is the next word.
fn needs_next_word(arg: &Arg) -> bool {
    let least = arg.get_num_args().unwrap_or(ValueRange::SINGLE).min_values();
    arg.get_action().takes_values() && least > 0 && !arg.is_require_equals_set()
}

/// Returns the beginning of a help text, without the default.
fn about(help: Option<&clap::builder::StyledStr>) -> String {
    let help = help.map(ToString::to_string).unwrap_or_default().replace(['\n', '\t'], " ");
    let help = help.split(" [default").next().unwrap_or_default();
    match help.char_indices().nth(MAX_ABOUT) {
        Some((at, _)) => format!("{}…", help[..at].trim_end()),
        None => help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::cli::whole_command_line;
    use crate::commands::common::context::ContextName;
    use mqueue::proto::ChannelName;

    /// Two streams, and a group that has its stream's name in it.
    struct Names;

    impl KnownNames for Names {
        fn streams(&self) -> Vec<TopicName> {
            ["foo", "bar#ephemeral"].map(|name| name.parse().unwrap()).to_vec()
        }

        fn groups(&self, stream: &TopicName) -> Vec<ChannelName> {
            vec![format!("of-{stream}").parse().unwrap()]
        }

        fn contexts(&self) -> Vec<ContextName> {
            vec!["prod".parse().unwrap()]
        }
    }

    /// Completes the last word of a line, split at blanks; choices are joined by blanks, those
    /// that stay open with a plus.
    fn complete(line: &str) -> (String, String) {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let current = words.pop().unwrap();
        let cli = whole_command_line();
        let completion = TypedCommand::read(&cli, &words).complete(&current, &Names);
        let text = match completion.choices {
            Choices::Files => "FILES".to_owned(),
            Choices::Folders => "FOLDERS".to_owned(),
            Choices::Words(words) => {
                let choice = |choice: &Choice| format!("{}{}", choice.word, if choice.is_open { "+" } else { "" });
                words.iter().map(choice).collect::<Vec<_>>().join(" ")
            }
        };
        (completion.kept, text)
    }

    #[track_caller]
    fn check(line: &str, kept: &str, choices: &str) {
        assert_eq!(complete(line), (kept.to_owned(), choices.to_owned()), "{line:?}");
    }

    #[test]
    fn values_have_the_choices_of_their_type() {
        check("consumer --stream ", "", "foo bar#ephemeral");
        check("consumer --topic ", "", "foo bar#ephemeral");
        check("consumer --stream=f", "--stream=", "foo bar#ephemeral");
        check("consumer --stream foo --group ", "", "of-foo");
        check("consumer --group ", "", "");
        check("stage --from bar#ephemeral --group ", "", "of-bar#ephemeral");
        check("--context ", "", "prod");
        check("ls --context=", "--context=", "prod");
        check("context use ", "", "prod");
        check("--log ", "", "error warn info debug trace off");
        check("consumer --output ", "", "json body null");
        check("consumer --create=", "--create=", "once retry");
        check("consumer --count ", "", "");
        check("completions ", "", "bash zsh fish");
    }

    #[test]
    fn handlers_and_addresses_are_completed_in_parts() {
        let handlers = "print exec:+ pipe:+ http://+ https://+ file:+ unix:+ forward:+ sleep:+";
        check("consumer --handler ", "", handlers);
        check("consumer --handler=fi", "--handler=", handlers);
        check("consumer --handler file:/t", "file:", "FILES");
        check("consumer --handler=exec:./x", "--handler=exec:", "FILES");
        check("consumer --handler forward:", "forward:", "foo bar#ephemeral");
        check("stage --to ", "", "foo bar#ephemeral unix:+ http://+ https://+");
        check("ingest --listen unix:/a,", "unix:/a,", "unix:+ unixgram:+ tcp:+ udp:+");
    }

    #[test]
    fn paths_are_left_to_the_shell() {
        check("consumer --tls-ca-file ", "", "FILES");
        check("producer ", "", "FILES");
        check("producer --stream foo a ", "", "FILES");
        check("broker --data-path ", "", "FOLDERS");
        check("broker -data-path=", "-data-path=", "FOLDERS");
        check("broker --tls-cert ", "", "FILES");
        check("broker backup --to ", "", "FOLDERS");
        check("broker import --from ", "", "FOLDERS");
        check("wakeup --socket-dir=/a,", "--socket-dir=/a,", "FOLDERS");
    }

    #[test]
    fn streams_and_groups_are_completed_in_one_word() {
        check("pause ", "", "foo foo/+ bar#ephemeral bar#ephemeral/+");
        check("pause foo/", "foo/", "of-foo");
        check("pause foo bar#ephemeral/", "bar#ephemeral/", "of-bar#ephemeral");
        check("ls ", "", "foo bar#ephemeral");
        check("tail foo ", "", &complete("tail foo -").1);
    }

    #[test]
    fn commands_and_flags_are_those_of_help() {
        let (_, commands) = complete("con");
        let commands: Vec<&str> = commands.split(' ').collect();
        for command in ["producer", "consumer", "context", "completions", "help"] {
            assert!(commands.contains(&command), "{commands:?}");
        }
        assert_eq!(complete("help ").1.split(' ').filter(|name| *name == "consumer").count(), 1);
        check("context ", "", "add use ls rm help");
        let (_, flags) = complete("consumer --stream foo --nsqd-tcp-address :1 --");
        let flags: Vec<&str> = flags.split(' ').collect();
        for flag in ["--group", "--nsqd-tcp-address", "--log", "--help"] {
            assert!(flags.contains(&flag), "{flag}: {flags:?}");
        }
        assert!(!flags.contains(&"--stream"), "it is given: {flags:?}");
        check("consumer --stream foo x", "", "");
    }
}
