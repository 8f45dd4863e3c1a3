//! What was seen: plain data, from which the findings follow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mqueue::client::Address;
use mqueue::proto::stats::{Stats, TopicStats};
use mqueue::proto::{ChannelName, TopicName};
use mqueue::wake::fleet;
use mqueue::wake::shell_commands::shell;

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) lookupds: Vec<Lookupd>,
    pub(super) http: Vec<Http>,
    pub(super) tcp: Vec<Tcp>,
    /// How far the streams of dead letters were later, if they were looked at twice.
    pub(super) growth: Option<Growth>,
    pub(super) folders: Vec<Folder>,
    /// As whom wakeup runs, if there is such a user.
    pub(super) wakeup_user: Option<Account>,
    /// Why the doctor could not poke a socket itself: it is not root.
    pub(super) me: Option<String>,
    pub(super) systemd: Option<Systemd>,
    /// A wakeup runs that goes on waking, whoever started it.
    pub(super) wakeup_runs: bool,
}

/// An nsqlookupd.
#[derive(Debug)]
pub(super) struct Lookupd {
    pub(super) address: String,
    /// Its version, or why there is none.
    pub(super) answer: Result<String, String>,
    pub(super) nsqds: usize,
}

/// An nsqd's HTTP API.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) address: String,
    pub(super) listed: Option<Listed>,
    pub(super) answer: Result<Answer, String>,
}

/// What it said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) version: String,
    pub(super) skew: Skew,
    pub(super) tcp: Option<Address>,
    pub(super) stats: Stats,
}

/// An nsqd's TCP port.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) address: Address,
    pub(super) listed: Option<Listed>,
    pub(super) answer: Result<(), String>,
}

/// By which nsqlookupd it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) lookupd: String,
    /// The host that nsqd registered from, as nsqlookupd saw it.
    pub(super) from: String,
    /// It does answer there, but not at the address that it tells clients.
    pub(super) answers_there: bool,
}

/// How much nsqd's clock differs from ours at the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Skew {
    /// It does not tell the time.
    #[default]
    Unknown,
    None,
    Ahead(Duration),
    Behind(Duration),
}

impl Skew {
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
pub(super) struct Growth {
    pub(super) over: Duration,
    /// How many came to each stream in between, over all nsqds.
    pub(super) came: BTreeMap<TopicName, u64>,
}

/// A folder with sockets.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) entries: Result<Vec<Entry>, Unreadable>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    Missing,
    Refused,
    Other(String),
}

/// A file in such a folder, whose name a group could have.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// The name without `.sock`: `billing`, `billing@2`.
    pub(super) stem: String,
    pub(super) kind: Kind,
    /// The permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Who runs this may connect.
    pub(super) mine: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Socket(Ears),
    Link,
    Other,
}

/// Whether somebody listens on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ears {
    Some,
    None,
    /// The system does not tell.
    Unknown,
}

impl Entry {
    /// The group that it wakes: the name without `@N`.
    pub(super) fn group(&self) -> &str {
        group_of(&self.stem)
    }

    pub(super) fn is_socket(&self) -> bool {
        matches!(self.kind, Kind::Socket(_))
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
pub(super) struct Systemd {
    pub(super) units: Vec<Unit>,
    /// The template units are installed.
    pub(super) has_template: bool,
}

/// A unit of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
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
    pub(super) skipped: bool,
    /// The file in /etc/mqueue that it needs is there.
    pub(super) has_settings: bool,
}

impl Unit {
    pub(super) fn is_socket(&self) -> bool {
        self.id.ends_with(".socket")
    }
}

impl Systemd {
    pub(super) fn unit(&self, id: &str) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.id == id)
    }

    pub(super) fn listening_on(&self, path: &Path) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.listen.iter().any(|listen| listen == path))
    }
}

/// One group of one stream, over all nsqds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) depth: u64,
    pub(super) clients: u64,
    pub(super) paused: bool,
}

impl Observed {
    /// The nsqds that answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&Http, &Answer)> {
        self.http.iter().filter_map(|http| Some((http, http.answer.as_ref().ok()?)))
    }

    /// Every stream of every nsqd. A name that NSQ does not allow is nobody's.
    pub(super) fn streams(&self) -> impl Iterator<Item = (&Http, TopicName, &TopicStats)> {
        self.answers().flat_map(|(http, answer)| {
            let topics = answer.stats.topics.iter();
            topics.filter_map(move |topic| Some((http, TopicName::new(&topic.topic_name).ok()?, topic)))
        })
    }

    /// True for a stream of a fleet of nodes, as [`fleet::has_stream`] says.
    pub(super) fn is_a_fleets(&self, stream: &TopicName) -> bool {
        fleet::has_stream(stream.as_str(), |name| self.streams().any(|(_, other, _)| other.as_str() == name))
    }

    /// Every durable group by stream and name.
    pub(super) fn groups(&self) -> BTreeMap<(TopicName, ChannelName), Group> {
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for (_, stream, topic) in self.streams() {
            for channel in &topic.channels {
                let Ok(name) = ChannelName::new(&channel.channel_name) else { continue };
                if name.is_ephemeral() {
                    continue;
                }
                let group = groups.entry((stream.clone(), name)).or_default();
                group.depth = group.depth.saturating_add(amount(channel.depth));
                group.clients = group.clients.saturating_add(amount(channel.client_count));
                group.paused |= channel.paused || topic.paused;
            }
        }
        groups
    }

    /// A stream that has this group.
    pub(super) fn stream_of(&self, group: &str) -> Option<TopicName> {
        self.groups().into_keys().find(|(_, name)| name.as_str() == group).map(|(stream, _)| stream)
    }

    /// Files in the folders, each with its folder.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Folder, &Entry)> {
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
        let is_file = |folder: &Folder| folder.entries().any(|entry| entry.path == folder.path);
        let flag = |folder: &Folder| {
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

impl Folder {
    /// The files in it.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
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
            tcp: vec![Tcp { address: tcp.parse().unwrap(), listed: None, answer: Ok(()) }],
            http: vec![Http { address: http.to_owned(), listed: None, answer: Ok(Answer::default()) }],
            ..Observed::default()
        };
        assert_eq!(nsqd("127.0.0.1:4150", "127.0.0.1:4151").broker_flags(), "");
        let mut observed = nsqd("127.0.0.1:4150", "a:4151");
        assert_eq!(observed.broker_flags(), " --nsqd-tcp-address 127.0.0.1:4150 --nsqd-http-address a:4151");
        observed.lookupds.push(Lookupd { address: "l:4161".to_owned(), answer: Ok("1.3.0".to_owned()), nsqds: 1 });
        let named = " --nsqd-tcp-address 127.0.0.1:4150 --nsqd-http-address a:4151";
        assert_eq!(observed.broker_flags(), format!(" --lookupd-http-address l:4161{named}"), "both were named");
        let listed = Some(Listed { lookupd: "l:4161".to_owned(), from: "a".to_owned(), answers_there: false });
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
        let of = |date, asked, answered| Skew::of(Some(at(date)), at(asked), at(answered));
        assert_eq!(of(100.0, 100.9, 100.95), Skew::None, "the fraction is cut off");
        assert_eq!(of(100.0, 98.5, 103.0), Skew::None, "a slow answer");
        assert_eq!(of(110.0, 100.0, 100.5), Skew::Ahead(Duration::from_millis(9500)));
        assert_eq!(of(100.0, 110.0, 110.5), Skew::Behind(Duration::from_secs(9)));
        assert_eq!(Skew::of(None, at(1.0), at(2.0)), Skew::Unknown);
    }
}
