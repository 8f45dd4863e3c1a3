//! What was seen: plain data, from which the findings follow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mqueue::client::Address;
use mqueue::proto::stats::{Stats, TopicStats};
use mqueue::proto::{ChannelName, TopicName};
use mqueue::wake::aggregate::QueueTotals;
use mqueue::wake::decide::GroupTotals;
use mqueue::wake::fleet;
use mqueue::wake::shell_commands::shell;

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) lookupds: Vec<ProbedLookupd>,
    pub(super) http: Vec<ProbedHttp>,
    pub(super) tcp: Vec<ProbedTcp>,
    /// How far the streams of dead letters were later, if they were looked at twice.
    pub(super) growth: Option<DeadLetterGrowth>,
    pub(super) folders: Vec<SocketFolder>,
    /// As whom wakeup runs, if there is such a user.
    pub(super) wakeup_user: Option<Account>,
    /// Why the doctor could not poke a socket itself: it is not root.
    pub(super) unprivileged_user: Option<String>,
    pub(super) systemd: Option<SystemdState>,
    /// A wakeup runs that goes on waking, whoever started it.
    pub(super) wakeup_runs: bool,
}

/// An nsqlookupd.
#[derive(Debug)]
pub(super) struct ProbedLookupd {
    pub(super) address: String,
    /// Its version, or why there is none.
    pub(super) answer: Result<String, String>,
    pub(super) nsqds: usize,
}

/// An nsqd's HTTP API.
#[derive(Debug)]
pub(super) struct ProbedHttp {
    pub(super) address: String,
    pub(super) listed: Option<LookupdEntry>,
    pub(super) answer: Result<NsqdReport, String>,
}

/// What it said.
#[derive(Debug, Default)]
pub(super) struct NsqdReport {
    pub(super) version: String,
    pub(super) skew: ClockSkew,
    pub(super) tcp: Option<Address>,
    pub(super) stats: Stats,
}

/// An nsqd's TCP port.
#[derive(Debug)]
pub(super) struct ProbedTcp {
    pub(super) address: Address,
    pub(super) listed: Option<LookupdEntry>,
    pub(super) answer: Result<(), String>,
}

/// By which nsqlookupd it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LookupdEntry {
    pub(super) lookupd: String,
    /// The host that nsqd registered from, as nsqlookupd saw it.
    pub(super) from: String,
    /// It does answer there, but not at the address that it tells clients.
    pub(super) answers_there: bool,
}

/// How much nsqd's clock differs from ours at the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ClockSkew {
    /// It does not tell the time.
    #[default]
    Unknown,
    None,
    Ahead(Duration),
    Behind(Duration),
}

impl ClockSkew {
    /// Of a clock that said `date`, its fraction of a second cut off, at some moment between `asked` and `answered`.
    pub(super) fn of(date: Option<SystemTime>, asked: SystemTime, answered: SystemTime) -> Self {
        let Some(date) = date else { return Self::Unknown };
        let latest = date + Duration::from_secs(1);
        match (date.duration_since(answered), asked.duration_since(latest)) {
            (Ok(ahead), _) if !ahead.is_zero() => Self::Ahead(ahead),
            (_, Ok(behind)) if !behind.is_zero() => Self::Behind(behind),
            _ => Self::None,
        }
    }
}

/// Two looks at dead letters.
#[derive(Debug, Default)]
pub(super) struct DeadLetterGrowth {
    pub(super) over: Duration,
    /// How many came to each stream in between, over all nsqds.
    pub(super) came: BTreeMap<TopicName, u64>,
}

/// A folder with sockets.
#[derive(Debug)]
pub(super) struct SocketFolder {
    pub(super) path: PathBuf,
    pub(super) entries: Result<Vec<FolderEntry>, FolderError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FolderError {
    Missing,
    Refused,
    Other(String),
}

/// A file in such a folder, whose name a group could have.
#[derive(Debug, Clone)]
pub(super) struct FolderEntry {
    pub(super) path: PathBuf,
    /// The name without `.sock`: `billing`, `billing@2`.
    pub(super) stem: String,
    pub(super) kind: EntryKind,
    /// The permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Who runs this may connect.
    pub(super) may_poke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Socket(ListenerState),
    Link,
    Other,
}

/// Whether somebody listens on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenerState {
    Some,
    None,
    /// The system does not tell.
    Unknown,
}

impl FolderEntry {
    /// The group that it wakes: the name without `@N`.
    pub(super) fn group(&self) -> &str {
        group_of(&self.stem)
    }

    pub(super) fn is_socket(&self) -> bool {
        matches!(self.kind, EntryKind::Socket(_))
    }
}

/// A user, with all groups.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gids: Vec<u32>,
}

/// What systemd says.
#[derive(Debug, Default)]
pub(super) struct SystemdState {
    pub(super) units: Vec<SystemdUnit>,
    /// The template units are installed.
    pub(super) has_template: bool,
}

/// A unit of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SystemdUnit {
    pub(super) id: String,
    /// `loaded`, `not-found` …
    pub(super) load: String,
    /// `active`, `failed` …
    pub(super) active: String,
    /// `success`, `trigger-limit-hit` …
    pub(super) result: String,
    /// `enabled`, `disabled` …
    pub(super) file: String,
    /// Starts that a socket may cause in so much time; `None` if there is no limit.
    pub(super) trigger_limit: Option<(u64, Duration)>,
    /// A service's start limit is on.
    pub(super) start_limited: bool,
    /// Where a socket listens.
    pub(super) listen: Vec<PathBuf>,
    /// Its last start was skipped by a condition.
    pub(super) start_was_skipped: bool,
    /// The file in /etc/mqueue that it needs is there.
    pub(super) has_settings: bool,
}

impl SystemdUnit {
    pub(super) fn is_socket(&self) -> bool {
        self.id.ends_with(".socket")
    }
}

impl SystemdState {
    pub(super) fn unit(&self, id: &str) -> Option<&SystemdUnit> {
        self.units.iter().find(|unit| unit.id == id)
    }

    pub(super) fn listening_on(&self, path: &Path) -> Option<&SystemdUnit> {
        self.units.iter().find(|unit| unit.listen.iter().any(|listen| listen == path))
    }
}

impl Observed {
    /// The nsqds that answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&ProbedHttp, &NsqdReport)> {
        self.http.iter().filter_map(|http| Some((http, http.answer.as_ref().ok()?)))
    }

    /// Every stream of every nsqd. A name that NSQ does not allow is nobody's.
    pub(super) fn streams(&self) -> impl Iterator<Item = (&ProbedHttp, TopicName, &TopicStats)> {
        self.answers().flat_map(|(http, answer)| {
            let topics = answer.stats.topics.iter();
            topics.filter_map(move |topic| Some((http, TopicName::new(&topic.topic_name).ok()?, topic)))
        })
    }

    /// True for a stream of a fleet of nodes, as [`fleet::has_stream`] says.
    pub(super) fn is_fleet_stream(&self, stream: &TopicName) -> bool {
        fleet::has_stream(stream.as_str(), |name| self.streams().any(|(_, other, _)| other.as_str() == name))
    }

    /// Sums every durable group over all nsqds, as wakeup does.
    pub(super) fn groups(&self) -> BTreeMap<(TopicName, ChannelName), GroupTotals> {
        let mut totals = QueueTotals::default();
        for (http, answer) in self.answers() {
            totals.add(&http.address, None, &answer.stats);
        }
        let valid = |(stream, group): &(String, String)| Some((stream.parse().ok()?, group.parse().ok()?));
        totals.groups.iter().filter_map(|(name, group)| Some((valid(name)?, *group))).collect()
    }

    /// A stream that has this group.
    pub(super) fn stream_of(&self, group: &str) -> Option<TopicName> {
        self.groups().into_keys().find(|(_, name)| name.as_str() == group).map(|(stream, _)| stream)
    }

    /// Files in the folders, each with its folder.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&SocketFolder, &FolderEntry)> {
        self.folders.iter().flat_map(|folder| folder.entries().map(move |entry| (folder, entry)))
    }

    /// True if a file that is a socket belongs to this group.
    pub(super) fn has_socket(&self, group: &str) -> bool {
        self.entries().any(|(_, entry)| entry.is_socket() && (entry.stem == group || entry.group() == group))
    }

    /// Where NSQ is, as mqueue's settings: what was named, whether it answers now or not; none where that is the default.
    pub(super) fn brokers(&self) -> Vec<(&'static str, String)> {
        let lookupds: Vec<&str> = self.lookupds.iter().map(|lookupd| lookupd.address.as_str()).collect();
        let tcp = self.tcp.iter().filter(|tcp| tcp.listed.is_none()).map(|tcp| tcp.address.to_string());
        let http = self.http.iter().filter(|http| http.listed.is_none()).map(|http| http.address.as_str());
        let all = [
            ("LOOKUPD_HTTP_ADDRESS", "", lookupds.join(",")),
            ("NSQD_TCP_ADDRESS", "127.0.0.1:4150", tcp.collect::<Vec<_>>().join(",")),
            ("NSQD_HTTP_ADDRESS", "127.0.0.1:4151", http.collect::<Vec<_>>().join(",")),
        ];
        let is_default = all.iter().all(|(_, default, value)| value.is_empty() || value == default);
        let named = all.into_iter().filter(|(.., value)| !is_default && !value.is_empty());
        named.map(|(name, _, value)| (name, value)).collect()
    }

    /// The same, as flags that follow a command.
    pub(super) fn broker_flags(&self) -> String {
        flags(self.brokers())
    }

    /// The same with one more HTTP address, also where the rest is the default.
    pub(super) fn with_http(&self, address: &str) -> String {
        let mut brokers = self.brokers();
        match brokers.iter_mut().find(|(name, _)| *name == "NSQD_HTTP_ADDRESS") {
            Some((_, http)) => *http = format!("{http},{address}"),
            None => brokers.push(("NSQD_HTTP_ADDRESS", address.to_owned())),
        }
        format!("{}{}", self.socket_flags(), flags(brokers))
    }

    /// Where the sockets are, as flags that follow a command; none where that is the default.
    pub(super) fn socket_flags(&self) -> String {
        let is_file = |folder: &SocketFolder| folder.entries().any(|entry| entry.path == folder.path);
        let flag = |folder: &SocketFolder| {
            let name = if is_file(folder) { "socket" } else { "socket-dir" };
            format!(" --{name} {}", shell(&folder.path.display().to_string()))
        };
        let flags: Vec<String> = self.folders.iter().map(flag).collect();
        if flags == [" --socket-dir /run/mqueue"] { String::new() } else { flags.concat() }
    }
}

fn flags(settings: Vec<(&str, String)>) -> String {
    let flag =
        |(name, value): (&str, String)| format!(" --{} {}", name.to_lowercase().replace('_', "-"), shell(&value));
    settings.into_iter().map(flag).collect()
}

impl SocketFolder {
    /// The files in it.
    fn entries(&self) -> impl Iterator<Item = &FolderEntry> {
        self.entries.iter().flatten()
    }
}

/// The group of a socket or an instance of this name: `billing@2` is for billing.
pub(super) fn group_of(name: &str) -> &str {
    match name.rsplit_once('@') {
        Some((group, number)) if number.parse::<u64>().is_ok() => group,
        _ => name,
    }
}

/// A peer's number, which should not be negative.
pub(super) fn amount(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn brokers_are_named_where_they_are_not_the_defaults() {
        let nsqd = |tcp: &str, http: &str| Observed {
            tcp: vec![ProbedTcp { address: tcp.parse().unwrap(), listed: None, answer: Ok(()) }],
            http: vec![ProbedHttp { address: http.to_owned(), listed: None, answer: Ok(NsqdReport::default()) }],
            ..Observed::default()
        };
        assert_eq!(nsqd("127.0.0.1:4150", "127.0.0.1:4151").broker_flags(), "");
        let mut observed = nsqd("127.0.0.1:4150", "a:4151");
        assert_eq!(observed.broker_flags(), " --nsqd-tcp-address 127.0.0.1:4150 --nsqd-http-address a:4151");
        observed.lookupds.push(ProbedLookupd {
            address: "l:4161".to_owned(),
            answer: Ok("1.3.0".to_owned()),
            nsqds: 1,
        });
        let named = " --nsqd-tcp-address 127.0.0.1:4150 --nsqd-http-address a:4151";
        assert_eq!(observed.broker_flags(), format!(" --lookupd-http-address l:4161{named}"), "both were named");
        let listed = Some(LookupdEntry { lookupd: "l:4161".to_owned(), from: "a".to_owned(), answers_there: false });
        observed.tcp[0].listed = listed.clone();
        observed.http[0].listed = listed;
        assert_eq!(observed.broker_flags(), " --lookupd-http-address l:4161");
        let mut observed = nsqd("b:4150", "a:4151");
        observed.tcp[0].answer = Err("refused".to_owned());
        assert_eq!(observed.broker_flags(), " --nsqd-tcp-address b:4150 --nsqd-http-address a:4151", "it comes back");
    }

    #[test]
    fn a_skew_is_what_neither_the_cut_off_second_nor_the_round_trip_explains() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs_f64(seconds);
        let of = |date, asked, answered| ClockSkew::of(Some(at(date)), at(asked), at(answered));
        assert_eq!(of(100.0, 100.9, 100.95), ClockSkew::None, "the fraction is cut off");
        assert_eq!(of(100.0, 98.5, 103.0), ClockSkew::None, "a slow answer");
        assert_eq!(of(110.0, 100.0, 100.5), ClockSkew::Ahead(Duration::from_millis(9500)));
        assert_eq!(of(100.0, 110.0, 110.5), ClockSkew::Behind(Duration::from_secs(9)));
        assert_eq!(ClockSkew::of(None, at(1.0), at(2.0)), ClockSkew::Unknown);
    }
}
