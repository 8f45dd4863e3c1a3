//! Checks of the sockets of sleeping consumers: existence, listener, and permissions.

use std::collections::BTreeSet;
use std::path::Path;

use super::finding::{CheckId, Finding};
use super::observed::{Account, EntryKind, FolderEntry, FolderError, ListenerState, Observed, SocketFolder};
use super::{ungrouped, units};
use mqueue::plural::count;
use mqueue::wake::shell_commands::shell;

/// The folder of all the system's sockets: only those named after a group are consumers'.
const SYSTEM_FOLDER: &str = "/run";

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let names: BTreeSet<String> = observed.groups().into_keys().map(|(_, name)| name.as_str().to_owned()).collect();
    let mut findings: Vec<Finding> = observed.folders.iter().filter_map(|seen| folder(observed, seen)).collect();
    let consumer_sockets: Vec<&FolderEntry> = observed
        .entries()
        .filter(|(folder, entry)| is_consumer_socket(folder, entry, &names))
        .map(|(_, entry)| entry)
        .collect();
    for entry in &consumer_sockets {
        findings.extend(file(observed, entry));
        if entry.is_socket() {
            findings.extend(mode(observed.wakeup_user.as_ref(), entry));
            findings.extend(ungrouped::check(observed, entry, &names));
        }
    }
    findings.extend(out_of_reach(observed, &consumer_sockets));
    if findings.is_empty() && !consumer_sockets.is_empty() {
        let message = format!("{}, each with a listener", count(consumer_sockets.len() as u64, "socket"));
        findings.push(Finding::ok(CheckId::Socket, "sockets", message));
    }
    findings
}

fn is_consumer_socket(folder: &SocketFolder, entry: &FolderEntry, groups: &BTreeSet<String>) -> bool {
    let has_ending = entry.path.extension().is_some_and(|ending| ending == "sock");
    let of_a_group = groups.contains(&entry.stem) || groups.contains(entry.group());
    match folder.path == Path::new(SYSTEM_FOLDER) || !has_ending {
        true => of_a_group && (entry.is_socket() || has_ending),
        false => true,
    }
}

fn folder(observed: &Observed, folder: &SocketFolder) -> Option<Finding> {
    let path = shell(&folder.path.display().to_string());
    let (message, fix) = match folder.entries.as_ref().err()? {
        FolderError::Missing => {
            ("the folder for sockets does not exist".to_owned(), format!("install -d -m 0755 -- {path}"))
        }
        FolderError::NoSocket => return Some(no_socket(observed, &folder.path)),
        FolderError::Refused => ("it may not be read by this user".to_owned(), as_root(observed, "doctor")),
        FolderError::Other(why) => (format!("cannot be read: {why}"), format!("stat -- {path}")),
    };
    Some(Finding::warning(CheckId::SocketDir, folder.path.display(), message, fix))
}

/// Reports a given socket that is not there.
fn no_socket(observed: &Observed, path: &Path) -> Finding {
    let systemd = observed.systemd.as_ref();
    let unit = systemd.and_then(|systemd| Some((systemd, systemd.listening_on(path)?)));
    let fix = match unit {
        Some((systemd, unit)) => units::start(systemd, &unit.id),
        None => {
            let folder = shell(&path.parent().unwrap_or(Path::new("/")).display().to_string());
            format!("ls -la -- {folder}    # start the program that listens there, or name another --socket")
        }
    };
    let message = "there is no such socket (--socket): nothing wakes its consumer";
    Finding::error(CheckId::Socket, path.display(), message, fix)
}

/// Reports a file that is not a socket with a listener.
fn file(observed: &Observed, entry: &FolderEntry) -> Option<Finding> {
    let path = shell(&entry.path.display().to_string());
    let unit = units::of_socket(observed, entry);
    // systemd would remove the file in the socket's place: no unit is started unless it was moved
    let aside = || {
        let moved = format!("mv -n -- {path} {path}.old && test ! -e {path} && test ! -L {path}");
        match &observed.systemd {
            Some(systemd) => units::start_after(systemd, &unit, &moved, "restart"),
            None => moved,
        }
    };
    let (message, fix) = match entry.kind {
        EntryKind::Socket(ListenerState::Some) => return None,
        EntryKind::Socket(ListenerState::Unknown) => {
            let message = "its listener, if there is one, is not visible here: it may be in another network namespace";
            return Some(Finding::skipped(CheckId::Socket, entry.path.display(), message));
        }
        EntryKind::Link => ("is a symbolic link, which wakeup does not follow".to_owned(), aside()),
        EntryKind::Other => ("is no socket, so it wakes no consumer".to_owned(), aside()),
        EntryKind::Socket(ListenerState::None) => match &observed.systemd {
            // the finding of the unit has the reason
            Some(systemd) if systemd.unit(&unit).is_some_and(|unit| units::is_reported(systemd, unit)) => return None,
            Some(systemd) if systemd.unit(&unit).is_some() => {
                (format!("nobody listens: {unit} is stopped"), units::start(systemd, &unit))
            }
            systemd => {
                let stream =
                    observed.stream_of(entry.group()).filter(|_| systemd.as_ref().is_some_and(|s| s.has_template));
                let by_unit = stream.map(|stream| units::enable_socket(observed, stream.as_str(), &entry.stem));
                let show_group =
                    format!("ss -xl src {path}    # if there is no listener, restart the program that created it");
                ("nobody listens".to_owned(), by_unit.unwrap_or(show_group))
            }
        },
    };
    Some(Finding::error(CheckId::Socket, entry.path.display(), message, fix))
}

/// Reports a mode that excludes wakeup or admits everybody: connecting starts the consumer.
fn mode(wakeup: Option<&Account>, entry: &FolderEntry) -> Option<Finding> {
    let path = shell(&entry.path.display().to_string());
    let mode = entry.mode & 0o777;
    let refused = wakeup.filter(|wakeup| !may_write(wakeup, entry));
    let (message, fix) = match refused {
        Some(wakeup) => (
            format!(
                "wakeup, as {}, may not poke it (mode {mode:04o}): SocketMode=0660 and SocketGroup= keep it so",
                wakeup.name
            ),
            format!("chgrp -- {} {path} && chmod 0660 -- {path}", shell(&wakeup.name)),
        ),
        None if mode & 0o002 != 0 => (
            format!("anybody may start its consumer (mode {mode:04o}): SocketMode=0660 keeps it so"),
            format!("chmod o= -- {path}"),
        ),
        None => return None,
    };
    Some(Finding::warning(CheckId::SocketMode, entry.path.display(), message, fix))
}

fn may_write(who: &Account, entry: &FolderEntry) -> bool {
    let bit = match (who.uid, who.gids.contains(&entry.gid)) {
        (0, _) => return true,
        (uid, _) if uid == entry.uid => 0o200,
        (_, true) => 0o020,
        (_, false) => 0o002,
    };
    entry.mode & bit != 0
}

/// Reports sockets that the current user may not poke, unless the wakeup unit does it.
fn out_of_reach(observed: &Observed, consumer_sockets: &[&FolderEntry]) -> Option<Finding> {
    let unprivileged_user = observed.unprivileged_user.as_ref()?;
    let wakes = observed.systemd.as_ref().and_then(|systemd| systemd.unit(units::WAKEUP));
    let refused: Vec<_> = consumer_sockets.iter().filter(|entry| entry.is_socket() && !entry.may_poke).collect();
    refused.first()?;
    if wakes.is_some_and(|unit| unit.active == "active") {
        return None;
    }
    let message = format!(
        "{unprivileged_user} may not poke {} of {}: run wakeup as root, or join their group",
        refused.len(),
        count(consumer_sockets.len() as u64, "socket")
    );
    // the group may have other rights, so no user is added to it
    Some(Finding::warning(CheckId::SocketMode, "sockets", message, as_root(observed, "wakeup")))
}

/// Returns the command for the same brokers and sockets, run by root.
fn as_root(observed: &Observed, command: &str) -> String {
    format!("sudo mqueue {command}{}{}", observed.socket_flags(), observed.broker_flags())
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::observed::{NsqdReport, ProbedHttp, SystemdState, SystemdUnit};
    use super::*;
    use mqueue::proto::stats::{ChannelStats, Stats, TopicStats};

    fn entry(name: &str, kind: EntryKind, mode: u32) -> FolderEntry {
        let stem = name.strip_suffix(".sock").unwrap_or(name).to_owned();
        FolderEntry { path: Path::new("/s").join(name), stem, kind, mode, uid: 0, gid: 7, may_poke: true }
    }

    fn seen(folder: &str, entries: Vec<FolderEntry>) -> Observed {
        let channel = ChannelStats { channel_name: "mail".to_owned(), ..ChannelStats::default() };
        let topic = TopicStats {
            topic_name: "foo".to_owned(),
            channels: [channel].into_iter().collect(),
            ..TopicStats::default()
        };
        let stats = Stats { topics: [topic].into_iter().collect(), ..Stats::default() };
        let answer = Ok(NsqdReport { stats, ..NsqdReport::default() });
        Observed {
            http: vec![ProbedHttp { address: "a:1".to_owned(), listed: None, answer }],
            folders: vec![SocketFolder { path: folder.into(), entries: Ok(entries) }],
            ..Observed::default()
        }
    }

    fn reported(observed: &Observed) -> Vec<(Level, CheckId, String)> {
        check(observed).into_iter().map(|f| (f.level, f.check, f.fix.unwrap_or_default())).collect()
    }

    const HEARD: EntryKind = EntryKind::Socket(ListenerState::Some);
    const DEAF: EntryKind = EntryKind::Socket(ListenerState::None);

    #[test]
    fn sockets_with_a_listener_are_ok() {
        let seen = seen("/s", vec![entry("mail.sock", HEARD, 0o660), entry("mail@2.sock", HEARD, 0o660)]);
        assert_eq!(reported(&seen), [(Level::Ok, CheckId::Socket, String::new())]);
    }

    #[test]
    fn other_files_and_sockets_without_a_listener_are_errors() {
        let (show_group, aside) = (
            "ss -xl src /s/mail.sock    # if there is no listener, restart the program that created it",
            "mv -n -- /s/mail.sock /s/mail.sock.old && test ! -e /s/mail.sock && test ! -L /s/mail.sock",
        );
        for (kind, fix) in [(DEAF, show_group), (EntryKind::Link, aside), (EntryKind::Other, aside)] {
            let reported = reported(&seen("/s", vec![entry("mail.sock", kind, 0o660)]));
            assert_eq!(reported, [(Level::Error, CheckId::Socket, fix.to_owned())], "{kind:?}");
        }
    }

    #[test]
    fn stopped_units_are_started_and_failed_ones_left_to_the_unit_check() {
        let mut seen = seen("/s", vec![entry("mail.sock", DEAF, 0o660)]);
        let unit = |active: &str| SystemdUnit {
            id: "mqueue-consumer@mail.socket".to_owned(),
            active: active.to_owned(),
            listen: vec!["/s/mail.sock".into()],
            ..SystemdUnit::default()
        };
        seen.systemd =
            Some(SystemdState { units: vec![unit("inactive")], has_template: true, ..SystemdState::default() });
        assert_eq!(
            reported(&seen),
            [(Level::Error, CheckId::Socket, "systemctl start mqueue-consumer@mail.socket".to_owned())]
        );
        seen.systemd =
            Some(SystemdState { units: vec![unit("failed")], has_template: true, ..SystemdState::default() });
        assert!(reported(&seen).iter().all(|(level, ..)| *level == Level::Ok));
    }

    #[test]
    fn only_sockets_named_after_groups_are_checked_in_run() {
        let entries = || {
            vec![
                entry("docker.sock", DEAF, 0o666),
                entry("mail", EntryKind::Other, 0o755),
                entry("mail.sock", DEAF, 0o660),
            ]
        };
        assert_eq!(reported(&seen("/run", entries())).len(), 1);
        assert!(reported(&seen("/s", entries())).len() > 1);
    }

    #[test]
    fn missing_and_unreadable_folders_are_reported() {
        for (trouble, fix) in [
            (FolderError::Missing, "install -d -m 0755 -- /s"),
            (FolderError::Refused, "sudo mqueue doctor --socket-dir /s --nsqd-http-address a:1"),
        ] {
            let mut seen = seen("/s", vec![]);
            seen.folders[0].entries = Err(trouble);
            assert_eq!(reported(&seen), [(Level::Warning, CheckId::SocketDir, fix.to_owned())]);
        }
    }

    #[test]
    fn given_sockets_that_are_not_there_are_errors_with_their_unit() {
        let mut seen = seen("/s/mail.sock", vec![]);
        seen.folders[0].entries = Err(FolderError::NoSocket);
        let fix = "ls -la -- /s    # start the program that listens there, or name another --socket".to_owned();
        assert_eq!(reported(&seen), [(Level::Error, CheckId::Socket, fix)]);
        assert_eq!(seen.socket_flags(), " --socket /s/mail.sock");
        let listen = vec!["/s/mail.sock".into()];
        let unit =
            SystemdUnit { id: "my.socket".to_owned(), active: "inactive".to_owned(), listen, ..SystemdUnit::default() };
        seen.systemd = Some(SystemdState { units: vec![unit], ..SystemdState::default() });
        assert_eq!(reported(&seen), [(Level::Error, CheckId::Socket, "systemctl start my.socket".to_owned())]);
    }

    #[test]
    fn modes_that_exclude_wakeup_or_admit_everybody_are_reported() {
        let with = |mode, gid| {
            let mut seen = seen("/s", vec![FolderEntry { gid, ..entry("mail.sock", HEARD, mode) }]);
            seen.wakeup_user = Some(Account { name: "mqueue".to_owned(), uid: 900, gids: vec![7] });
            reported(&seen).remove(0)
        };
        assert_eq!(with(0o660, 7).0, Level::Ok);
        assert_eq!(with(0o666, 7), (Level::Warning, CheckId::SocketMode, "chmod o= -- /s/mail.sock".to_owned()));
        let fix = "chgrp -- mqueue /s/mail.sock && chmod 0660 -- /s/mail.sock".to_owned();
        assert_eq!(with(0o600, 7), (Level::Warning, CheckId::SocketMode, fix.clone()));
        assert_eq!(with(0o660, 8), (Level::Warning, CheckId::SocketMode, fix));
    }

    #[test]
    fn users_who_may_not_poke_are_reported_unless_the_unit_pokes() {
        let mut seen = seen("/s", vec![FolderEntry { may_poke: false, ..entry("mail.sock", HEARD, 0o660) }]);
        assert_eq!(reported(&seen)[0].0, Level::Ok, "root");
        seen.unprivileged_user = Some("ann".to_owned());
        let fix = "sudo mqueue wakeup --socket-dir /s --nsqd-http-address a:1".to_owned();
        assert_eq!(reported(&seen), [(Level::Warning, CheckId::SocketMode, fix)]);
        let wakeup =
            SystemdUnit { id: units::WAKEUP.to_owned(), active: "active".to_owned(), ..SystemdUnit::default() };
        seen.systemd = Some(SystemdState { units: vec![wakeup], has_template: true, ..SystemdState::default() });
        assert_eq!(reported(&seen)[0].0, Level::Ok);
    }
}
