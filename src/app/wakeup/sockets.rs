//! The sockets of sleeping consumers, found in folders.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::DirEntry;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::once::Once;

/// Finds sockets, and says what is wrong with one, once.
#[derive(Debug)]
pub(super) struct Sockets {
    folders: Vec<PathBuf>,
    complaints: Once<String>,
}

/// What one folder has: each group's sockets by their numbers.
type Found = HashMap<String, BTreeMap<u64, PathBuf>>;

impl Sockets {
    pub(super) fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, complaints: Once::new() }
    }

    /// Each of these groups' sockets: `G.sock` or `G`, then `G@1.sock`, `G@2.sock` …; those of the first folder that has any.
    pub(super) fn of<'a>(&mut self, groups: impl Iterator<Item = &'a str>) -> HashMap<String, Vec<PathBuf>> {
        let wanted: HashSet<&str> = groups.collect();
        let mut found: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let mut complaints = BTreeSet::new();
        for folder in &self.folders {
            for (group, sockets) in look(folder, &wanted, &mut complaints) {
                found.entry(group).or_insert_with(|| sockets.into_values().collect());
            }
        }
        for complaint in self.complaints.news(complaints) {
            tracing::warn!("{complaint}");
        }
        found
    }

    /// What is wrong now.
    pub(super) fn complaints(&self) -> impl Iterator<Item = &String> {
        self.complaints.all()
    }
}

/// Fails if none of these folders can be looked into: one look at them would find nobody to wake, and call that well done.
pub(super) fn check(folders: &[PathBuf]) -> Result<(), String> {
    let looked = |folder: &PathBuf| std::fs::read_dir(folder).err().map(|error| cannot_look(folder, &error));
    let complaints: Option<Vec<String>> = folders.iter().map(looked).collect();
    match complaints {
        Some(complaints) => Err(complaints.join("; ")),
        None => Ok(()),
    }
}

fn cannot_look(folder: &Path, error: &std::io::Error) -> String {
    format!("cannot look for sockets in {}: {error}: mend it, or name another --socket-dir", folder.display())
}

fn look(folder: &Path, wanted: &HashSet<&str>, complaints: &mut BTreeSet<String>) -> Found {
    let mut found = Found::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => {
            complaints.insert(cannot_look(folder, &e));
            return found;
        }
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some((group, number)) = group_of(name, wanted) else { continue };
        if let Some(wrong) = what_is_wrong_with(&entry) {
            // folders and files of other programs may be called like a group
            if name.ends_with(".sock") {
                complaints.insert(format!("{} {wrong}: it wakes nobody", entry.path().display()));
            }
            continue;
        }
        if name != group && wanted.contains(name) {
            complaints.insert(format!(
                "{} is claimed by the groups {group} and {name}: it wakes {group}; give {name} a socket {name}.sock",
                entry.path().display()
            ));
        }
        claim(found.entry(group.to_owned()).or_default(), number, entry.path(), complaints);
    }
    found
}

/// Of `G.sock` and `G`, the first is used.
fn claim(sockets: &mut BTreeMap<u64, PathBuf>, number: u64, path: PathBuf, complaints: &mut BTreeSet<String>) {
    match sockets.insert(number, path.clone()) {
        None => {}
        Some(other) => {
            let (used, unused) = if path > other { (path, other) } else { (other, path) };
            complaints.insert(format!("{} wakes nobody: {} is there, too", unused.display(), used.display()));
            sockets.insert(number, used);
        }
    }
}

/// Why the entry itself, not what it leads to, cannot be poked.
fn what_is_wrong_with(entry: &DirEntry) -> Option<&'static str> {
    match entry.file_type() {
        Ok(kind) if kind.is_socket() => None,
        Ok(kind) if kind.is_symlink() => Some("is a symbolic link, which is not followed"),
        _ => Some("is no socket"),
    }
}

/// The group that a file of this name wakes, and the consumer's number (0 without one). `G.sock` is group G's if there is one, and
/// only else that of a group whose name is `G.sock`.
fn group_of<'a>(file: &'a str, groups: &HashSet<&str>) -> Option<(&'a str, u64)> {
    let stem = file.strip_suffix(".sock").unwrap_or(file);
    if groups.contains(stem) {
        return Some((stem, 0));
    }
    if let Some((group, digits)) = stem.rsplit_once('@') {
        let number = digits.parse().ok().filter(|number: &u64| *number > 0 && number.to_string() == digits)?;
        return groups.contains(group).then_some((group, number));
    }
    groups.contains(file).then_some((file, 0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A folder with these sockets.
    fn folder(sockets: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in sockets {
            UnixListener::bind(folder.path().join(name)).unwrap();
        }
        folder
    }

    #[test]
    fn finds_plain_and_numbered_sockets_and_nothing_else() {
        let folder =
            folder(&["mail.sock", "mail@10.sock", "mail@2.sock", "mail@02.sock", "mail@0.sock", "bare", "other.sock"]);
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("plain.sock"), "").unwrap();
        std::os::unix::fs::symlink(at("other.sock"), at("link.sock")).unwrap();
        let mut sockets = Sockets::new(vec![folder.path().join("missing"), folder.path().to_owned()]);
        let found = sockets.of(["mail", "bare", "plain", "link", "none", "../mail", ""].into_iter());
        assert_eq!(found["mail"], ["mail.sock", "mail@2.sock", "mail@10.sock"].map(at));
        assert_eq!(found["bare"], [at("bare")]);
        assert_eq!(found.len(), 2, "{found:?}");
        let complaints: Vec<_> = sockets.complaints().collect();
        assert_eq!(complaints.len(), 3, "{complaints:?}");
    }

    #[test]
    fn of_two_files_for_a_consumer_one_is_used_and_the_other_said() {
        let folder = folder(&["mail", "mail.sock", "mail@1", "mail@1.sock"]);
        let mut sockets = Sockets::new(vec![folder.path().to_owned()]);
        let found = sockets.of(["mail"].into_iter());
        assert_eq!(found["mail"], ["mail.sock", "mail@1.sock"].map(|name| folder.path().join(name)));
        assert_eq!(sockets.complaints().count(), 2);
    }

    #[test]
    fn of_two_groups_whose_names_lead_to_one_file_the_shorter_has_it() {
        let folder = folder(&["mail.sock"]);
        let mut sockets = Sockets::new(vec![folder.path().to_owned()]);
        let found = sockets.of(["mail.sock", "mail"].into_iter());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["mail"]);
        assert_eq!(sockets.complaints().count(), 1);
        assert_eq!(sockets.of(["mail.sock"].into_iter()).keys().collect::<Vec<_>>(), ["mail.sock"]);
        assert_eq!(sockets.complaints().count(), 0);
    }

    #[test]
    fn the_first_folder_that_has_a_groups_socket_counts() {
        let (first, second) = (folder(&["a.sock"]), folder(&["a.sock", "a@1.sock", "b.sock"]));
        let mut sockets = Sockets::new(vec![first.path().to_owned(), second.path().to_owned()]);
        let found = sockets.of(["a", "b"].into_iter());
        assert_eq!(found["a"], [first.path().join("a.sock")]);
        assert_eq!(found["b"], [second.path().join("b.sock")]);
    }
}
