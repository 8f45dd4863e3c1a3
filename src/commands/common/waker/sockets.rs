//! The sockets of sleeping consumers, found in folders that hold nothing else, and by name.
//!
//! A group's name comes from a peer: a client that creates a group could choose the socket that is
//! poked. So only folders whose sockets are all consumers' are read (`/run/mqueue`, and those of
//! `--socket-dir`), and elsewhere only the file that `--socket` names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::log_once::LogOnce;
use crate::commands::common::socket_args::Args;
use mqueue::io_error::describe;
use mqueue::proto::ChannelName;
use mqueue::wake::unit_name::UnitName;

/// Finds sockets, and logs each problem once.
#[derive(Debug)]
pub(crate) struct Sockets {
    places: Vec<SocketPlace>,
    complaints: LogOnce<String>,
    /// Sockets of groups that were not asked for.
    others: BTreeMap<PathBuf, String>,
    systemd: SystemdFolders,
}

/// The folders that tell which sockets are units of mqueue's.
#[derive(Debug)]
struct SystemdFolders {
    /// Exists where systemd runs.
    booted: PathBuf,
    /// The settings of the template's units: without its file, none of them starts.
    settings: PathBuf,
}

impl SystemdFolders {
    /// False if no unit of mqueue's can hold this socket.
    fn may_hold(&self, socket: &Path) -> bool {
        let stem = socket.file_stem().unwrap_or_default().to_string_lossy();
        let has_settings = || self.settings.join(format!("{stem}.env")).try_exists().unwrap_or(true);
        // the only unit without a settings file
        let is_plain = socket == Path::new("/run/mqueue/consumer-nsq.sock");
        self.booted.is_dir() && (is_plain || has_settings())
    }
}

/// A place to look for sockets.
#[derive(Debug)]
enum SocketPlace {
    /// All files of a folder.
    Folder(PathBuf),
    /// These files.
    Files(Vec<PathBuf>),
}

/// A file that may be a socket.
struct SocketCandidate {
    path: PathBuf,
    /// The type of the entry itself: links are not followed.
    kind: io::Result<FileType>,
}

/// The result of one search.
#[derive(Debug, Default)]
struct FoundSockets {
    /// Each group's sockets by number, for one place.
    sockets: HashMap<String, BTreeMap<u64, PathBuf>>,
    others: BTreeMap<PathBuf, String>,
    complaints: BTreeSet<String>,
    /// Folders that do not exist.
    missing: Vec<String>,
}

impl Sockets {
    pub(crate) fn new(args: &Args) -> Self {
        let named = (!args.socket.is_empty()).then(|| SocketPlace::Files(args.socket.clone()));
        let folders = args.socket_dir.iter().cloned().map(SocketPlace::Folder);
        Self {
            places: named.into_iter().chain(folders).collect(),
            complaints: LogOnce::new(),
            others: BTreeMap::new(),
            systemd: SystemdFolders { booted: "/run/systemd/system".into(), settings: "/etc/mqueue".into() },
        }
    }

    /// Returns each group's sockets: `G.sock` or `G`, then `G@1.sock`, `G@2.sock` …; those of the
    /// first place that has any.
    pub(crate) fn of<'a>(&mut self, groups: impl Iterator<Item = &'a str>) -> HashMap<String, Vec<PathBuf>> {
        let wanted: HashSet<&str> = groups.collect();
        let mut all: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let mut seen = FoundSockets::default();
        for place in &self.places {
            seen.look(place, &wanted);
            for (group, sockets) in seen.sockets.drain() {
                all.entry(group).or_insert_with(|| sockets.into_values().collect());
            }
        }
        // one place with sockets is enough: others may be missing
        if all.is_empty() && seen.others.is_empty() {
            seen.complaints.extend(seen.missing);
        }
        for complaint in self.complaints.news(seen.complaints) {
            tracing::warn!("{complaint}");
        }
        self.others = seen.others;
        all
    }

    /// Returns the sockets of groups that were not asked for in the last search, each with its
    /// group.
    pub(crate) fn others(&self) -> &BTreeMap<PathBuf, String> {
        &self.others
    }

    /// Returns the unit name of a socket; `None` for one that `--socket` names, and where systemd
    /// cannot have such a unit.
    pub(crate) fn unit(&self, socket: &Path) -> Option<UnitName> {
        let is_named =
            |place: &SocketPlace| matches!(place, SocketPlace::Files(files) if files.iter().any(|file| file == socket));
        (!self.places.iter().any(is_named) && self.systemd.may_hold(socket)).then(|| UnitName::of(socket))
    }

    /// Returns the current problems.
    pub(crate) fn complaints(&self) -> impl Iterator<Item = &String> {
        self.complaints.all()
    }
}

/// Fails if none of these folders is readable and none of the files is there: a single look would
/// find no sockets and report success.
pub(crate) fn check(sockets: &Args) -> Result<(), String> {
    let looked = |folder: &PathBuf| std::fs::read_dir(folder).err().map(|error| cannot_look(folder, &error));
    let named = sockets.socket.iter().map(|path| is_missing(path).then(|| nothing_at(path)));
    let complaints: Option<Vec<String>> = named.chain(sockets.socket_dir.iter().map(looked)).collect();
    match complaints {
        Some(complaints) => Err(complaints.join("; ")),
        None => Ok(()),
    }
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn nothing_at(path: &Path) -> String {
    format!("there is no socket {}: start what listens there, or name another --socket", path.display())
}

fn cannot_look(folder: &Path, error: &io::Error) -> String {
    format!(
        "cannot look for sockets in {}: {}: fix it, or name another --socket-dir",
        folder.display(),
        describe(error)
    )
}

impl SocketPlace {
    fn files(&self) -> io::Result<Vec<SocketCandidate>> {
        match self {
            Self::Folder(folder) => {
                let entries = std::fs::read_dir(folder)?.filter_map(Result::ok);
                Ok(entries.map(|entry| SocketCandidate { kind: entry.file_type(), path: entry.path() }).collect())
            }
            Self::Files(files) => {
                let file = |path: &PathBuf| SocketCandidate {
                    kind: path.symlink_metadata().map(|m| m.file_type()),
                    path: path.clone(),
                };
                Ok(files.iter().filter(|path| !is_missing(path)).map(file).collect())
            }
        }
    }
}

impl FoundSockets {
    fn look(&mut self, place: &SocketPlace, wanted: &HashSet<&str>) {
        match (place.files(), place) {
            (Ok(files), _) => files.into_iter().for_each(|file| self.file(file, wanted)),
            (Err(error), SocketPlace::Folder(folder)) => {
                let line = cannot_look(folder, &error);
                match error.kind() {
                    io::ErrorKind::NotFound => self.missing.push(line),
                    _ => drop(self.complaints.insert(line)),
                }
            }
            (Err(_), SocketPlace::Files(_)) => {}
        }
        if let SocketPlace::Files(named) = place {
            let missing = named.iter().filter(|path| is_missing(path));
            self.complaints.extend(missing.map(|path| nothing_at(path)));
        }
    }

    fn file(&mut self, file: SocketCandidate, wanted: &HashSet<&str>) {
        let Some(name) = file.path.file_name().and_then(|name| name.to_str()) else { return };
        let path = file.path.display();
        let Some((group, number)) = group_of(name, wanted) else {
            if let Some(group) = group_named_by(name).filter(|_| file.what_is_wrong().is_none()) {
                self.others.insert(file.path.clone(), group.to_owned());
            }
            return;
        };
        if let Some(wrong) = file.what_is_wrong() {
            // folders and files of other programs may have a group's name
            if name.ends_with(".sock") {
                self.complaints.insert(format!("{path} {wrong}: it wakes no consumer"));
            }
            return;
        }
        if name != group && wanted.contains(name) {
            self.complaints.insert(format!(
                "{path} is claimed by the groups {group} and {name}: it wakes {group}; give {name} a socket {name}.sock"
            ));
        }
        let sockets = self.sockets.entry(group.to_owned()).or_default();
        claim(sockets, number, file.path.clone(), &mut self.complaints);
    }
}

impl SocketCandidate {
    /// Returns the reason why the file cannot be poked.
    fn what_is_wrong(&self) -> Option<&'static str> {
        match &self.kind {
            Ok(kind) if kind.is_socket() => None,
            Ok(kind) if kind.is_symlink() => Some("is a symbolic link, which is not followed"),
            _ => Some("is no socket"),
        }
    }
}

/// Uses `G.sock` if both `G.sock` and `G` exist.
fn claim(sockets: &mut BTreeMap<u64, PathBuf>, number: u64, path: PathBuf, complaints: &mut BTreeSet<String>) {
    match sockets.insert(number, path.clone()) {
        None => {}
        Some(other) => {
            let (used, unused) = if path > other { (path, other) } else { (other, path) };
            complaints.insert(format!("{} is ignored: {} exists as well", unused.display(), used.display()));
            sockets.insert(number, used);
        }
    }
}

/// Returns the group that a file of this name wakes, and the consumer's number (0 without one).
/// `G.sock` belongs to group G if there is one, and otherwise to a group named `G.sock`.
fn group_of<'a>(file: &'a str, groups: &HashSet<&str>) -> Option<(&'a str, u64)> {
    let stem = file.strip_suffix(".sock").unwrap_or(file);
    if groups.contains(stem) {
        return Some((stem, 0));
    }
    if let Some((group, digits)) = stem.rsplit_once('@') {
        return groups.contains(group).then_some((group, number(digits)?));
    }
    groups.contains(file).then_some((file, 0))
}

/// Parses a consumer's number: from 1, without leading zeros.
fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|number: &u64| *number > 0 && number.to_string() == digits)
}

/// Returns the durable group that a socket is named after.
fn group_named_by(file: &str) -> Option<&str> {
    let stem = file.strip_suffix(".sock")?;
    let numbered = stem.rsplit_once('@').filter(|(_, digits)| number(digits).is_some());
    let group = numbered.map_or(stem, |(group, _)| group);
    ChannelName::new(group).is_ok_and(|name| !name.is_ephemeral()).then_some(group)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Creates a folder with these sockets.
    fn folder(sockets: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in sockets {
            UnixListener::bind(folder.path().join(name)).unwrap();
        }
        folder
    }

    fn sockets_in<const N: usize>(folders: [&Path; N]) -> Sockets {
        Sockets::new(&Args { socket_dir: folders.map(Path::to_owned).to_vec(), socket: Vec::new() })
    }

    #[test]
    fn missing_folders_are_reported_unless_another_place_has_a_socket() {
        let folder = folder(&["mail.sock"]);
        let missing = folder.path().join("missing");
        for (socket, complaints, wakes) in [(None, 1, 0), (Some("none.sock"), 2, 0), (Some("mail.sock"), 0, 1)] {
            let named = socket.map(|name| folder.path().join(name)).into_iter().collect();
            let mut sockets = Sockets::new(&Args { socket_dir: vec![missing.clone()], socket: named });
            let found = sockets.of(["mail"].into_iter());
            assert_eq!((found.len(), sockets.complaints().count()), (wakes, complaints), "{socket:?}");
        }
        let mut both = sockets_in([&missing, folder.path()]);
        // also if the group of that socket does not exist yet
        for group in ["mail", "other"] {
            both.of([group].into_iter());
            assert_eq!(both.complaints().count(), 0, "{group}");
        }
    }

    #[test]
    fn units_are_named_only_for_sockets_that_systemd_may_hold() {
        let folder = folder(&["mail.sock", "mail@2.sock", "lonely.sock"]);
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("mail@2.env"), "").unwrap();
        let mut sockets = sockets_in([folder.path()]);
        sockets.systemd = SystemdFolders { booted: at(""), settings: at("") };
        assert_eq!(sockets.unit(&at("mail@2.sock")).unwrap().create(), "mqueue-create@mail@2.service");
        assert_eq!(sockets.unit(&at("lonely.sock")), None);
        assert_eq!(sockets.unit(&at("consumer-nsq.sock")), None);
        assert!(sockets.unit(Path::new("/run/mqueue/consumer-nsq.sock")).is_some());
        sockets.places.push(SocketPlace::Files(vec![at("mail@2.sock")]));
        assert_eq!(sockets.unit(&at("mail@2.sock")), None, "--socket names it");
        sockets.places.pop();
        sockets.systemd.booted = at("nowhere");
        assert_eq!(sockets.unit(&at("mail@2.sock")), None, "no systemd runs");
    }

    #[test]
    fn only_the_named_socket_of_another_folder_is_used() {
        let folder = folder(&["mail.sock", "docker.sock"]);
        let named = folder.path().join("mail.sock");
        let mut sockets = Sockets::new(&Args { socket_dir: Vec::new(), socket: vec![named.clone()] });
        let found = sockets.of(["mail", "docker"].into_iter());
        assert_eq!(found, HashMap::from([("mail".to_owned(), vec![named])]));
    }

    #[test]
    fn finds_plain_and_numbered_sockets_and_nothing_else() {
        let folder =
            folder(&["mail.sock", "mail@10.sock", "mail@2.sock", "mail@02.sock", "mail@0.sock", "bare", "other.sock"]);
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("plain.sock"), "").unwrap();
        std::os::unix::fs::symlink(at("other.sock"), at("link.sock")).unwrap();
        let mut sockets = sockets_in([&folder.path().join("missing"), folder.path()]);
        let found = sockets.of(["mail", "bare", "plain", "link", "none", "../mail", ""].into_iter());
        assert_eq!(found["mail"], ["mail.sock", "mail@2.sock", "mail@10.sock"].map(at));
        assert_eq!(found["bare"], [at("bare")]);
        assert_eq!(found.len(), 2, "{found:?}");
        let complaints: Vec<_> = sockets.complaints().collect();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        let others: Vec<_> = sockets.others().iter().map(|(path, group)| (path.clone(), group.as_str())).collect();
        assert_eq!(others, [(at("other.sock"), "other")]);
    }

    #[test]
    fn of_two_files_for_a_consumer_one_is_used_and_the_other_reported() {
        let folder = folder(&["mail", "mail.sock", "mail@1", "mail@1.sock"]);
        let mut sockets = sockets_in([folder.path()]);
        let found = sockets.of(["mail"].into_iter());
        assert_eq!(found["mail"], ["mail.sock", "mail@1.sock"].map(|name| folder.path().join(name)));
        assert_eq!(sockets.complaints().count(), 2);
    }

    #[test]
    fn a_file_that_two_groups_claim_belongs_to_the_shorter_name() {
        let folder = folder(&["mail.sock"]);
        let mut sockets = sockets_in([folder.path()]);
        let found = sockets.of(["mail.sock", "mail"].into_iter());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["mail"]);
        assert_eq!(sockets.complaints().count(), 1);
        assert_eq!(sockets.of(["mail.sock"].into_iter()).keys().collect::<Vec<_>>(), ["mail.sock"]);
        assert_eq!(sockets.complaints().count(), 0);
    }

    #[test]
    fn the_first_folder_that_has_a_groups_socket_counts() {
        let (first, second) = (folder(&["a.sock"]), folder(&["a.sock", "a@1.sock", "b.sock"]));
        let mut sockets = sockets_in([first.path(), second.path()]);
        let found = sockets.of(["a", "b"].into_iter());
        assert_eq!(found["a"], [first.path().join("a.sock")]);
        assert_eq!(found["b"], [second.path().join("b.sock")]);
    }
}
