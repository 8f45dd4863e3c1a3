//! The result of probing: plain data for the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::certificates::CertificateSource;
use super::plain_clients::PlainClient;
use super::secrets::{SecretFile, UnitConnection};
use crate::commands::common::socket_args::group_of;
use mqueue::client::Address;
use mqueue::proto::AuthReply;
use mqueue::proto::stats::{Stats, TopicStats};
use mqueue::proto::{ChannelName, TopicName};
use mqueue::wake::aggregate::QueueTotals;
use mqueue::wake::decide::{GroupName, GroupTotals};
use mqueue::wake::fleet;
use mqueue::wake::shell_commands::{ApiCommands, shell};

/// The result of all probes.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) lookupds: Vec<ProbedLookupd>,
    pub(super) http: Vec<ProbedHttp>,
    pub(super) tcp: Vec<ProbedTcp>,
    /// The growth of dead letters, if they were probed twice.
    pub(super) growth: Option<DeadLetterGrowth>,
    pub(super) folders: Vec<SocketFolder>,
    /// The user of the wakeup service, if it exists.
    pub(super) wakeup_user: Option<Account>,
    /// The name of the current user, unless it is root.
    pub(super) unprivileged_user: Option<String>,
    pub(super) systemd: Option<SystemdState>,
    /// True if a continuous wakeup runs, whoever started it.
    pub(super) wakeup_runs: bool,
    /// The certificates of servers and files.
    pub(super) certificates: Vec<CertificateSource>,
    /// The current time, for certificates.
    pub(super) now: Option<SystemTime>,
    /// The files of secrets and keys.
    pub(super) secrets: Vec<SecretFile>,
    /// The connections that units would make.
    pub(super) unit_connections: Vec<UnitConnection>,
    /// Clients without TLS on nsqds that offer it, by the nsqd's HTTP address.
    pub(super) plain_clients: Vec<(String, Vec<PlainClient>)>,
    /// The given settings of TLS, compression and AUTH, for printed commands.
    pub(super) security: ShownSecurity,
}

/// Settings of TLS, compression and AUTH, as they are printed.
#[derive(Debug, Default)]
pub(super) struct ShownSecurity {
    pub(super) commands: ApiCommands,
    /// Flags, as words of a shell command.
    pub(super) flags: String,
    /// Variables for a settings file.
    pub(super) variables: Vec<String>,
}

/// An nsqlookupd.
#[derive(Debug)]
pub(super) struct ProbedLookupd {
    pub(super) address: String,
    /// The version, or the reason for none.
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

/// The answers of an nsqd's HTTP API.
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
    /// The reply to AUTH, `None` without a secret.
    pub(super) answer: Result<Option<AuthReply>, TcpFailure>,
}

/// The failure of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TcpFailure {
    pub(super) why: String,
    /// True if nsqd was reached and the settings of TLS, compression or AUTH do not fit.
    pub(super) is_refusal: bool,
}

impl From<String> for TcpFailure {
    fn from(why: String) -> Self {
        Self { why, is_refusal: false }
    }
}

/// The nsqlookupd that lists an nsqd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LookupdEntry {
    pub(super) lookupd: String,
    /// The host that nsqd registered from, as seen by nsqlookupd.
    pub(super) from: String,
    /// True if it answers there, and not at the address for clients.
    pub(super) answers_there: bool,
}

/// The minimum difference between nsqd's clock and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ClockSkew {
    /// The nsqd sends no date.
    #[default]
    Unknown,
    None,
    Ahead(Duration),
    Behind(Duration),
}

impl ClockSkew {
    /// Computes the skew of a clock that sent `date`, truncated to seconds, between `asked` and
    /// `answered`.
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

/// The growth of dead letters between two probes.
#[derive(Debug, Default)]
pub(super) struct DeadLetterGrowth {
    pub(super) over: Duration,
    /// The number of new letters by stream, over all nsqds.
    pub(super) came: BTreeMap<TopicName, u64>,
}

/// A folder of sockets.
#[derive(Debug)]
pub(super) struct SocketFolder {
    pub(super) path: PathBuf,
    pub(super) entries: Result<Vec<FolderEntry>, FolderError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FolderError {
    Missing,
    /// There is nothing at the path of a given socket.
    NoSocket,
    Refused,
    Other(String),
}

/// A file in such a folder with a valid group name.
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
    /// True if the current user may connect.
    pub(super) may_poke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Socket(ListenerState),
    Link,
    Other,
}

/// The state of a socket's listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenerState {
    Some,
    None,
    /// Not visible from here.
    Unknown,
}

impl FolderEntry {
    /// Returns the group that the socket wakes: the name without `@N`.
    pub(super) fn group(&self) -> &str {
        group_of(&self.stem)
    }

    /// Returns true for a socket of this name, or of one of this group's numbered consumers.
    pub(super) fn is_of(&self, group: &str) -> bool {
        self.stem == group || self.group() == group
    }

    pub(super) fn is_socket(&self) -> bool {
        matches!(self.kind, EntryKind::Socket(_))
    }
}

/// A user with all its groups.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gids: Vec<u32>,
}

/// The state of mqueue's units.
#[derive(Debug, Default)]
pub(super) struct SystemdState {
    pub(super) units: Vec<SystemdUnit>,
    /// The template units are installed.
    pub(super) has_template: bool,
    /// The readable settings files of consumers, by instance: `billing`, `billing@2`.
    pub(super) settings: BTreeMap<String, UnitSettings>,
}

/// The stream and the group that a consumer's settings file names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitSettings {
    pub(super) stream: Option<String>,
    pub(super) group: Option<String>,
}

/// A unit of mqueue's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SystemdUnit {
    pub(super) id: String,
    /// `loaded`, `not-found`, `masked` …
    pub(super) load: String,
    /// `active`, `failed` …
    pub(super) active: String,
    /// `success`, `trigger-limit-hit` …
    pub(super) result: String,
    /// `enabled`, `disabled` …
    pub(super) file: String,
    /// The number of starts that a socket may cause in an interval; `None` without a limit.
    pub(super) trigger_limit: Option<(u64, Duration)>,
    /// True if the service has a start limit.
    pub(super) start_limited: bool,
    /// The paths of a socket unit.
    pub(super) listen: Vec<PathBuf>,
    /// True if a condition skipped the last start.
    pub(super) start_was_skipped: bool,
    /// True if the settings file in /etc/mqueue exists.
    pub(super) has_settings: bool,
    /// The last error, or the last line, that a failed service wrote to the journal.
    pub(super) last_line: Option<String>,
}

impl SystemdUnit {
    /// Returns true for the socket of a sleeping consumer; those of feeds and of the broker wake none.
    pub(super) fn is_socket(&self) -> bool {
        let is_of_another = ["mqueue-ingest@", "mqueue-broker"].iter().any(|prefix| self.id.starts_with(prefix));
        self.id.ends_with(".socket") && !is_of_another
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
    /// Returns the nsqds that answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&ProbedHttp, &NsqdReport)> {
        self.http.iter().filter_map(|http| Some((http, http.answer.as_ref().ok()?)))
    }

    /// Returns every stream of every nsqd, without names that NSQ does not allow.
    pub(super) fn streams(&self) -> impl Iterator<Item = (&ProbedHttp, TopicName, &TopicStats)> {
        self.answers().flat_map(|(http, answer)| {
            let topics = answer.stats.topics.iter();
            topics.filter_map(move |topic| Some((http, TopicName::new(&topic.topic_name).ok()?, topic)))
        })
    }

    /// Returns true for a stream of a fleet of nodes, as [`fleet::has_stream`] does.
    pub(super) fn is_fleet_stream(&self, stream: &TopicName) -> bool {
        fleet::has_stream(stream.as_str(), |name| self.streams().any(|(_, other, _)| other.as_str() == name))
    }

    /// Sums every durable group over all nsqds, as wakeup does: what was redriven to a group is its
    /// own.
    pub(super) fn groups(&self) -> BTreeMap<(TopicName, ChannelName), GroupTotals> {
        self.totals().groups.iter().filter_map(|(name, group)| Some((valid(name)?, *group))).collect()
    }

    /// Returns the groups that only a retry stream has.
    pub(super) fn only_retries(&self) -> BTreeSet<(TopicName, ChannelName)> {
        self.totals().only_retries.iter().filter_map(valid).collect()
    }

    fn totals(&self) -> QueueTotals {
        let mut totals = QueueTotals::default();
        for (http, answer) in self.answers() {
            totals.add(&http.address, None, &answer.stats);
        }
        totals.join_retries();
        totals
    }

    /// Returns the stream that has this group; `None` if several have one of this name.
    pub(super) fn stream_of(&self, group: &str) -> Option<TopicName> {
        let mut streams =
            self.groups().into_keys().filter(|(_, name)| name.as_str() == group).map(|(stream, _)| stream);
        streams.next().filter(|_| streams.next().is_none())
    }

    /// Returns the files of all folders, each with its folder.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&SocketFolder, &FolderEntry)> {
        self.folders.iter().flat_map(|folder| folder.entries().map(move |entry| (folder, entry)))
    }

    /// Returns true if this group has a socket.
    pub(super) fn has_socket(&self, group: &str) -> bool {
        self.entries().any(|(_, entry)| entry.is_socket() && entry.is_of(group))
    }

    /// Returns the given broker addresses as mqueue's settings, reachable or not; none for the
    /// default.
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

    /// Returns the broker addresses, and the settings of TLS, compression and AUTH, as flags.
    pub(super) fn broker_flags(&self) -> String {
        flags(self.brokers()) + &self.security.flags
    }

    /// Returns the same as lines of a settings file.
    pub(super) fn broker_variables(&self) -> Vec<String> {
        let addresses = self.brokers().into_iter().map(|(name, value)| format!("{name}={value}"));
        addresses.chain(self.security.variables.iter().cloned()).collect()
    }

    /// Returns the commands for the HTTP APIs.
    pub(super) fn commands(&self) -> &ApiCommands {
        &self.security.commands
    }

    /// Returns the flags with one more HTTP address, even if the rest is the default.
    pub(super) fn with_http(&self, address: &str) -> String {
        let mut brokers = self.brokers();
        match brokers.iter_mut().find(|(name, _)| *name == "NSQD_HTTP_ADDRESS") {
            Some((_, http)) => *http = format!("{http},{address}"),
            None => brokers.push(("NSQD_HTTP_ADDRESS", address.to_owned())),
        }
        format!("{}{}{}", self.socket_flags(), flags(brokers), self.security.flags)
    }

    /// Returns the socket folders as flags; none for the default.
    pub(super) fn socket_flags(&self) -> String {
        let is_file = |folder: &SocketFolder| {
            folder.entries().any(|entry| entry.path == folder.path)
                || matches!(folder.entries, Err(FolderError::NoSocket))
        };
        let flag = |folder: &SocketFolder| {
            let name = if is_file(folder) { "socket" } else { "socket-dir" };
            format!(" --{name} {}", shell(&folder.path.display().to_string()))
        };
        let flags: Vec<String> = self.folders.iter().map(flag).collect();
        if flags == [" --socket-dir /run/mqueue"] { String::new() } else { flags.concat() }
    }
}

/// Parses the names of a group.
fn valid((stream, group): &GroupName) -> Option<(TopicName, ChannelName)> {
    Some((stream.parse().ok()?, group.parse().ok()?))
}

fn flags(settings: Vec<(&str, String)>) -> String {
    let flag =
        |(name, value): (&str, String)| format!(" --{} {}", name.to_lowercase().replace('_', "-"), shell(&value));
    settings.into_iter().map(flag).collect()
}

impl SocketFolder {
    /// Returns the files in the folder.
    fn entries(&self) -> impl Iterator<Item = &FolderEntry> {
        self.entries.iter().flatten()
    }
}

/// Converts a peer's count, which should not be negative.
pub(super) fn amount(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn broker_flags_are_empty_for_the_defaults() {
        let nsqd = |tcp: &str, http: &str| Observed {
            tcp: vec![ProbedTcp { address: tcp.parse().unwrap(), listed: None, answer: Ok(None) }],
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
        observed.tcp[0].answer = Err("refused".to_owned().into());
        assert_eq!(observed.broker_flags(), " --nsqd-tcp-address b:4150 --nsqd-http-address a:4151", "it comes back");
    }

    #[test]
    fn a_group_name_of_several_streams_has_no_stream_of_its_own() {
        use mqueue::proto::stats::ChannelStats;
        let topic = |name: &str, group: &str| {
            let channel = ChannelStats { channel_name: group.to_owned(), ..ChannelStats::default() };
            let channels = std::iter::once(channel).collect();
            TopicStats { topic_name: name.to_owned(), channels, ..TopicStats::default() }
        };
        let topics = [topic("foo", "w1"), topic("tk", "w1"), topic("foo2", "w2")].into_iter().collect();
        let answer = Ok(NsqdReport { stats: Stats { topics, ..Stats::default() }, ..NsqdReport::default() });
        let http = vec![ProbedHttp { address: "a:1".to_owned(), listed: None, answer }];
        let observed = Observed { http, ..Observed::default() };
        assert_eq!(observed.stream_of("w2").unwrap().as_str(), "foo2");
        assert_eq!((observed.stream_of("w1"), observed.stream_of("w3")), (None, None), "none is guessed");
    }

    #[test]
    fn skew_excludes_the_truncated_second_and_the_round_trip() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs_f64(seconds);
        let of = |date, asked, answered| ClockSkew::of(Some(at(date)), at(asked), at(answered));
        assert_eq!(of(100.0, 100.9, 100.95), ClockSkew::None, "the fraction is cut off");
        assert_eq!(of(100.0, 98.5, 103.0), ClockSkew::None, "a slow answer");
        assert_eq!(of(110.0, 100.0, 100.5), ClockSkew::Ahead(Duration::from_millis(9500)));
        assert_eq!(of(100.0, 110.0, 110.5), ClockSkew::Behind(Duration::from_secs(9)));
        assert_eq!(ClockSkew::of(None, at(1.0), at(2.0)), ClockSkew::Unknown);
    }
}
