//! Checks of sockets whose group does not exist: nothing wakes their consumers, whatever is
//! published.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{CheckId, Finding};
use super::observed::{FolderEntry, Observed, SystemdState, SystemdUnit, amount};
use super::units;
use crate::commands::common::socket_args::group_of;
use mqueue::plural::count;
use mqueue::proto::TopicName;
use mqueue::wake::retry_name::is_retry_stream;
use mqueue::wake::shell_commands::shell;
use mqueue::worker::DeadLetter;

/// Reports a socket whose group is not among `groups`, if every nsqd has answered.
pub(super) fn check(observed: &Observed, entry: &FolderEntry, groups: &BTreeSet<String>) -> Option<Finding> {
    let all_answer = !observed.http.is_empty() && observed.http.iter().all(|http| http.answer.is_ok());
    if !all_answer || groups.contains(&entry.stem) || groups.contains(entry.group()) {
        return None;
    }
    // that finding has the stream
    if observed.only_retries().iter().any(|(_, name)| name.as_str() == entry.group()) {
        return None;
    }
    let waiting = without_group(observed);
    let list = |(stream, depth): (&TopicName, &u64)| format!("{stream} ({})", count(*depth, "message"));
    let list = waiting.iter().map(list).collect::<Vec<_>>().join(", ");
    let list = if list.is_empty() { list } else { format!("; without any group: {list}") };
    let message = format!("no stream has a group {} yet, so nothing wakes its consumer{list}", entry.group());
    Some(Finding::warning(CheckId::Groups, entry.path.display(), message, create(observed, entry)))
}

/// Returns the command that creates the group: through its unit, which has the settings, or by
/// names; the user has to give the stream.
fn create(observed: &Observed, entry: &FolderEntry) -> String {
    let unit = units::of_socket(observed, entry);
    if let Some(systemd) = observed.systemd.as_ref().filter(|systemd| systemd.unit(&unit).is_some()) {
        return by_unit(systemd, &unit);
    }
    // the stream may be another than the one with messages, and may not exist yet
    let (group, brokers) = (shell(entry.group()), observed.broker_flags());
    let create = format!("mqueue consumer --create --stream=\"$stream\" --group={group}{brokers}");
    format!("printf 'its stream: ' >&2 && read -r stream && {create}")
}

/// A custom socket unit may have no `mqueue-create` unit. Its consumer is not started instead:
/// without a handler it would print and finish the messages.
fn by_unit(systemd: &SystemdState, socket: &str) -> String {
    let service = socket.replace(".socket", ".service");
    let create = service.replacen("mqueue-consumer", "mqueue-create", 1);
    match systemd.unit(&create) {
        Some(_) => format!("systemctl restart {}", shell(&create)),
        None => format!(
            "systemctl cat {}    # run its mqueue consumer once with --create, and its other flags",
            shell(&service)
        ),
    }
}

/// Returns the message counts of streams without a group on any nsqd, except dead letters.
fn without_group(observed: &Observed) -> BTreeMap<TopicName, u64> {
    let mut waiting: BTreeMap<TopicName, u64> = BTreeMap::new();
    for (_, stream, topic) in observed.streams().filter(|(_, stream, topic)| {
        let is_special = DeadLetter::is_stream(stream.as_str()) || is_retry_stream(stream.as_str());
        topic.depth > 0 && !is_special && !observed.is_fleet_stream(stream)
    }) {
        let depth = waiting.entry(stream).or_default();
        *depth = depth.saturating_add(amount(topic.depth));
    }
    let grouped: BTreeSet<TopicName> =
        observed.streams().filter(|(.., topic)| !topic.channels.is_empty()).map(|(_, stream, _)| stream).collect();
    waiting.retain(|stream, _| !grouped.contains(stream));
    waiting
}

/// Reports services whose start was skipped while messages wait for them; such a unit does not
/// count as failed.
pub(super) fn skipped_starts(observed: &Observed) -> Vec<Finding> {
    let units = observed.systemd.iter().flat_map(|systemd| &systemd.units);
    let waiting: BTreeSet<String> = observed
        .groups()
        .into_iter()
        .filter(|(_, group)| group.depth > 0 && group.clients == 0)
        .map(|((_, name), _)| name.as_str().to_owned())
        .collect();
    let finding = |unit: &SystemdUnit| {
        let message = "its last start was skipped, as a condition of the unit did not hold, and messages wait for it";
        Finding::warning(CheckId::Units, &unit.id, message, format!("systemctl status {}", shell(&unit.id)))
    };
    units
        .filter(|unit| unit.start_was_skipped && group(&unit.id).is_some_and(|group| waiting.contains(group)))
        .map(finding)
        .collect()
}

/// Returns the group of a consumer's service.
fn group(service: &str) -> Option<&str> {
    let name = service.strip_suffix(".service")?;
    match name.strip_prefix("mqueue-consumer@") {
        Some(instance) => Some(group_of(instance)),
        None => (name == "mqueue-consumer-nsq").then_some("consumer-nsq"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::observed::{EntryKind, ListenerState, NsqdReport, ProbedHttp};
    use super::*;
    use mqueue::proto::stats::{ChannelStats, Stats, TopicStats};

    fn nsqd(topics: &[(&str, i64, &[&str])]) -> ProbedHttp {
        nsqd_with(topics, 0)
    }

    /// Creates an nsqd whose channels have this many messages each.
    fn nsqd_with(topics: &[(&str, i64, &[&str])], waiting: i64) -> ProbedHttp {
        let channel =
            |name: &&str| ChannelStats { channel_name: (*name).to_owned(), depth: waiting, ..ChannelStats::default() };
        let topic = |(name, depth, channels): &(&str, i64, &[&str])| TopicStats {
            topic_name: (*name).to_owned(),
            depth: *depth,
            channels: channels.iter().map(channel).collect(),
            ..TopicStats::default()
        };
        let stats = Stats { topics: topics.iter().map(topic).collect(), ..Stats::default() };
        ProbedHttp {
            address: "a:1".to_owned(),
            listed: None,
            answer: Ok(NsqdReport { stats, ..NsqdReport::default() }),
        }
    }

    /// Returns message and fix for the socket `/s/new@2.sock`.
    fn reported(observed: &Observed) -> Option<(String, String)> {
        let (path, kind) = (Path::new("/s/new@2.sock").to_owned(), EntryKind::Socket(ListenerState::Some));
        let entry = FolderEntry { path, stem: "new@2".to_owned(), kind, mode: 0o660, uid: 0, gid: 0, may_poke: true };
        let groups = observed.groups().into_keys().map(|(_, group)| group.as_str().to_owned()).collect();
        check(observed, &entry, &groups).map(|finding| (finding.message, finding.fix.unwrap_or_default()))
    }

    #[test]
    fn the_fix_restarts_the_create_unit_or_runs_mqueue_with_stream_and_group() {
        let mut seen = Observed { http: vec![nsqd(&[("foo", 3, &[]), ("foo.dead", 1, &[])])], ..Observed::default() };
        let (message, fix) = reported(&seen).unwrap();
        assert!(message.contains("no stream has a group new yet"), "{message}");
        assert!(message.ends_with("without any group: foo (3 messages)"), "{message}");
        let create = "mqueue consumer --create --stream=\"$stream\" --group=new --nsqd-http-address a:1";
        assert_eq!(fix, format!("printf 'its stream: ' >&2 && read -r stream && {create}"));
        seen.http.push(nsqd(&[("bar", 1, &["1"])]));
        seen.http.push(nsqd(&[("bar", 1, &[]), ("baz", 1, &[])]));
        let (message, _) = reported(&seen).unwrap();
        assert!(message.ends_with("baz (1 message), foo (3 messages)"), "{message}");

        let unit = |id: &str| SystemdUnit { id: id.to_owned(), ..SystemdUnit::default() };
        let socket = SystemdUnit { listen: vec!["/s/new@2.sock".into()], ..unit("mqueue-consumer@new@2.socket") };
        let units = vec![socket.clone(), unit("mqueue-create@new@2.service")];
        seen.systemd = Some(SystemdState { units, has_template: true, ..SystemdState::default() });
        assert_eq!(reported(&seen).unwrap().1, "systemctl restart mqueue-create@new@2.service");
        seen.systemd = Some(SystemdState { units: vec![socket], has_template: true, ..SystemdState::default() });
        assert!(reported(&seen).unwrap().1.starts_with("systemctl cat mqueue-consumer@new@2.service    # "));
    }

    #[test]
    fn existing_groups_and_unreachable_nsqds_suppress_the_finding() {
        let mut seen = Observed { http: vec![nsqd(&[("foo", 3, &["new"])])], ..Observed::default() };
        assert_eq!(reported(&seen), None);
        let answer = Err("refused".to_owned());
        seen.http = vec![nsqd(&[]), ProbedHttp { address: "b:1".to_owned(), listed: None, answer }];
        assert_eq!(reported(&seen), None);
    }

    #[test]
    fn skipped_starts_are_reported_while_messages_wait() {
        let reported = |id: &str, group: &str, is_skipped: bool, depth: i64| {
            let unit = SystemdUnit { id: id.to_owned(), start_was_skipped: is_skipped, ..SystemdUnit::default() };
            let http = nsqd_with(&[("foo", 0, &[group])], depth);
            let systemd = Some(SystemdState { units: vec![unit], has_template: true, ..SystemdState::default() });
            skipped_starts(&Observed { http: vec![http], systemd, ..Observed::default() })
                .pop()
                .and_then(|finding| finding.fix)
        };
        let (service, fix) = ("mqueue-consumer@a@2.service", "systemctl status mqueue-consumer@a@2.service");
        assert_eq!(reported(service, "a", true, 1).as_deref(), Some(fix));
        assert!(reported("mqueue-consumer-nsq.service", "consumer-nsq", true, 1).is_some());
        for (group, is_skipped, depth) in [("a", false, 1), ("a", true, 0), ("b", true, 1)] {
            assert_eq!(reported(service, group, is_skipped, depth), None, "{group} {is_skipped} {depth}");
        }
    }
}
