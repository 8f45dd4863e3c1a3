//! mqueue(7): the words of the program, from the glossary of the documentation.

use super::roff::{RoffPage, Word};
use super::{ManualPage, RELEASED};

/// The page with the glossary.
const DOCUMENTATION: &str = include_str!("../../../docs/README.md");

/// Files and folders, and what they are for.
const FILES: [(&str, &str); 4] = [
    ("/etc/mqueue/", "settings of the units, a line NAME=value for each variable"),
    ("/run/mqueue/", "activation sockets: GROUP.sock wakes the group GROUP"),
    ("~/.config/mqueue/contexts.toml", "contexts: addresses and settings of clusters, under names"),
    ("/var/lib/mqueue/", "the log of the broker, where systemd runs it"),
];

/// Builds the page.
pub(super) fn page() -> ManualPage {
    let mut page = RoffPage::new("mqueue", 7, RELEASED, env!("CARGO_PKG_VERSION"));
    page.section("Name");
    page.name("mqueue", "concepts: streams, groups, sleeping consumers, dead letters");
    page.section("Description");
    page.paragraphs(INTRODUCTION, false);
    page.section("A message's journey");
    page.paragraphs(JOURNEY, false);
    page.section("A consumer's sleep");
    page.paragraphs(SLEEP, false);
    page.section("Words");
    for (word, meaning) in glossary() {
        page.term(&[Word::Bold(&word)]);
        page.line(&meaning);
    }
    page.section("Files");
    for (path, meaning) in FILES {
        page.term(&[Word::Bold(path)]);
        page.line(meaning);
    }
    page.section("See also");
    page.line("mqueue(1), mqueue-consumer(1), mqueue-wakeup(1), mqueue-broker(1), systemd.socket(5)");
    ManualPage { file: "mqueue.7".to_owned(), text: page.into_text() }
}

const INTRODUCTION: &str = "mqueue has producers and consumers for NSQ, and a broker for one machine. A producer \
publishes messages to a stream, which NSQ calls a topic. A stream has groups, which NSQ calls channels. Each group \
receives every message that is published after the group was created; the consumers of a group share them.";

const JOURNEY: &str = "A message is published when nsqd has answered OK: without an answer it is sent again, and may \
be there twice, never not at all. It is delivered to a consumer, and is then in flight. While its handler works, the \
consumer touches it, so that it does not time out.

The handler's verdict is `done`, `retry` or `dead letter`. Only after the work does the message leave its group (FIN). A \
message to retry is requeued with a delay (REQ). After --max-attempts tries, or when the handler says so, it is \
published to the stream of dead letters, STREAM.dead, with the reason; then it leaves its group. `mqueue errors` lists \
dead letters, and redrives them to the group that gave them up.

Delivery is at least once and in no order: after a lost connection or a kill a message may arrive twice.";

const SLEEP: &str = "A consumer exits when it was idle for --timeout. systemd keeps its activation socket, so the group \
costs no process. `mqueue wakeup` watches the depths of all groups; when messages wait for a group that has no consumer, \
it pokes the group's socket: it connects, and sends nothing. systemd then starts the consumer, which subscribes, works, \
and sleeps again. The name of the socket is that of the group: GROUP.sock in /run/mqueue.";

/// Returns the words and their meanings.
fn glossary() -> Vec<(String, String)> {
    let (_, glossary) = DOCUMENTATION.split_once("\n## Glossary\n").unwrap_or_default();
    let rows = glossary.lines().filter_map(|line| {
        let (word, meaning) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
        Some((without_markup(word), without_markup(meaning)))
    });
    rows.filter(|(word, _)| word != "word").collect()
}

/// Removes Markdown's links, code and emphasis.
fn without_markup(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain += before;
        rest = match link.split_once("](").and_then(|(shown, after)| Some((shown, after.split_once(')')?.1))) {
            Some((shown, after)) => {
                plain += shown;
                after
            }
            None => link,
        };
    }
    (plain + rest).replace(['`', '*'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_glossary_is_on_the_page() {
        let words = glossary();
        assert!(words.len() > 30, "{words:?}");
        let page = page().text;
        for word in ["stream, topic", "dead letter", "activation socket", "poke", "asleep, awake", "lease, epoch"] {
            assert!(words.iter().any(|(is, _)| is == word), "{word}: {words:?}");
            assert!(page.contains(&format!("\\fB{word}\\fR\n")), "{word}");
        }
        assert!(words.iter().all(|(word, meaning)| !word.contains('[') && !meaning.contains("](")), "{words:?}");
    }
}
