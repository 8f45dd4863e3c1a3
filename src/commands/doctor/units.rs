//! Checks of systemd units: failed ones, limits that would fail a socket, and a missing wakeup.

use std::time::Duration;

use super::finding::{CheckId, Finding};
use super::observed::{FolderEntry, Observed, SystemdState, SystemdUnit};
use crate::commands::common::socket_args::group_of;
use mqueue::plural::count;
use mqueue::wake::shell_commands::shell;

/// The unit that pokes the sockets.
pub(super) const WAKEUP: &str = "mqueue-wakeup.service";
/// The units of the broker, which wakes sleeping consumers itself.
const BROKER: [&str; 2] = ["mqueue-broker.socket", "mqueue-broker.service"];
/// The number of starts that our sockets allow in [`TRIGGER_INTERVAL`]. A start that a condition
/// refuses would reach systemd's default of 20.
const TRIGGER_BURST: u64 = 2000;
const TRIGGER_INTERVAL: Duration = Duration::from_secs(2);

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let Some(systemd) = &observed.systemd else {
        return vec![Finding::skipped(CheckId::Systemd, "units", "no systemd answers systemctl here")];
    };
    let mut findings = Vec::new();
    for unit in &systemd.units {
        findings.extend(failed(systemd, unit));
        findings.extend(stopped_though_wanted(systemd, unit));
        findings.extend(trigger_limit(unit));
        findings.extend(start_limit(unit));
        findings.extend(settings(observed, unit));
    }
    findings.extend(wakeup(observed, systemd));
    let loaded = systemd.units.iter().filter(|unit| unit.load == "loaded").count();
    if findings.is_empty() {
        findings.push(Finding::ok(CheckId::Units, "systemd", format!("{}, none failed", count(loaded as u64, "unit"))));
    }
    findings
}

fn failed(systemd: &SystemdState, unit: &SystemdUnit) -> Option<Finding> {
    if unit.active != "failed" {
        return None;
    }
    let why = match unit.result.as_str() {
        "trigger-limit-hit" => "was started too often (trigger-limit-hit), and no longer listens".to_owned(),
        "service-start-limit-hit" => {
            "its service was started too often (service-start-limit-hit), and it no longer listens".to_owned()
        }
        result => format!("failed ({result})"),
    };
    let fix = start(systemd, &unit.id);
    // the limits stop a socket for what its service did; a service has failed for a reason of its
    // own
    let of_limit = unit.result.ends_with("-limit-hit") && unit.is_socket();
    if of_limit || is_masked(systemd, &unit.id) {
        return Some(Finding::error(CheckId::Units, &unit.id, why, fix));
    }
    let last = unit.last_line.as_ref().map(|line| format!("; its last line: {line}")).unwrap_or_default();
    let settings = settings_file(&unit.id).map(|file| format!(", perhaps in {file}")).unwrap_or_default();
    let show = format!("journalctl --no-pager -n 20 -u {}", shell(&unit.id));
    let fix = format!("{show}    # correct the cause{settings}, then: {fix}");
    Some(Finding::error(CheckId::Units, &unit.id, why + &last, fix))
}

/// Returns the settings file of a unit.
fn settings_file(id: &str) -> Option<String> {
    let (name, _) = id.rsplit_once('.')?;
    let instance = match name {
        "mqueue-consumer-nsq" | "mqueue-create-nsq" => "consumer-nsq",
        name => name
            .strip_prefix("mqueue-consumer@")
            .or_else(|| name.strip_prefix("mqueue-create@"))
            .or_else(|| name.strip_prefix("mqueue-").filter(|name| is_daemon(name)))?,
    };
    Some(format!("/etc/mqueue/{instance}.env"))
}

/// Returns true for the name of a service, without `mqueue-`, whose settings file has that name.
fn is_daemon(name: &str) -> bool {
    match name.split_once('@') {
        None => ["wakeup", "broker", "gateway", "web"].contains(&name),
        Some((command, _)) => ["worker", "ingest", "stage", "bridge", "node"].contains(&command),
    }
}

/// Returns true if this unit, or the service of this socket, is masked.
fn is_masked(systemd: &SystemdState, id: &str) -> bool {
    !masked(systemd, id).is_empty()
}

/// Returns those of a unit and its socket's service that are masked.
fn masked(systemd: &SystemdState, id: &str) -> Vec<String> {
    let mut ids = vec![id.to_owned(), id.replace(".socket", ".service")];
    ids.dedup();
    ids.retain(|id| systemd.unit(id).is_some_and(|unit| unit.load == "masked" || unit.file.starts_with("masked")));
    ids
}

/// Returns true if a finding about this unit explains why it does not listen.
pub(super) fn is_reported(systemd: &SystemdState, unit: &SystemdUnit) -> bool {
    unit.active == "failed" || stopped_though_wanted(systemd, unit).is_some()
}

/// Reports a stopped socket that should listen. While its service runs, the service still holds it,
/// and pokes arrive until the consumer sleeps.
fn stopped_though_wanted(systemd: &SystemdState, unit: &SystemdUnit) -> Option<Finding> {
    let wanted = unit.file == "enabled" || service_runs(systemd, &unit.id);
    if !unit.is_socket() || unit.active != "inactive" || !wanted || !unit.has_settings {
        return None;
    }
    Some(Finding::error(CheckId::Units, &unit.id, "is stopped: nothing wakes its consumer", start(systemd, &unit.id)))
}

fn trigger_limit(unit: &SystemdUnit) -> Option<Finding> {
    let (burst, interval) = unit.trigger_limit.filter(|_| unit.is_socket())?;
    let rate = |burst: u64, interval: Duration| burst as f64 / interval.as_secs_f64();
    if rate(burst, interval) >= rate(TRIGGER_BURST, TRIGGER_INTERVAL) {
        return None;
    }
    let message = format!("{burst} starts within {interval:?} would fail it (TriggerLimitBurst=)");
    let lines = format!("TriggerLimitIntervalSec={}s TriggerLimitBurst={TRIGGER_BURST}", TRIGGER_INTERVAL.as_secs());
    Some(Finding::warning(CheckId::TriggerLimit, &unit.id, message, drop_in(&unit.id, "Socket", &lines)))
}

fn start_limit(unit: &SystemdUnit) -> Option<Finding> {
    let message = "starts that follow each other quickly would fail it, and its socket (StartLimitIntervalSec=)";
    let fix = || drop_in(&unit.id, "Unit", "StartLimitIntervalSec=0");
    // the broker's unit has a limit of its own: what fails at each start has to be seen
    let is_broker = BROKER.contains(&unit.id.as_str());
    (unit.start_limited && !is_broker && unit.id.ends_with(".service") && unit.load == "loaded")
        .then(|| Finding::warning(CheckId::StartLimit, &unit.id, message, fix()))
}

/// Returns the command that writes a drop-in for this unit, whose name is read last.
fn drop_in(unit: &str, section: &str, settings: &str) -> String {
    let folder = shell(&format!("/etc/systemd/system/{unit}.d"));
    let lines = format!("'[{section}]' {settings}");
    format!("mkdir -p {folder} && printf '%s\\n' {lines} >{folder}/zz-doctor.conf && systemctl daemon-reload")
}

/// Reports a socket of the template without its settings file.
fn settings(observed: &Observed, unit: &SystemdUnit) -> Option<Finding> {
    let instance = unit.id.strip_prefix("mqueue-consumer@")?.strip_suffix(".socket")?;
    if unit.has_settings {
        return None;
    }
    let message = format!("there are no settings for it: /etc/mqueue/{instance}.env names its stream");
    let fix = match observed.stream_of(group_of(instance)) {
        Some(stream) => enable_socket(observed, stream.as_str(), instance),
        None => {
            let file = shell(&format!("/etc/mqueue/{instance}.env"));
            format!(
                "cp -n /etc/mqueue/GROUP.env.example {file}    # name its stream and its handler there, then: systemctl restart {}",
                shell(&unit.id)
            )
        }
    };
    Some(Finding::error(CheckId::Settings, &unit.id, message, fix))
}

fn wakeup(observed: &Observed, systemd: &SystemdState) -> Option<Finding> {
    let sockets = systemd.units.iter().filter(|unit| unit.is_socket() && unit.active == "active").count();
    let unit = systemd.unit(WAKEUP).filter(|unit| unit.load == "loaded");
    let sleepers = count(sockets as u64, "socket");
    match unit {
        _ if sockets == 0 => None,
        // it wakes them itself, unless its settings say otherwise
        _ if systemd.units.iter().any(|unit| BROKER.contains(&unit.id.as_str()) && unit.active == "active") => None,
        // for example in a shell
        unit if observed.wakeup_runs
            && unit.is_none_or(|unit| matches!(&*unit.active, "inactive" | "deactivating")) =>
        {
            None
        }
        None => {
            let message = format!("not installed: nothing wakes the consumers of {sleepers}");
            Some(Finding::error(
                CheckId::Wakeup,
                WAKEUP,
                message,
                format!("mqueue wakeup{}{}", observed.socket_flags(), observed.broker_flags()),
            ))
        }
        // the failed unit is reported already
        Some(unit) if unit.active == "failed" => None,
        Some(unit) if !matches!(unit.active.as_str(), "active" | "activating" | "reloading") => {
            let message = format!("{}: nothing wakes the consumers of {sleepers}", unit.active);
            Some(Finding::error(CheckId::Wakeup, WAKEUP, message, format!("systemctl enable --now {WAKEUP}")))
        }
        Some(unit) if unit.file == "disabled" => {
            let message = "runs, but will not after the next boot";
            Some(Finding::warning(CheckId::Wakeup, WAKEUP, message, format!("systemctl enable {WAKEUP}")))
        }
        Some(_) => None,
    }
}

/// Returns the command that starts a stopped or failed unit.
pub(super) fn start(systemd: &SystemdState, id: &str) -> String {
    match systemd.unit(id).is_some_and(|unit| unit.active == "failed") {
        true => start_after(systemd, id, &format!("systemctl reset-failed {}", shell(id)), "start"),
        false => start_after(systemd, id, "", "start"),
    }
}

/// Returns the command that starts or restarts a unit after another command. A socket cannot be
/// started while its service runs without it. So the consumer is stopped first, finishes its work,
/// and is started again, as nothing else would wake it.
pub(super) fn start_after(systemd: &SystemdState, id: &str, command: &str, start: &str) -> String {
    let service = shell(&id.replace(".socket", ".service"));
    let runs = service_runs(systemd, id);
    let [stop, again] = ["stop", "start"].map(|verb| runs.then(|| format!("systemctl {verb} {service}")));
    let command = (!command.is_empty()).then(|| command.to_owned());
    let start = Some(format!("systemctl {start} {}", shell(id)));
    [stop, command, unmask(systemd, id), start, again].into_iter().flatten().collect::<Vec<_>>().join(" && ")
}

/// Returns the command that unmasks a unit and its socket's service, where they are masked.
fn unmask(systemd: &SystemdState, id: &str) -> Option<String> {
    let masked: Vec<String> = masked(systemd, id).iter().map(|id| shell(id)).collect();
    (!masked.is_empty()).then(|| format!("systemctl unmask {}", masked.join(" ")))
}

/// Returns true while the service of this socket is not stopped.
fn service_runs(systemd: &SystemdState, socket: &str) -> bool {
    let service = socket.strip_suffix(".socket").and_then(|name| systemd.unit(&format!("{name}.service")));
    service.is_some_and(|service| !matches!(service.active.as_str(), "inactive" | "failed"))
}

/// Returns the unit that listens on this socket, or should.
pub(super) fn of_socket(observed: &Observed, entry: &FolderEntry) -> String {
    let listening = observed.systemd.as_ref().and_then(|systemd| systemd.listening_on(&entry.path));
    listening.map_or_else(|| named(&entry.stem), |unit| unit.id.clone())
}

/// Returns the unit of a socket of this name, as in the project's `systemd/` folder.
fn named(stem: &str) -> String {
    match stem {
        "consumer-nsq" => "mqueue-consumer-nsq.socket".to_owned(),
        stem => format!("mqueue-consumer@{stem}.socket"),
    }
}

/// Returns what the settings file of `instance` names, if that is another stream or group.
pub(super) fn conflict(systemd: &SystemdState, stream: &str, group: &str, instance: &str) -> Option<String> {
    let settings = systemd.settings.get(instance)?;
    let other_stream = settings.stream.as_deref().filter(|other| *other != stream);
    let other_group = settings.group.as_deref().filter(|other| *other != group);
    match (other_stream, other_group) {
        (Some(stream), _) => Some(format!("stream {stream}")),
        (None, Some(group)) => Some(format!("group {group}")),
        (None, None) => None,
    }
}

/// Returns the command that shows what a settings file names, for the group that it does not name.
pub(super) fn show_conflict(stream: &str, instance: &str) -> String {
    let file = shell(&format!("/etc/mqueue/{instance}.env"));
    let create = named(instance).replace("mqueue-consumer", "mqueue-create").replace(".socket", ".service");
    format!(
        "grep -nE '^(STREAM|GROUP)=' {file}    # if this is wrong, correct it, then: systemctl restart {}; \
         if not, give the group of stream {stream} a name of its own",
        shell(&create)
    )
}

/// Returns true if a unit that serves this group has a finding of its own: it has failed, is masked
/// or stopped, or its last start was skipped.
pub(super) fn is_troubled(systemd: &SystemdState, group: &str) -> bool {
    let serves = |unit: &&SystemdUnit| {
        let name = unit.id.rsplit_once('.').map_or(unit.id.as_str(), |(name, _)| name);
        match name.strip_prefix("mqueue-consumer@") {
            Some(instance) => instance == group || group_of(instance) == group,
            None => name == "mqueue-consumer-nsq" && group == "consumer-nsq",
        }
    };
    let in_trouble = |unit: &SystemdUnit| {
        let is_stopped = unit.is_socket() && unit.active != "active" && !service_runs(systemd, &unit.id);
        unit.active == "failed" || unit.load == "masked" || unit.start_was_skipped || is_stopped
    };
    systemd.units.iter().filter(serves).any(in_trouble)
}

/// Returns the command that writes the settings of `instance` (`billing`, `billing@2`) and enables
/// its socket. An existing settings file is kept. The socket is enabled only if the file names this
/// stream, and a handler: a consumer without one prints its messages and finishes them.
pub(super) fn enable_socket(observed: &Observed, stream: &str, instance: &str) -> String {
    let mut lines = vec![format!("STREAM={stream}")];
    let group = group_of(instance);
    if group != instance {
        lines.push(format!("GROUP={group}"));
    }
    lines.extend(observed.broker_variables());
    let lines: Vec<String> = lines.iter().map(|line| shell(line)).collect();
    let file = shell(&format!("/etc/mqueue/{instance}.env"));
    let unit = named(instance);
    let unmask = observed.systemd.as_ref().and_then(|systemd| unmask(systemd, &unit));
    let enable = [unmask, Some(format!("systemctl enable --now {}", shell(&unit)))];
    let enable = enable.into_iter().flatten().collect::<Vec<_>>().join(" && ");
    let names_stream = shell(&format!("^STREAM=[\"']\\{{0,1\\}}{}[\"']\\{{0,1\\}} *$", stream.replace('.', "[.]")));
    let conflict = shell(&format!(
        "/etc/mqueue/{instance}.env does not name STREAM={stream}: correct it, or give this group a name of its own"
    ));
    let ask = shell(&format!("name MQUEUE_HANDLER= in /etc/mqueue/{instance}.env, then run this again"));
    let written =
        format!("mkdir -p /etc/mqueue && {{ test -e {file} || printf '%s\\n' {} >{file}; }}", lines.join(" "));
    let check = format!("if ! grep -q {names_stream} {file}; then echo {conflict} >&2; false; elif");
    format!("{written} && {check} grep -q '^MQUEUE_HANDLER=.' {file}; then {enable}; else echo {ask} >&2; false; fi")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn unit(id: &str, active: &str) -> SystemdUnit {
        SystemdUnit {
            id: id.to_owned(),
            load: "loaded".to_owned(),
            active: active.to_owned(),
            result: "success".to_owned(),
            file: "enabled".to_owned(),
            trigger_limit: Some((2000, Duration::from_secs(2))),
            has_settings: true,
            ..SystemdUnit::default()
        }
    }

    fn reported(units: Vec<SystemdUnit>) -> Vec<(Level, CheckId, String)> {
        let systemd = Some(SystemdState { units, has_template: true, ..SystemdState::default() });
        let findings = check(&Observed { systemd, ..Observed::default() });
        findings.into_iter().map(|f| (f.level, f.check, f.fix.unwrap_or_default())).collect()
    }

    const SOCKET: &str = "mqueue-consumer@mail.socket";

    #[test]
    fn units_in_order_are_one_line_and_no_systemd_is_skipped() {
        let fine =
            vec![unit(SOCKET, "active"), unit("mqueue-consumer@mail.service", "inactive"), unit(WAKEUP, "active")];
        assert_eq!(reported(fine), [(Level::Ok, CheckId::Units, String::new())]);
        assert_eq!(check(&Observed::default())[0].level, Level::Skipped);
    }

    #[test]
    fn a_failed_unit_is_reset_and_started_after_its_service_has_stopped() {
        let failed = || SystemdUnit { result: "trigger-limit-hit".to_owned(), ..unit(SOCKET, "failed") };
        let fix = "systemctl reset-failed mqueue-consumer@mail.socket && systemctl start mqueue-consumer@mail.socket";
        assert_eq!(reported(vec![failed()]), [(Level::Error, CheckId::Units, fix.to_owned())]);
        let with_service = reported(vec![failed(), unit("mqueue-consumer@mail.service", "active")]);
        let again = "systemctl start mqueue-consumer@mail.service";
        assert_eq!(with_service[0].2, format!("systemctl stop mqueue-consumer@mail.service && {fix} && {again}"));
    }

    #[test]
    fn a_failed_service_tells_its_last_line_and_its_settings_file() {
        let last_line = Some("error: invalid value 'bad name' for '--stream <STREAM>'".to_owned());
        for (id, file) in [
            ("create@w3", "w3"),
            ("consumer@w3@2", "w3@2"),
            ("consumer-nsq", "consumer-nsq"),
            ("wakeup", "wakeup"),
            ("broker", "broker"),
            ("stage@w3", "stage@w3"),
            ("bridge@w3", "bridge@w3"),
        ] {
            let id = format!("mqueue-{id}.service");
            let failed =
                SystemdUnit { result: "exit-code".to_owned(), last_line: last_line.clone(), ..unit(&id, "failed") };
            let systemd = Some(SystemdState { units: vec![failed], ..SystemdState::default() });
            let finding = check(&Observed { systemd, ..Observed::default() }).remove(0);
            assert!(
                finding.message.ends_with("its last line: error: invalid value 'bad name' for '--stream <STREAM>'")
            );
            let fix = finding.fix.unwrap();
            assert!(
                fix.starts_with(&format!("journalctl --no-pager -n 20 -u {id}    # ")),
                "it shows the cause: {fix}"
            );
            assert!(fix.contains(&format!(" /etc/mqueue/{file}.env, then: systemctl reset-failed {id} && ")), "{fix}");
        }
        let resources = SystemdUnit { result: "resources".to_owned(), ..unit(SOCKET, "failed") };
        assert!(reported(vec![resources])[0].2.starts_with("journalctl "), "its cause is not a limit");
    }

    #[test]
    fn masked_units_are_unmasked_first() {
        let service = || SystemdUnit { load: "masked".to_owned(), ..unit("mqueue-consumer@mail.service", "inactive") };
        let failed = SystemdUnit { result: "resources".to_owned(), ..unit(SOCKET, "failed") };
        let fix = &reported(vec![failed, service()])[0].2;
        let unmask = "systemctl unmask mqueue-consumer@mail.service";
        assert_eq!(*fix, format!("systemctl reset-failed {SOCKET} && {unmask} && systemctl start {SOCKET}"));
        let socket = SystemdUnit { load: "masked".to_owned(), file: "masked".to_owned(), ..unit(SOCKET, "inactive") };
        let systemd = Some(SystemdState { units: vec![service(), socket], ..SystemdState::default() });
        let fix = enable_socket(&Observed { systemd, ..Observed::default() }, "foo", "mail");
        let unmask = format!("systemctl unmask {SOCKET} mqueue-consumer@mail.service");
        assert!(fix.contains(&format!("; then {unmask} && systemctl enable --now {SOCKET}; else ")), "{fix}");
    }

    #[test]
    fn stopped_sockets_are_reported_if_enabled_or_their_service_runs() {
        let stopped = |file: &str| SystemdUnit { file: file.to_owned(), ..unit(SOCKET, "inactive") };
        let service = |active| unit("mqueue-consumer@mail.service", active);
        let fix = "systemctl start mqueue-consumer@mail.socket";
        assert_eq!(reported(vec![stopped("enabled")]), [(Level::Error, CheckId::Units, fix.to_owned())]);
        assert_eq!(reported(vec![stopped("disabled"), service("inactive")])[0].0, Level::Ok);
        let [stop, again] = ["stop", "start"].map(|verb| format!("systemctl {verb} mqueue-consumer@mail.service"));
        let stop = format!("{stop} && {fix} && {again}");
        assert_eq!(reported(vec![stopped("disabled"), service("active")]), [(Level::Error, CheckId::Units, stop)]);
    }

    #[test]
    fn low_limits_are_fixed_by_a_drop_in() {
        let low = SystemdUnit { trigger_limit: Some((20, Duration::from_secs(2))), ..unit(SOCKET, "active") };
        let reported = |limited| reported(vec![limited, unit(WAKEUP, "active")]);
        let seen = reported(low.clone());
        assert_eq!((seen[0].0, seen[0].1), (Level::Warning, CheckId::TriggerLimit));
        assert!(seen[0].2.contains("'[Socket]' TriggerLimitIntervalSec=2s TriggerLimitBurst=2000 >"), "{seen:?}");
        assert_eq!(reported(SystemdUnit { trigger_limit: None, ..low })[0].0, Level::Ok);
        let of_broker = SystemdUnit { start_limited: true, ..unit("mqueue-broker.service", "inactive") };
        assert_eq!(start_limit(&of_broker), None);
        let limited = SystemdUnit { start_limited: true, ..unit("mqueue-consumer@mail.service", "inactive") };
        let seen = reported(limited);
        assert_eq!((seen[0].0, seen[0].1), (Level::Warning, CheckId::StartLimit));
    }

    #[test]
    fn sockets_require_a_running_and_enabled_wakeup() {
        let with = |wakeup| reported(vec![unit(SOCKET, "active"), wakeup]).remove(0);
        assert_eq!(
            with(unit(WAKEUP, "inactive")),
            (Level::Error, CheckId::Wakeup, format!("systemctl enable --now {WAKEUP}"))
        );
        let disabled = SystemdUnit { file: "disabled".to_owned(), ..unit(WAKEUP, "active") };
        assert_eq!(with(disabled), (Level::Warning, CheckId::Wakeup, format!("systemctl enable {WAKEUP}")));
        assert_eq!(with(SystemdUnit { load: "not-found".to_owned(), ..unit(WAKEUP, "inactive") }).0, Level::Error);
        for broker in BROKER {
            let units = |state| vec![unit(SOCKET, "active"), unit(WAKEUP, "inactive"), unit(broker, state)];
            assert_eq!(reported(units("active"))[0].0, Level::Ok, "{broker} wakes them");
            assert_eq!(reported(units("inactive"))[0].0, Level::Error, "{broker} does not run");
        }
        assert_eq!(reported(vec![unit(WAKEUP, "inactive")])[0].0, Level::Ok, "nobody sleeps");
        let of_a_feed = unit("mqueue-ingest@lines.socket", "active");
        assert_eq!(reported(vec![of_a_feed, unit(WAKEUP, "inactive")])[0].0, Level::Ok, "it wakes no consumer");
        for wakeup in
            [unit(WAKEUP, "inactive"), SystemdUnit { load: "not-found".to_owned(), ..unit(WAKEUP, "inactive") }]
        {
            let systemd = Some(SystemdState {
                units: vec![unit(SOCKET, "active"), wakeup],
                has_template: true,
                ..SystemdState::default()
            });
            let wakeup_process = check(&Observed { systemd, wakeup_runs: true, ..Observed::default() });
            assert_eq!(wakeup_process[0].level, Level::Ok, "one runs in a shell: {wakeup_process:?}");
        }
    }

    #[test]
    fn sockets_without_settings_are_reported() {
        let bare = SystemdUnit { has_settings: false, ..unit("mqueue-consumer@mail@2.socket", "inactive") };
        let seen = reported(vec![bare]);
        assert_eq!((seen[0].0, seen[0].1), (Level::Error, CheckId::Settings));
    }

    #[test]
    fn settings_for_another_stream_are_a_conflict() {
        let settings = |stream: Option<&str>, group: Option<&str>| {
            let own = super::super::observed::UnitSettings {
                stream: stream.map(str::to_owned),
                group: group.map(str::to_owned),
            };
            SystemdState { settings: [("w1".to_owned(), own)].into(), ..SystemdState::default() }
        };
        let of = |stream, group| conflict(&settings(stream, group), "tk", "w1", "w1");
        assert_eq!(of(Some("foo"), None).as_deref(), Some("stream foo"));
        assert_eq!(of(Some("tk"), Some("w2")).as_deref(), Some("group w2"));
        for (stream, group) in [(Some("tk"), None), (Some("tk"), Some("w1")), (None, None)] {
            assert_eq!(of(stream, group), None);
        }
        assert_eq!(conflict(&settings(Some("foo"), None), "tk", "w2", "w2"), None);
    }

    #[test]
    fn a_kept_settings_file_that_names_another_stream_is_not_enabled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("w1.env");
        let fix = enable_socket(&Observed::default(), "a.b#ephemeral", "w1");
        let fix =
            fix.replace("/etc/mqueue", folder.path().to_str().unwrap()).replace("systemctl enable", "echo enabled");
        let paste = || std::process::Command::new("sh").args(["-c", &fix]).output().unwrap();
        let names_handler = "MQUEUE_HANDLER=exec:true\n";
        for (text, is_enabled) in [
            ("STREAM=foo\n", false),
            ("STREAM=axb#ephemeral\n", false),
            ("#STREAM=a.b#ephemeral\n", false),
            ("", false),
            ("STREAM=a.b#ephemeral\n", true),
            ("STREAM=\"a.b#ephemeral\" \n", true),
        ] {
            std::fs::write(&file, text.to_owned() + names_handler).unwrap();
            let pasted = paste();
            assert_eq!(pasted.status.success(), is_enabled, "{text:?}: {pasted:?}");
            assert_eq!(pasted.stdout.starts_with(b"enabled"), is_enabled, "{text:?}: {pasted:?}");
            let said = String::from_utf8_lossy(&pasted.stderr).into_owned();
            assert_eq!(said.contains("does not name STREAM=a.b#ephemeral"), !is_enabled, "{text:?}: {said}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text.to_owned() + names_handler, "it is kept");
        }
    }

    #[test]
    fn written_settings_have_stream_group_and_brokers() {
        let mut observed = Observed { systemd: Some(SystemdState::default()), ..Observed::default() };
        let address = "10.0.0.1:4150".parse().unwrap();
        observed.tcp.push(super::super::observed::ProbedTcp { address, listed: None, answer: Ok(None) });
        let fix = enable_socket(&observed, "foo", "mail@2");
        assert!(fix.contains("STREAM=foo GROUP=mail NSQD_TCP_ADDRESS=10.0.0.1:4150 "), "{fix}");
        assert!(fix.contains("; then systemctl enable --now mqueue-consumer@mail@2.socket; else "), "{fix}");
    }
}
