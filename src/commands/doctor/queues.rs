//! Streams and groups: messages that nobody will take.

use std::collections::BTreeMap;

use super::finding::{Check, Finding};
use super::observed::{Group, Observed, amount};
use super::units;
use mqueue::plural::count;
use mqueue::proto::stats::TopicStats;
use mqueue::proto::{ChannelName, TopicName};
use mqueue::wake::fleet;
use mqueue::wake::shell_commands::{self, in_url, post, shell};
use mqueue::worker::DeadLetter;

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let groups = observed.groups();
    let mut findings = Vec::new();
    for (http, stream, topic) in observed.streams() {
        if !observed.is_a_fleets(&stream) {
            findings.extend(without_group(&http.address, &stream, topic, &groups));
        }
        findings.extend(paused(&http.address, &stream, topic));
    }
    findings.extend(groups.iter().filter_map(|((stream, name), group)| unattended(observed, stream, name, *group)));
    if findings.is_empty() && observed.answers().next().is_some() {
        let mut streams: Vec<TopicName> = observed.streams().map(|(_, stream, _)| stream).collect();
        streams.sort();
        streams.dedup();
        let what = format!("{}, {}", count(streams.len() as u64, "stream"), count(groups.len() as u64, "group"));
        findings.push(Finding::ok(Check::Groups, "queues", format!("{what}: somebody is there for all that waits")));
    }
    findings.extend(groups.iter().filter_map(|((stream, name), group)| token_of_none(observed, stream, name, *group)));
    findings
}

/// What a stream keeps goes to its first group, on each nsqd for itself.
fn without_group(
    http: &str,
    stream: &TopicName,
    topic: &TopicStats,
    groups: &BTreeMap<(TopicName, ChannelName), Group>,
) -> Option<Finding> {
    let depth = amount(topic.depth);
    if depth == 0 || !topic.channels.is_empty() || DeadLetter::is_stream(stream.as_str()) {
        return None;
    }
    let elsewhere: Vec<&str> = groups.keys().filter(|(s, _)| s == stream).map(|(_, name)| name.as_str()).collect();
    let waiting = count(depth, "message");
    let (what, mend) = match elsewhere.is_empty() {
        true => {
            let mend = shell_commands::create_first_group(http, stream.as_str());
            (format!("{waiting} in a stream without groups: the first group gets all of them"), mend)
        }
        false => {
            let mend = shell_commands::create_groups(http, stream.as_str(), &elsewhere, topic.paused);
            (format!("{waiting} on nsqd {http}, where its groups are not: no consumer looks there"), mend)
        }
    };
    Some(Finding::warning(Check::Streams, format!("stream {stream}"), what, mend))
}

/// Paused queues that have messages, each with what sets it going.
fn paused(http: &str, stream: &TopicName, topic: &TopicStats) -> Vec<Finding> {
    let mut findings = Vec::new();
    if topic.paused && topic.depth > 0 {
        let what = format!("paused, with {} before its groups", count(amount(topic.depth), "message"));
        let mend = post(http, "topic/unpause", stream.as_str(), None);
        findings.push(Finding::warning(Check::Paused, format!("stream {stream}"), what, mend));
    }
    for channel in topic.channels.iter().filter(|channel| channel.paused && channel.depth > 0) {
        let Ok(name) = ChannelName::new(&channel.channel_name) else { continue };
        let what = format!("paused, with {} waiting", count(amount(channel.depth), "message"));
        let mend = post(http, "channel/unpause", stream.as_str(), Some(name.as_str()));
        findings.push(Finding::warning(Check::Paused, format!("group {stream}/{name}"), what, mend));
    }
    findings
}

/// Messages wait, and there is neither a consumer nor a socket to wake one by.
fn unattended(observed: &Observed, stream: &TopicName, name: &ChannelName, group: Group) -> Option<Finding> {
    let waits = group.depth > 0 && group.clients == 0 && !group.paused;
    if !waits
        || DeadLetter::is_stream(stream.as_str())
        || observed.is_a_fleets(stream)
        || observed.has_socket(name.as_str())
    {
        return None;
    }
    let what = format!("{} waiting, without a consumer or a socket to wake one", count(group.depth, "message"));
    let mend = match observed.systemd.as_ref().is_some_and(|systemd| systemd.has_template) {
        true => units::put_to_sleep_as(observed, stream.as_str(), name.as_str()),
        false => look(observed, stream, name),
    };
    Some(Finding::warning(Check::Groups, format!("group {stream}/{name}"), what, mend))
}

/// The token of a fleet whose nodes have all ended: it waits for the next one, and whoever else takes it takes it from the fleet.
fn token_of_none(observed: &Observed, stream: &TopicName, name: &ChannelName, group: Group) -> Option<Finding> {
    let waits = group.depth > 0 && group.clients == 0 && name.as_str() == fleet::TOKEN;
    (waits && observed.is_a_fleets(stream)).then(|| {
        let what =
            "the token of a fleet of nodes of which none runs: the next `mqueue node` takes it, so leave it there";
        Finding::ok(Check::Groups, format!("group {stream}/{name}"), what)
    })
}

/// Shows the group on each nsqd that has it. What is to become of its messages only its own consumer knows: one without a handler would print
/// them, and they were gone.
fn look(observed: &Observed, stream: &TopicName, name: &ChannelName) -> String {
    let has = |topic: &TopicStats| topic.channels.iter().any(|channel| channel.channel_name == name.as_str());
    let nsqds = observed.streams().filter(|(_, other, topic)| other == stream && has(topic));
    let urls = nsqds.map(|(http, ..)| {
        let url = format!(
            "http://{}/stats?topic={}&channel={}",
            http.address,
            in_url(stream.as_str()),
            in_url(name.as_str())
        );
        format!("curl -fsS {}", shell(&url))
    });
    format!("{}    # only looks; then start its consumer, with its handler", urls.collect::<Vec<_>>().join(" && "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::finding::Level;
    use super::super::observed::{Answer, Ears, Entry, Folder, Http, Kind};
    use super::*;
    use mqueue::proto::stats::{ChannelStats, Stats};

    fn channel(name: &str, depth: i64, clients: i64, paused: bool) -> ChannelStats {
        ChannelStats { channel_name: name.to_owned(), depth, client_count: clients, paused, ..ChannelStats::default() }
    }

    fn topic(name: &str, depth: i64, channels: Vec<ChannelStats>) -> TopicStats {
        TopicStats {
            topic_name: name.to_owned(),
            depth,
            channels: channels.into_iter().collect(),
            ..TopicStats::default()
        }
    }

    fn nsqd(address: &str, topics: Vec<TopicStats>) -> Http {
        let stats = Stats { topics: topics.into_iter().collect(), ..Stats::default() };
        Http { address: address.to_owned(), listed: None, answer: Ok(Answer { stats, ..Answer::default() }) }
    }

    fn seen(http: Vec<Http>) -> Observed {
        Observed { http, ..Observed::default() }
    }

    /// The one finding for these topics.
    fn one(observed: &Observed) -> (Level, Check, String) {
        match &check(observed)[..] {
            [finding] => (finding.level, finding.check, finding.mend.clone().unwrap_or_default()),
            other => panic!("{other:#?}"),
        }
    }

    #[test]
    fn a_stream_without_groups_is_told_when_it_keeps_messages() {
        let (level, check, mend) = one(&seen(vec![nsqd("a:1", vec![topic("foo", 3, vec![])])]));
        assert_eq!((level, check), (Level::Warning, Check::Streams));
        let create = "curl -fsS -X POST -G --data-urlencode \"channel=$group\" 'http://a:1/channel/create?topic=foo'";
        assert_eq!(mend, format!("printf 'its group: ' >&2 && read -r group && {create}"));
        let nothing = topic("foo", 0, vec![]);
        assert_eq!(one(&seen(vec![nsqd("a:1", vec![nothing])])).0, Level::Ok);
    }

    #[test]
    fn groups_that_are_on_another_nsqd_only_are_created_here() {
        let there = nsqd("a:1", vec![topic("foo", 0, vec![channel("x", 0, 1, false), channel("y", 0, 1, false)])]);
        let (_, _, mend) = one(&seen(vec![there, nsqd("b:1", vec![topic("foo", 3, vec![])])]));
        assert!(mend.contains("http://b:1/channel/create?topic=foo&channel=x' && curl"), "{mend}");
    }

    #[test]
    fn paused_queues_with_messages_get_the_command_that_sets_them_going() {
        let paused = |name, depth| seen(vec![nsqd("a:1", vec![topic("foo", 0, vec![channel(name, depth, 0, true)])])]);
        let (level, check, mend) = one(&paused("x#ephemeral", 2));
        assert_eq!((level, check), (Level::Warning, Check::Paused));
        assert_eq!(mend, "curl -fsS -X POST 'http://a:1/channel/unpause?topic=foo&channel=x%23ephemeral'");
        assert_eq!(one(&paused("x", 0)).0, Level::Ok);
        let stream = TopicStats { paused: true, ..topic("foo", 2, vec![channel("x", 0, 0, false)]) };
        let (_, check, mend) = one(&seen(vec![nsqd("a:1", vec![stream])]));
        assert_eq!((check, mend.as_str()), (Check::Paused, "curl -fsS -X POST 'http://a:1/topic/unpause?topic=foo'"));
    }

    #[test]
    fn messages_that_nobody_is_there_for_are_told() {
        let group =
            |depth, clients| seen(vec![nsqd("a:1", vec![topic("foo", 0, vec![channel("x", depth, clients, false)])])]);
        let (level, check, mend) = one(&group(2, 0));
        assert_eq!((level, check), (Level::Warning, Check::Groups));
        assert!(mend.starts_with("curl -fsS 'http://a:1/stats?topic=foo&channel=x'    # only looks"), "{mend}");
        assert_eq!(one(&group(2, 1)).0, Level::Ok);
        assert_eq!(one(&group(0, 0)).0, Level::Ok);
        let mut with_socket = group(2, 0);
        let entry = Entry {
            path: "/s/x@1.sock".into(),
            stem: "x@1".to_owned(),
            kind: Kind::Socket(Ears::Some),
            mode: 0o660,
            uid: 0,
            gid: 0,
            mine: true,
        };
        with_socket.folders.push(Folder { path: Path::new("/s").to_owned(), entries: Ok(vec![entry]) });
        assert_eq!(one(&with_socket).0, Level::Ok);
    }

    #[test]
    fn a_fleets_token_and_beats_are_nobodys_to_consume() {
        for depth in [(1, 0), (0, 1)] {
            let of = |name: &str| {
                let channels = if depth.1 > 0 { vec![channel("token", depth.1, 0, false)] } else { vec![] };
                topic(name, depth.0, channels)
            };
            for names in [vec!["tk.token"], vec!["tk.token.beats"], vec!["lease", "lease.beats"]] {
                let topics = names.iter().map(|name| of(name)).collect();
                let findings = check(&seen(vec![nsqd("a:1", topics)]));
                assert!(findings.iter().all(|it| it.level == Level::Ok && it.mend.is_none()), "{findings:?}");
                let tells = findings.iter().any(|it| it.what.contains("the token of a fleet"));
                assert_eq!(tells, depth.1 > 0, "{findings:?}");
            }
        }
    }

    #[test]
    fn names_that_nsq_does_not_allow_never_reach_a_command() {
        let odd = topic("a'; rm -rf /; '", 3, vec![]);
        assert_eq!(one(&seen(vec![nsqd("a:1", vec![odd])])).0, Level::Ok);
    }
}
