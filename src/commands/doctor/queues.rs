//! Checks of streams and groups: messages without a consumer.

use std::collections::BTreeMap;

use super::finding::{CheckId, Finding};
use super::observed::{EntryKind, ListenerState, Observed, amount};
use super::units;
use mqueue::plural::count;
use mqueue::proto::stats::TopicStats;
use mqueue::proto::{ChannelName, TopicName};
use mqueue::wake::decide::GroupTotals;
use mqueue::wake::fleet;
use mqueue::wake::retry_name::{is_retry_stream, is_retry_stream_of, stream_of};
use mqueue::wake::shell_commands::{ApiCommands, create_by_consumer};
use mqueue::worker::DeadLetter;

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let groups = observed.groups();
    let mut findings = Vec::new();
    for (http, stream, topic) in observed.streams() {
        if !observed.is_fleet_stream(&stream) {
            findings.extend(without_group(observed.commands(), &http.address, &stream, topic, &groups));
        }
        findings.extend(paused(observed.commands(), &http.address, &stream, topic));
        findings.extend(unread_retries(observed.commands(), &http.address, &stream, topic, &groups));
    }
    findings.extend(groups.iter().filter_map(|((stream, name), group)| unattended(observed, stream, name, *group)));
    findings.extend(observed.only_retries().iter().filter_map(|(stream, name)| only_retries(observed, stream, name)));
    let are_served = groups.iter().all(|((_, name), group)| !waits(*group) || !is_troubled(observed, name));
    if findings.is_empty() && are_served && observed.answers().next().is_some() {
        let mut streams: Vec<TopicName> = observed.streams().map(|(_, stream, _)| stream).collect();
        streams.sort();
        streams.dedup();
        let message = format!("{}, {}", count(streams.len() as u64, "stream"), count(groups.len() as u64, "group"));
        findings.push(Finding::ok(
            CheckId::Groups,
            "queues",
            format!("{message}: all waiting messages have a consumer or a socket"),
        ));
    }
    findings.extend(groups.iter().filter_map(|((stream, name), group)| unused_token(observed, stream, name, *group)));
    findings
}

/// Reports a stream with messages and no group. Its backlog goes to its first group, on each nsqd.
fn without_group(
    commands: &ApiCommands,
    http: &str,
    stream: &TopicName,
    topic: &TopicStats,
    groups: &BTreeMap<(TopicName, ChannelName), GroupTotals>,
) -> Option<Finding> {
    let depth = amount(topic.depth);
    if depth == 0 || !topic.channels.is_empty() || DeadLetter::is_stream(stream.as_str()) {
        return None;
    }
    let is_of_stream = |(of, group): &&(TopicName, ChannelName)| {
        of == stream || is_retry_stream_of(stream.as_str(), of.as_str(), group.as_str())
    };
    let elsewhere: Vec<&str> = groups.keys().filter(is_of_stream).map(|(_, name)| name.as_str()).collect();
    let waiting = count(depth, "message");
    let (message, fix) = match elsewhere.is_empty() {
        true => {
            let fix = commands.create_first_group(http, stream.as_str());
            (format!("{waiting} in a stream without groups: the first group gets all of them"), fix)
        }
        false => {
            let fix = commands.create_groups(http, stream.as_str(), &elsewhere);
            (format!("{waiting} on nsqd {http}, where its groups are not: no consumer looks there"), fix)
        }
    };
    Some(Finding::warning(CheckId::Streams, format!("stream {stream}"), message, fix))
}

/// Reports paused queues with messages, with the command that unpauses each.
fn paused(commands: &ApiCommands, http: &str, stream: &TopicName, topic: &TopicStats) -> Vec<Finding> {
    let mut findings = Vec::new();
    if topic.paused && topic.depth > 0 {
        let message = format!("paused, with {} not yet copied to its groups", count(amount(topic.depth), "message"));
        let fix = commands.unpause(http, stream.as_str(), None);
        findings.push(Finding::warning(CheckId::Paused, format!("stream {stream}"), message, fix));
    }
    for channel in topic.channels.iter().filter(|channel| channel.paused && channel.depth > 0) {
        let Ok(name) = ChannelName::new(&channel.channel_name) else { continue };
        let message = format!("paused, with {} waiting", count(amount(channel.depth), "message"));
        let fix = commands.unpause(http, stream.as_str(), Some(name.as_str()));
        findings.push(Finding::warning(CheckId::Paused, format!("group {stream}/{name}"), message, fix));
    }
    findings
}

/// True for a group whose messages wait for a consumer.
fn waits(group: GroupTotals) -> bool {
    group.depth > 0 && group.clients == 0 && !group.paused
}

/// True if the socket or the units of a group have a finding of their own.
fn is_troubled(observed: &Observed, name: &ChannelName) -> bool {
    let mut sockets = observed.entries().map(|(_, entry)| entry).filter(|entry| entry.is_of(name.as_str()));
    let is_deaf = sockets.any(|entry| entry.kind == EntryKind::Socket(ListenerState::None));
    is_deaf || observed.systemd.as_ref().is_some_and(|systemd| units::is_troubled(systemd, name.as_str()))
}

/// Reports a waiting group whose name is that of a consumer of another stream or group: the socket
/// of that consumer is poked, and nobody comes.
fn other_settings(observed: &Observed, stream: &TopicName, name: &ChannelName, group: GroupTotals) -> Option<Finding> {
    let systemd = observed.systemd.as_ref()?;
    let sockets = observed.entries().map(|(_, entry)| entry);
    let mut instances: Vec<&str> =
        sockets.filter(|it| it.is_socket() && it.is_of(name.as_str())).map(|it| it.stem.as_str()).collect();
    if instances.is_empty() {
        instances.push(name.as_str());
    }
    let other = |instance: &&str| units::conflict(systemd, stream.as_str(), name.as_str(), instance);
    let others: Vec<String> = instances.iter().map_while(other).collect();
    // one that serves this group is enough
    let first = others.first().filter(|_| others.len() == instances.len())?;
    let message = format!(
        "{} waiting, and /etc/mqueue/{}.env is for {first}: its consumer does not serve this group",
        count(group.depth, "message"),
        instances[0]
    );
    let fix = units::show_conflict(stream.as_str(), instances[0]);
    Some(Finding::warning(CheckId::Settings, format!("group {stream}/{name}"), message, fix))
}

/// Reports a group whose messages wait without a consumer or a socket.
fn unattended(observed: &Observed, stream: &TopicName, name: &ChannelName, group: GroupTotals) -> Option<Finding> {
    if !waits(group) || DeadLetter::is_stream(stream.as_str()) || observed.is_fleet_stream(stream) {
        return None;
    }
    if let Some(finding) = other_settings(observed, stream, name, group) {
        return Some(finding);
    }
    if observed.has_socket(name.as_str()) {
        return None;
    }
    let message = format!("{} waiting, without a consumer or a socket to wake one", count(group.depth, "message"));
    let has_template = observed.systemd.as_ref().is_some_and(|systemd| systemd.has_template);
    // a retry stream whose own stream is unknown has no consumer of its own
    let fix = match has_template && !is_retry_stream(stream.as_str()) {
        true => units::enable_socket(observed, stream.as_str(), name.as_str()),
        false => show_group(observed, stream, name),
    };
    Some(Finding::warning(CheckId::Groups, format!("group {stream}/{name}"), message, fix))
}

/// Reports a group that only its retry stream has, if messages or a socket tell that it is wanted.
fn only_retries(observed: &Observed, stream: &TopicName, name: &ChannelName) -> Option<Finding> {
    let groups = observed.groups();
    let has_messages = groups.contains_key(&(stream.clone(), name.clone()));
    // the socket may be for another stream's group of this name
    let has_socket = observed.has_socket(name.as_str()) && !groups.keys().any(|(_, other)| other == name);
    let message = "is missing in its stream, and gets only what was redriven to it";
    let fix = || create_by_consumer(stream.as_str(), name.as_str(), &observed.broker_flags());
    (has_messages || has_socket)
        .then(|| Finding::warning(CheckId::Groups, format!("group {stream}/{name}"), message, fix()))
}

/// Reports redriven messages that the running consumers of their group do not read.
fn unread_retries(
    commands: &ApiCommands,
    http: &str,
    stream: &TopicName,
    topic: &TopicStats,
    groups: &BTreeMap<(TopicName, ChannelName), GroupTotals>,
) -> Option<Finding> {
    let is_own =
        |(of, group): &(TopicName, ChannelName)| is_retry_stream_of(stream.as_str(), of.as_str(), group.as_str());
    let ((of, name), _) = groups.iter().find(|(own, group)| group.clients > 0 && is_own(own))?;
    let channel = topic.channels.iter().find(|channel| channel.channel_name == name.as_str())?;
    if channel.depth <= 0 || channel.client_count > 0 || channel.paused {
        return None;
    }
    let message = format!(
        "{} redriven to it in stream {stream}, which its consumers do not read yet: they look for it every 10 s, \
         if they know the HTTP address of its nsqd",
        count(amount(channel.depth), "message")
    );
    let fix = format!(
        "{}    # only looks; if it stays, start its consumers with --nsqd-http-address",
        commands.list(http, Some(stream.as_str()))
    );
    Some(Finding::warning(CheckId::Groups, format!("group {of}/{name}"), message, fix))
}

/// Reports the token of a fleet without running nodes: it waits for the next node, and any other
/// consumer would take it from the fleet.
fn unused_token(observed: &Observed, stream: &TopicName, name: &ChannelName, group: GroupTotals) -> Option<Finding> {
    let waits = group.depth > 0 && group.clients == 0 && name.as_str() == fleet::TOKEN;
    (waits && observed.is_fleet_stream(stream)).then(|| {
        let message =
            "the token of a fleet of nodes of which none runs: the next `mqueue node` takes it, so leave it there";
        Finding::ok(CheckId::Groups, format!("group {stream}/{name}"), message)
    })
}

/// Returns the command that shows the group on each of its nsqds. Only the group's own consumer can
/// handle its messages: one without a handler would print and finish them.
fn show_group(observed: &Observed, stream: &TopicName, name: &ChannelName) -> String {
    let has = |topic: &TopicStats| topic.channels.iter().any(|channel| channel.channel_name == name.as_str());
    let retries = stream_of(stream, name);
    let nsqds = observed.streams().filter(|(_, other, topic)| [stream, &retries].contains(&other) && has(topic));
    let list = nsqds.map(|(http, stream, _)| observed.commands().list(&http.address, Some(stream.as_str())));
    format!("{}    # only looks; then start its consumer, with its handler", list.collect::<Vec<_>>().join(" && "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::finding::Level;
    use super::super::observed::{
        FolderEntry, NsqdReport, ProbedHttp, SocketFolder, SystemdState, SystemdUnit, UnitSettings,
    };
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

    fn nsqd(address: &str, topics: Vec<TopicStats>) -> ProbedHttp {
        let stats = Stats { topics: topics.into_iter().collect(), ..Stats::default() };
        ProbedHttp {
            address: address.to_owned(),
            listed: None,
            answer: Ok(NsqdReport { stats, ..NsqdReport::default() }),
        }
    }

    fn seen(http: Vec<ProbedHttp>) -> Observed {
        Observed { http, ..Observed::default() }
    }

    /// Returns the only finding.
    fn one(observed: &Observed) -> (Level, CheckId, String) {
        match &check(observed)[..] {
            [finding] => (finding.level, finding.check, finding.fix.clone().unwrap_or_default()),
            other => panic!("{other:#?}"),
        }
    }

    #[test]
    fn streams_without_groups_are_reported_if_they_have_messages() {
        let (level, check, fix) = one(&seen(vec![nsqd("a:1", vec![topic("foo", 3, vec![])])]));
        assert_eq!((level, check), (Level::Warning, CheckId::Streams));
        let create = "mqueue create --nsqd-http-address=a:1 foo/\"$group\"";
        assert_eq!(fix, format!("printf 'its group: ' >&2 && read -r group && {create}"));
        let nothing = topic("foo", 0, vec![]);
        assert_eq!(one(&seen(vec![nsqd("a:1", vec![nothing])])).0, Level::Ok);
    }

    #[test]
    fn groups_missing_on_one_nsqd_are_created_there() {
        let there = nsqd("a:1", vec![topic("foo", 0, vec![channel("x", 0, 1, false), channel("y", 0, 1, false)])]);
        let (_, _, fix) = one(&seen(vec![there, nsqd("b:1", vec![topic("foo", 3, vec![])])]));
        assert_eq!(fix, "mqueue create --nsqd-http-address=b:1 foo/x foo/y");
    }

    #[test]
    fn paused_queues_with_messages_get_the_command_that_unpauses_them() {
        let paused = |name, depth| seen(vec![nsqd("a:1", vec![topic("foo", 0, vec![channel(name, depth, 0, true)])])]);
        let (level, check, fix) = one(&paused("x#ephemeral", 2));
        assert_eq!((level, check), (Level::Warning, CheckId::Paused));
        assert_eq!(fix, "mqueue unpause --nsqd-http-address=a:1 'foo/x#ephemeral'");
        assert_eq!(one(&paused("x", 0)).0, Level::Ok);
        let stream = TopicStats { paused: true, ..topic("foo", 2, vec![channel("x", 0, 0, false)]) };
        let (_, check, fix) = one(&seen(vec![nsqd("a:1", vec![stream])]));
        assert_eq!((check, fix.as_str()), (CheckId::Paused, "mqueue unpause --nsqd-http-address=a:1 foo"));
    }

    #[test]
    fn messages_without_consumer_and_socket_are_reported() {
        let group =
            |depth, clients| seen(vec![nsqd("a:1", vec![topic("foo", 0, vec![channel("x", depth, clients, false)])])]);
        let (level, check, fix) = one(&group(2, 0));
        assert_eq!((level, check), (Level::Warning, CheckId::Groups));
        assert!(fix.starts_with("mqueue ls --watch=0s --nsqd-http-address=a:1 foo    # only looks"), "{fix}");
        assert_eq!(one(&group(2, 1)).0, Level::Ok);
        assert_eq!(one(&group(0, 0)).0, Level::Ok);
        let mut with_socket = group(2, 0);
        with_socket.folders.push(socket("x@1"));
        assert_eq!(one(&with_socket).0, Level::Ok);
    }

    /// Returns a listening socket of this name.
    fn socket(stem: &str) -> SocketFolder {
        let entry = FolderEntry {
            path: Path::new("/s").join(format!("{stem}.sock")),
            stem: stem.to_owned(),
            kind: EntryKind::Socket(ListenerState::Some),
            mode: 0o660,
            uid: 0,
            gid: 0,
            may_poke: true,
        };
        SocketFolder { path: Path::new("/s").to_owned(), entries: Ok(vec![entry]) }
    }

    #[test]
    fn a_waiting_group_whose_socket_is_for_another_stream_is_reported() {
        let own = UnitSettings { stream: Some("foo".to_owned()), group: None };
        let systemd =
            SystemdState { has_template: true, settings: [("x".to_owned(), own)].into(), ..SystemdState::default() };
        let with = |stream: &str, sockets: &[&str]| Observed {
            folders: sockets.iter().map(|stem| socket(stem)).collect(),
            systemd: Some(SystemdState {
                settings: systemd.settings.clone(),
                has_template: true,
                ..SystemdState::default()
            }),
            ..seen(vec![nsqd("a:1", vec![topic(stream, 0, vec![channel("x", 1, 0, false)])])])
        };
        for sockets in [&[][..], &["x"]] {
            let (level, check, fix) = one(&with("tk", sockets));
            assert_eq!((level, check), (Level::Warning, CheckId::Settings), "{sockets:?}");
            assert!(
                fix.starts_with("grep -nE '^(STREAM|GROUP)=' /etc/mqueue/x.env    # "),
                "it changes nothing: {fix}"
            );
        }
        assert_eq!(one(&with("foo", &["x"])).0, Level::Ok);
        assert_eq!(one(&with("tk", &["x@2"])).0, Level::Ok, "its settings are unknown");
    }

    #[test]
    fn groups_with_a_troubled_unit_or_a_deaf_socket_are_not_in_order() {
        let group = |unit: SystemdUnit, kind| {
            let mut folder = socket("x");
            folder.entries.as_mut().unwrap()[0].kind = EntryKind::Socket(kind);
            let systemd = Some(SystemdState { units: vec![unit], ..SystemdState::default() });
            let observed = seen(vec![nsqd("a:1", vec![topic("foo", 0, vec![channel("x", 1, 0, false)])])]);
            check(&Observed { folders: vec![folder], systemd, ..observed }).len()
        };
        let unit = |active: &str| SystemdUnit {
            id: "mqueue-consumer@x.service".to_owned(),
            active: active.to_owned(),
            ..SystemdUnit::default()
        };
        assert_eq!(group(unit("inactive"), ListenerState::Some), 1, "it is asleep");
        assert_eq!(group(unit("inactive"), ListenerState::Unknown), 1);
        assert_eq!(group(unit("inactive"), ListenerState::None), 0);
        assert_eq!(group(unit("failed"), ListenerState::Some), 0);
        assert_eq!(group(SystemdUnit { start_was_skipped: true, ..unit("inactive") }, ListenerState::Some), 0);
    }

    #[test]
    fn redriven_messages_wait_in_their_own_group() {
        let (stream, group) = ("ord".parse().unwrap(), "g2".parse().unwrap());
        let retry = stream_of(&stream, &group);
        let topics = || {
            vec![
                topic("ord", 0, vec![channel("g2", 0, 0, false)]),
                topic(retry.as_str(), 0, vec![channel("g2", 1, 0, false)]),
            ]
        };
        let (.., fix) = one(&seen(vec![nsqd("a:1", topics())]));
        let list = |stream: &str| format!("mqueue ls --watch=0s --nsqd-http-address=a:1 {stream}");
        assert!(["ord", retry.as_str()].iter().all(|stream| fix.contains(&list(stream))), "{fix}");
        let systemd = Some(SystemdState { has_template: true, ..SystemdState::default() });
        let (.., fix) = one(&Observed { systemd, ..seen(vec![nsqd("a:1", topics())]) });
        assert!(fix.contains("STREAM=ord") && !fix.contains(".retry"), "{fix}");
        // a running consumer may not know where to look
        let with = |clients, of_retries| {
            let own = topic("ord", 0, vec![channel("g2", 0, clients, false)]);
            let retries = topic(retry.as_str(), 0, vec![channel("g2", 1, of_retries, false)]);
            one(&seen(vec![nsqd("a:1", vec![own, retries])]))
        };
        let (level, check, fix) = with(1, 0);
        assert_eq!((level, check), (Level::Warning, CheckId::Groups));
        assert!(
            fix.starts_with(&format!("mqueue ls --watch=0s --nsqd-http-address=a:1 {retry}    # only looks")),
            "{fix}"
        );
        assert_eq!(with(1, 1).0, Level::Ok);
        // where the retry stream lacks the group, it is created there
        let lost = vec![topic("ord", 0, vec![channel("g2", 0, 0, false)]), topic(retry.as_str(), 2, vec![])];
        let (.., fix) = one(&seen(vec![nsqd("a:1", lost)]));
        assert_eq!(fix, format!("mqueue create --nsqd-http-address=a:1 {retry}/g2"));
    }

    #[test]
    fn a_group_paused_on_one_nsqd_is_reported_for_messages_on_another() {
        let nsqd = |address, depth, paused| nsqd(address, vec![topic("foo", 0, vec![channel("x", depth, 0, paused)])]);
        let (level, check, fix) = one(&seen(vec![nsqd("a:1", 0, true), nsqd("b:1", 2, false)]));
        assert_eq!((level, check), (Level::Warning, CheckId::Groups), "{fix}");
        let (level, check, _) = one(&seen(vec![nsqd("a:1", 2, true), nsqd("b:1", 0, false)]));
        assert_eq!((level, check), (Level::Warning, CheckId::Paused), "only what is paused waits");
    }

    #[test]
    fn fleet_tokens_and_heartbeats_get_no_fix() {
        for depth in [(1, 0), (0, 1)] {
            let of = |name: &str| {
                let channels = if depth.1 > 0 { vec![channel("token", depth.1, 0, false)] } else { vec![] };
                topic(name, depth.0, channels)
            };
            for names in [vec!["tk.token"], vec!["tk.token.beats"], vec!["lease", "lease.beats"]] {
                let topics = names.iter().map(|name| of(name)).collect();
                let findings = check(&seen(vec![nsqd("a:1", topics)]));
                assert!(findings.iter().all(|it| it.level == Level::Ok && it.fix.is_none()), "{findings:?}");
                let tells = findings.iter().any(|it| it.message.contains("the token of a fleet"));
                assert_eq!(tells, depth.1 > 0, "{findings:?}");
            }
        }
    }

    #[test]
    fn invalid_names_never_reach_a_command() {
        let odd = topic("a'; rm -rf /; '", 3, vec![]);
        assert_eq!(one(&seen(vec![nsqd("a:1", vec![odd])])).0, Level::Ok);
    }
}
