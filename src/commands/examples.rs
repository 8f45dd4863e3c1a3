//! Examples of commands, for `--help` and the manual pages.

use std::fmt::Write;

use clap::Command;
use clap::builder::StyledStr;

/// Command lines and what they do, by command; `mqueue` is the program.
const EXAMPLES: [(&str, &[(&str, &str)]); 40] = [
    (
        "mqueue",
        &[
            ("mqueue demo", "Show publishing, consuming, sleeping and waking"),
            ("mqueue broker --data-path mqueue-data", "Run a broker on this machine"),
            ("printf 'one\\ntwo\\n' | mqueue producer --stream foo", "Publish two messages"),
            (
                "mqueue consumer --stream foo --group 1 --output body --timeout 2",
                "Print them, and exit when idle for 2 s",
            ),
            ("mqueue doctor", "Find what is wrong"),
        ],
    ),
    (
        "producer",
        &[
            ("mqueue producer --stream foo <lines.txt", "Publish each line of a file"),
            ("mqueue producer --stream foo --rate 1000 --duration 10s", "Publish 1000 generated events a second"),
            ("mqueue producer --stream foo --whole-file picture.png", "Publish a file as one message"),
        ],
    ),
    (
        "ingest",
        &[(
            "mqueue ingest --to lines --listen unix:/run/lines.sock",
            "Publish each line that a program writes to a socket",
        )],
    ),
    ("send", &[("mqueue send --to unix:/run/lines.sock --count 500", "Send 500 numbered lines")]),
    (
        "consumer",
        &[
            ("mqueue consumer --stream foo --group 1", "Print messages as JSON until Ctrl-C"),
            (
                "mqueue consumer --stream mail --group send --handler exec:./send-mail --concurrency 8",
                "Run a command for each message, at most 8 at once",
            ),
            (
                "mqueue consumer --stream log --group archive --handler file:/var/log/archive/ --gzip",
                "Append messages to files that are rotated",
            ),
            (
                "mqueue consumer --stream mail --group send --handler http://127.0.0.1:8000/hook --max-attempts 3",
                "POST each message; after three tries it is a dead letter",
            ),
        ],
    ),
    (
        "stage",
        &[(
            "mqueue stage --from orders --group price --to priced --handler exec:./price",
            "Publish what a command makes of each message",
        )],
    ),
    (
        "bridge",
        &[
            ("mqueue bridge --from redis://localhost:6379/jobs --to jobs", "Publish the entries of a list in Redis"),
            (
                "mqueue bridge --from jobs --group redis --to redis://localhost:6379/jobs",
                "Push each message to a list in Redis",
            ),
            (
                "mqueue bridge --from jobs --group copy --to jobs --to-nsqd-tcp-address other:4150",
                "Copy a stream to another cluster",
            ),
        ],
    ),
    ("pipeline", &[("mqueue pipeline --stages 5 --rate 500 --count 5000", "Count 5000 messages through five stages")]),
    (
        "gateway",
        &[
            ("mqueue gateway --counter", "Serve numbered jobs on 127.0.0.1:5000"),
            ("curl -N 'http://127.0.0.1:5000/streams/jobs/groups/workers/jobs?create=true'", "Take jobs with curl"),
        ],
    ),
    ("worker", &[("mqueue worker --handler exec:./work", "Run a command for each job of the gateway on this machine")]),
    (
        "node",
        &[
            ("mqueue node --stream foo --group 1 --mport 8081", "Run one node of a fleet"),
            ("mqueue node --store redis://localhost:6379 --mport 8081", "Run one whose events are in a list in Redis"),
        ],
    ),
    (
        "wakeup",
        &[
            ("mqueue wakeup --once --dry-run", "Print which sleeping groups have messages"),
            (
                "mqueue wakeup --socket /run/consumer.sock --listen 127.0.0.1:9404",
                "Watch one socket more, and serve metrics",
            ),
        ],
    ),
    ("ls", &[("mqueue ls", "List streams and groups"), ("mqueue ls --json orders", "Print one stream as JSON")]),
    ("top", &[("mqueue top --filter orders", "Watch streams and groups with this text in their names")]),
    ("web", &[("mqueue web --listen 127.0.0.1:8080", "Serve the page on a port of this machine")]),
    ("create", &[("mqueue create orders/billing orders/mail", "Create a stream with two groups")]),
    ("pause", &[("mqueue pause orders/billing", "Deliver nothing to a group's consumers")]),
    ("unpause", &[("mqueue unpause orders/billing", "Deliver again")]),
    ("empty", &[("mqueue empty orders/billing --dry-run", "Print how many messages would be discarded")]),
    ("delete", &[("mqueue delete orders/billing --yes", "Delete a group without a question")]),
    ("peek", &[("mqueue peek orders/billing -n 1", "Show the next message of a group")]),
    ("tail", &[("mqueue tail orders --grep refund", "Show new messages with a text in them")]),
    (
        "record",
        &[("mqueue record orders --to recording --keep 7d,10GB", "Keep a stream's messages of a week in a folder")],
    ),
    (
        "replay",
        &[
            ("mqueue replay recording --grep refund --dry-run", "Count the messages with a text in them"),
            (
                "mqueue replay recording --from 05:40 --until 05:45 --speed 10x",
                "Publish those of five minutes, to orders.replay",
            ),
        ],
    ),
    (
        "context",
        &[
            ("mqueue context add prod --lookupd-http-address lookupd.example.org:4161", "Keep an address under a name"),
            ("mqueue ls --context prod", "Use it"),
        ],
    ),
    (
        "context add",
        &[("mqueue context add prod --lookupd-http-address lookupd.example.org:4161", "Keep an address under a name")],
    ),
    ("context use", &[("mqueue context use prod", "Make a context the current one")]),
    ("context rm", &[("mqueue context rm prod", "Remove a context")]),
    ("doctor", &[("mqueue doctor --json", "Print findings for a program")]),
    (
        "errors",
        &[
            ("mqueue errors --stream mail", "List dead letters"),
            (
                "mqueue errors --stream mail --redrive --filter timeout --dry-run",
                "Count those that a redrive would publish",
            ),
            ("mqueue errors --store redis://localhost:6379 --get", "Print and remove those of nodes on Redis"),
        ],
    ),
    ("bench", &[("mqueue bench both --rate 1000", "Measure latencies at 1000 messages a second")]),
    ("simulate", &[("mqueue simulate --plan", "Compute the number of workers without running")]),
    ("prove", &[("mqueue prove --cases 10", "Cut the power to ten brokers, and count what they lost")]),
    (
        "broker",
        &[
            ("mqueue broker --data-path /var/lib/mqueue", "Keep the log in a folder"),
            (
                "mqueue broker --memory --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0",
                "Run a broker without a log on free ports",
            ),
        ],
    ),
    ("broker verify", &[("mqueue broker verify /var/lib/mqueue", "Check every checksum of a log")]),
    (
        "broker backup",
        &[(
            "mqueue broker backup --data-path /var/lib/mqueue --to /backup/mqueue",
            "Copy the log while the broker runs",
        )],
    ),
    (
        "broker import",
        &[(
            "mqueue broker import --from /var/lib/nsqd --data-path /var/lib/mqueue",
            "Take over the messages of an nsqd that was stopped",
        )],
    ),
    ("demo", &[("mqueue demo --for 10s", "Show it in ten seconds")]),
    ("completions", &[("source <(mqueue completions bash)", "Complete in this session of bash")]),
    (
        "man",
        &[
            ("mqueue man consumer", "Read the page of a command"),
            ("mqueue man --to /usr/local/share/man/man1", "Install the pages"),
        ],
    ),
];

/// Returns the examples of a command, such as `consumer` or `context add`.
pub(crate) fn of(command: &str) -> &'static [(&'static str, &'static str)] {
    EXAMPLES.iter().find(|(name, _)| *name == command).map_or(&[], |(_, examples)| examples)
}

/// Adds the examples of a command to its long help.
pub(crate) fn add_to_help(command: Command) -> Command {
    let examples = of(command.get_name());
    if examples.is_empty() {
        return command;
    }
    let header = *command.get_styles().get_header();
    let mut help = StyledStr::new();
    let _ = write!(help, "{header}Examples:{header:#}");
    for (line, about) in examples {
        let _ = write!(help, "\n  {about}:\n    {line}");
    }
    command.after_long_help(help)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::cli::{Cli, whole_command_line};

    /// Splits a simple command line at blanks, without its redirections.
    fn words(line: &str) -> Vec<&str> {
        let line = &line[line.find("mqueue ").expect("it runs mqueue")..];
        let line = line.split(['<', '>', '|', ')']).next().unwrap_or_default();
        line.split_whitespace().collect()
    }

    #[test]
    fn every_command_has_an_example_and_every_example_is_valid() {
        let cli = whole_command_line();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            assert!(!of(command.get_name()).is_empty(), "{} has no example", command.get_name());
        }
        for (command, examples) in EXAMPLES {
            let first = command.split(' ').next().expect("a word");
            assert!(command == "mqueue" || cli.find_subcommand(first).is_some(), "{command} is no command");
            for (line, about) in examples.iter().filter(|(line, _)| line.contains("mqueue ")) {
                let words = words(line);
                assert!(!about.ends_with('.'), "{about}");
                let parsed = Cli::try_parse_from(&words).map(drop).map_err(|error| error.to_string());
                assert_eq!(parsed, Ok(()), "{line}");
                assert!(command == "mqueue" || line.contains(&format!("mqueue {command}")) || examples.len() > 1);
            }
        }
    }

    #[test]
    fn long_help_ends_with_the_examples() {
        let cli = whole_command_line();
        let help = cli.find_subcommand("consumer").unwrap().clone().render_long_help().to_string();
        assert!(
            help.contains("Examples:\n  Print messages as JSON until Ctrl-C:\n    mqueue consumer --stream"),
            "{help}"
        );
        let help = cli.find_subcommand("consumer").unwrap().clone().render_help().to_string();
        assert!(!help.contains("Examples:"), "{help}");
    }
}
