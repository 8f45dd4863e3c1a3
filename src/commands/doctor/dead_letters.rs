//! Checks of dead letters: waiting ones, and growing numbers.

use std::collections::BTreeMap;

use super::finding::{CheckId, Finding};
use super::observed::{Observed, amount};
use mqueue::plural::count;
use mqueue::proto::TopicName;
use mqueue::wake::shell_commands::shell;
use mqueue::worker::DeadLetter;

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let waiting = waiting(observed);
    let findings: Vec<Finding> =
        waiting.iter().filter_map(|(stream, depth)| finding(observed, stream, depth)).collect();
    if findings.is_empty() && !waiting.is_empty() {
        let streams = count(waiting.len() as u64, "stream");
        return vec![Finding::ok(CheckId::DeadLetters, "dead letters", format!("none wait, in {streams}"))];
    }
    findings
}

/// The dead letters that wait in one stream, and the group with the most.
#[derive(Debug, Default)]
struct WaitingLetters {
    depth: u64,
    most: Option<(u64, String)>,
}

fn waiting(observed: &Observed) -> BTreeMap<TopicName, WaitingLetters> {
    let mut all: BTreeMap<TopicName, WaitingLetters> = BTreeMap::new();
    for (_, stream, topic) in observed.streams().filter(|(_, stream, _)| DeadLetter::is_stream(stream.as_str())) {
        let here = all.entry(stream).or_default();
        let groups = topic.channels.iter().filter(|channel| !channel.channel_name.ends_with("#ephemeral"));
        let most = groups.map(|group| (amount(group.depth), group.channel_name.clone())).max();
        // each group has a copy of every dead letter: the fullest one gives the number
        let depth = amount(topic.depth).saturating_add(most.as_ref().map_or(0, |(depth, _)| *depth));
        here.depth = here.depth.saturating_add(depth);
        here.most = here.most.take().max(most);
    }
    all
}

fn finding(observed: &Observed, stream: &TopicName, waiting: &WaitingLetters) -> Option<Finding> {
    let subject = format!("stream {stream}");
    let fix = list(observed, stream, waiting);
    let growth = observed.growth.as_ref().filter(|growth| growth.came.get(stream).is_some_and(|came| *came > 0));
    if let Some(growth) = growth {
        let rate = growth.came[stream] as f64 / growth.over.as_secs_f64();
        let message = format!("{} and growing by {rate:.1}/s: a handler fails", count(waiting.depth, "dead letter"));
        return Some(Finding::error(CheckId::DeadLetters, subject, message, fix));
    }
    let message = format!("{} waiting (the first line of each has the reason)", count(waiting.depth, "dead letter"));
    (waiting.depth > 0).then(|| Finding::warning(CheckId::DeadLetters, subject, message, fix))
}

/// Returns the command that lists the letters. A consumer would move them to a group that `mqueue
/// errors` does not read.
fn list(observed: &Observed, stream: &TopicName, waiting: &WaitingLetters) -> String {
    let of = match stream.as_str().strip_suffix(".dead").filter(|of| !of.is_empty()) {
        Some(of) => of.to_owned(),
        None => format!("{stream} --dead-letter={stream}"),
    };
    // letters that a group has already are in no other group
    let has_them = |(depth, name): &&(u64, String)| *depth > 0 && name != "errors";
    let group = waiting.most.as_ref().filter(has_them).map(|(_, name)| format!(" --group={}", shell(name)));
    format!("mqueue errors --stream={of}{}{}", group.unwrap_or_default(), observed.broker_flags())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::finding::Level;
    use super::super::observed::{DeadLetterGrowth, NsqdReport, ProbedHttp};
    use super::*;
    use mqueue::proto::stats::{ChannelStats, Stats, TopicStats};

    fn seen(depth: i64, channels: &[(&str, i64)]) -> Observed {
        let channel = |(name, depth): &(&str, i64)| ChannelStats {
            channel_name: (*name).to_owned(),
            depth: *depth,
            ..ChannelStats::default()
        };
        let channels = channels.iter().map(channel).collect();
        let topic = TopicStats { topic_name: "foo.dead".to_owned(), depth, channels, ..TopicStats::default() };
        let stats = Stats { topics: [topic].into_iter().collect(), ..Stats::default() };
        let answer = Ok(NsqdReport { stats, ..NsqdReport::default() });
        Observed { http: vec![ProbedHttp { address: "a:1".to_owned(), listed: None, answer }], ..Observed::default() }
    }

    #[test]
    fn waiting_dead_letters_are_reported_with_the_command_that_lists_them() {
        let reported = |observed: &Observed| check(observed).remove(0);
        let finding = reported(&seen(3, &[]));
        assert_eq!((finding.level, &finding.message[..14]), (Level::Warning, "3 dead letters"));
        assert_eq!(finding.fix.unwrap(), "mqueue errors --stream=foo --nsqd-http-address a:1");
        let finding = reported(&seen(0, &[("a", 1), ("b", 2), ("tail#ephemeral", 9)]));
        assert_eq!(&finding.message[..14], "2 dead letters", "copies are not counted twice");
        assert_eq!(finding.fix.unwrap(), "mqueue errors --stream=foo --group=b --nsqd-http-address a:1");
        assert_eq!(reported(&seen(0, &[("a", 0)])).level, Level::Ok);
    }

    #[test]
    fn growing_dead_letters_are_an_error() {
        let mut observed = seen(3, &[]);
        let grown = |came| {
            let came = BTreeMap::from([(TopicName::new("foo.dead").unwrap(), came)]);
            Some(DeadLetterGrowth { over: Duration::from_secs(2), came })
        };
        observed.growth = grown(5);
        let finding = check(&observed).remove(0);
        assert_eq!(finding.level, Level::Error);
        assert!(finding.message.contains("growing by 2.5/s"), "{}", finding.message);
        observed.growth = grown(0);
        assert_eq!(check(&observed)[0].level, Level::Warning);
    }
}
