//! Sockets whose group does not exist: nothing wakes their consumers, whatever is published.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::log_once::LogOnce;
use mqueue::plural::count;
use mqueue::wake::shell_commands::create_by_consumer;
use mqueue::wake::unit_name::UnitName;

/// The time before this is logged: a group is created soon after nsqd starts.
const PATIENCE: Duration = Duration::from_secs(4);

/// The message counts of streams without a group on any nsqd.
pub(crate) type UngroupedMessages = BTreeMap<String, u64>;

/// The sockets without a group.
#[derive(Debug)]
pub(crate) struct UngroupedSockets {
    /// Each socket's group, and since when it is missing.
    pub(crate) sockets: BTreeMap<PathBuf, (String, Instant)>,
    /// Logged once, and again when ten times as many messages wait.
    logged: LogOnce<(PathBuf, u32)>,
}

impl UngroupedSockets {
    pub(crate) fn new() -> Self {
        Self { sockets: BTreeMap::new(), logged: LogOnce::new() }
    }

    /// Replaces the sockets whose group no nsqd has.
    pub(crate) fn are(&mut self, sockets: &BTreeMap<PathBuf, String>, now: Instant) {
        self.sockets.retain(|socket, (group, _)| sockets.get(socket) == Some(group));
        for (socket, group) in sockets {
            self.sockets.entry(socket.clone()).or_insert_with(|| (group.clone(), now));
        }
    }

    /// Forgets all sockets: an unreachable nsqd may have their groups.
    pub(crate) fn are_unknown(&mut self) {
        self.sockets.clear();
    }

    /// Returns the sockets to log now, each with its group and a line of text. `unit` returns the
    /// units of a socket, and `brokers` are the flags for a consumer of the same nsqds.
    pub(crate) fn news(
        &mut self,
        waiting: &UngroupedMessages,
        unit: impl Fn(&Path) -> Option<UnitName>,
        brokers: &str,
        is_late: impl Fn(Duration) -> bool,
        now: Instant,
    ) -> Vec<(PathBuf, String, String)> {
        let magnitude = waiting.values().sum::<u64>().checked_ilog10().map_or(0, |digits| digits + 1);
        let late = self.sockets.iter().filter(|(_, (_, since))| is_late(now.saturating_duration_since(*since)));
        let late: BTreeSet<_> = late.map(|(socket, _)| (socket.clone(), magnitude)).collect();
        let alone = late.len() == 1;
        let line = |(socket, _): (PathBuf, u32)| {
            let (group, _) = &self.sockets[&socket];
            let remedy = remedy(group, waiting, unit(&socket), brokers, alone);
            let path = socket.display();
            let line = format!("no stream has a group {group}, so nothing wakes the consumer of {path}: {remedy}");
            (socket.clone(), group.clone(), line)
        };
        self.logged.news(late).into_iter().map(line).collect()
    }

    /// Returns true if a group has been missing for long enough.
    pub(crate) fn is_late(since: Duration) -> bool {
        since >= PATIENCE
    }
}

fn remedy(group: &str, waiting: &UngroupedMessages, unit: Option<UnitName>, brokers: &str, alone: bool) -> String {
    let list = |(stream, depth): (&String, &u64)| format!("{stream} ({})", count(*depth, "message"));
    let list = waiting.iter().map(list).collect::<Vec<_>>().join(", ");
    let without = if list.is_empty() { list } else { format!("; without any group: {list}") };
    match (unit, waiting.first_key_value()) {
        (Some(unit), _) => {
            format!("systemctl restart {} creates it, with the consumer's settings{without}", unit.create())
        }
        (None, Some((stream, depth))) if alone && waiting.len() == 1 => format!(
            "if it is for {stream}, which has {} and no group: {} creates it",
            count(*depth, "message"),
            create_by_consumer(stream, group, brokers)
        ),
        (None, _) => format!("run the consumer's command once with --create{without}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ungrouped: &mut UngroupedSockets, waiting: &[(&str, u64)], now: Instant) -> Vec<String> {
        let waiting = waiting.iter().map(|(stream, count)| ((*stream).to_owned(), *count)).collect();
        let unit = |socket: &Path| (!socket.starts_with("/tmp")).then(|| UnitName::of(socket));
        let news = ungrouped.news(&waiting, unit, " --nsqd-tcp-address a:1", UngroupedSockets::is_late, now);
        news.into_iter().map(|(.., line)| line).collect()
    }

    fn sockets(paths: &[&str]) -> BTreeMap<PathBuf, String> {
        paths
            .iter()
            .map(|path| (PathBuf::from(path), Path::new(path).file_stem().unwrap().to_string_lossy().into_owned()))
            .collect()
    }

    #[test]
    fn a_missing_group_is_logged_once_and_again_when_ten_times_more_messages_wait() {
        let (start, mut ungrouped) = (Instant::now(), UngroupedSockets::new());
        let mail = sockets(&["/run/mqueue/mail.sock"]);
        ungrouped.are(&mail, start);
        assert!(lines(&mut ungrouped, &[("foo", 3)], start).is_empty(), "it may be created just now");
        let logged = lines(&mut ungrouped, &[("foo", 3)], start + PATIENCE);
        assert_eq!(
            logged,
            ["no stream has a group mail, so nothing wakes the consumer of /run/mqueue/mail.sock: \
            systemctl restart mqueue-create@mail.service creates it, with the consumer's settings; without any group: foo (3 messages)"]
        );
        ungrouped.are(&mail, start + PATIENCE);
        assert!(lines(&mut ungrouped, &[("foo", 9)], start + 2 * PATIENCE).is_empty());
        assert!(lines(&mut ungrouped, &[("foo", 12)], start + 2 * PATIENCE)[0].ends_with("foo (12 messages)"));
        ungrouped.are(&sockets(&[]), start);
        assert!(ungrouped.sockets.is_empty());
    }

    #[test]
    fn without_a_unit_the_command_names_the_stream_only_if_it_is_unambiguous() {
        let (now, mut one) = (Instant::now(), UngroupedSockets::new());
        let later = now + PATIENCE;
        one.are(&sockets(&["/tmp/sa.sock"]), now);
        let logged = lines(&mut one, &[("foo", 1)], later);
        let command = "mqueue consumer --create --stream=foo --group=sa --nsqd-tcp-address a:1 creates it";
        assert!(logged[0].ends_with(&format!("foo, which has 1 message and no group: {command}")), "{logged:?}");
        let mut two = UngroupedSockets::new();
        two.are(&sockets(&["/tmp/sa.sock", "/tmp/sb.sock"]), now);
        for logged in lines(&mut two, &[("foo", 1)], later) {
            assert!(
                logged.ends_with("run the consumer's command once with --create; without any group: foo (1 message)"),
                "{logged}"
            );
        }
    }

    #[test]
    fn unreachable_nsqds_suppress_reports_of_missing_groups() {
        let (now, mut ungrouped) = (Instant::now(), UngroupedSockets::new());
        ungrouped.are(&sockets(&["/run/mqueue/mail.sock"]), now);
        ungrouped.are_unknown();
        assert!(lines(&mut ungrouped, &[], now + PATIENCE).is_empty());
    }
}
