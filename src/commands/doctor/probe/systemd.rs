//! Reads mqueue's units with `systemctl show`, which changes nothing.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::process::Command;
use tokio::time::timeout;

use super::settings;
use super::unit_flags::UnitFlags;
use crate::commands::doctor::observed::{SystemdState, SystemdUnit};
use crate::commands::doctor::units;

const TEMPLATE: &str = "mqueue-consumer@.socket";
const SETTINGS: &str = "/etc/mqueue";
/// The maximum of failed services whose last line is looked up.
const MAX_FAILED: usize = 20;
/// The maximum of characters of such a line.
const MAX_LINE: usize = 300;
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,Result,UnitFileState,Listen,TriggerLimitIntervalUSec,\
    TriggerLimitBurst,StartLimitIntervalUSec,StartLimitBurst,ConditionResult,ConditionTimestampMonotonic";

/// Returns all units of mqueue's; `None` if systemd does not answer.
pub(super) async fn ask(deadline: Duration) -> Option<SystemdState> {
    let show =
        systemctl(&["show", "--all", PROPERTIES, "mqueue-*.socket", "mqueue-*.service", units::WAKEUP], deadline);
    let files = systemctl(&["list-unit-files", "--no-legend", TEMPLATE], deadline);
    let (show, files) = join(show, files).await;
    let mut units = parse(&show?);
    units.iter_mut().for_each(|unit| unit.has_settings = has_settings(&unit.id));
    let failed = units.iter_mut().filter(|unit| unit.active == "failed" && !unit.is_socket()).take(MAX_FAILED);
    join_all(failed.map(|unit| async { unit.last_line = last_line(&unit.id, deadline).await })).await;
    let has_template = files.is_some_and(|files| files.contains(TEMPLATE));
    Some(SystemdState { units, has_template, settings: settings::read(Path::new(SETTINGS)) })
}

/// Returns the flags of mqueue's and nsqd's services; none if systemd does not answer. Settings
/// files whose service is not loaded stand for themselves.
pub(super) async fn unit_flags(deadline: Duration) -> Vec<UnitFlags> {
    let show = ["show", "--all", "--property=Id,User,Group,WorkingDirectory,Environment,EnvironmentFiles,ExecStart"];
    let patterns = ["mqueue*.service", "*nsqd*.service", units::WAKEUP];
    let Some(text) = systemctl(&[&show[..], &patterns].concat(), deadline).await else { return Vec::new() };
    let used = RefCell::new(HashSet::new());
    let mut all = UnitFlags::parse_all(&text, |path| {
        used.borrow_mut().insert(path.to_owned());
        settings::variables(path).unwrap_or_default()
    });
    let used = used.into_inner();
    let files = Path::new(SETTINGS).read_dir().into_iter().flatten().filter_map(|file| Some(file.ok()?.path()));
    let others = files.filter(|path| path.extension().is_some_and(|ending| ending == "env") && !used.contains(path));
    all.extend(others.filter_map(|path| Some(UnitFlags::of_variables(path.to_str()?, settings::variables(&path)?))));
    all
}

/// Returns the last error that the processes of a service wrote to the journal, or their last line.
async fn last_line(service: &str, deadline: Duration) -> Option<String> {
    let of_service = format!("_SYSTEMD_UNIT={service}");
    last_error(&run("journalctl", &["--quiet", "--lines=20", "--output=cat", &of_service], deadline).await?)
}

/// Returns the last line that begins as an error, or the last of all: usage errors end with a hint.
fn last_error(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_error = |line: &&&str| line.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case("error"));
    let line = lines.iter().rev().find(is_error).or(lines.last())?;
    Some(line.chars().take(MAX_LINE).collect())
}

/// Returns the output of systemctl.
async fn systemctl(args: &[&str], deadline: Duration) -> Option<String> {
    run("systemctl", args, deadline).await
}

/// Returns the output of a program; `None` if it fails, is missing, or does not end.
async fn run(program: &str, args: &[&str], deadline: Duration) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--no-pager").args(args).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(deadline, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns true if the settings file exists, or may not be read.
fn has_settings(unit: &str) -> bool {
    let instance = unit.strip_prefix("mqueue-consumer@").and_then(|rest| rest.rsplit_once('.'));
    let file = instance.map(|(instance, _)| Path::new(SETTINGS).join(format!("{instance}.env")));
    file.is_none_or(|file| file.try_exists().unwrap_or(true))
}

/// Parses blocks of `NAME=VALUE`, separated by empty lines. A unit that matches two patterns occurs
/// twice.
fn parse(text: &str) -> Vec<SystemdUnit> {
    let mut units: Vec<SystemdUnit> = text.split("\n\n").map(unit).filter(|unit| !unit.id.is_empty()).collect();
    units.sort_by(|a, b| a.id.cmp(&b.id));
    units.dedup_by(|a, b| a.id == b.id);
    units
}

fn unit(block: &str) -> SystemdUnit {
    let values = |name: &'static str| block.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='));
    let value = |name| values(name).next().unwrap_or_default();
    let number = |name| value(name).parse::<u64>().unwrap_or(0);
    let limit = |interval, burst| Some((number(burst), span(value(interval))?)).filter(|(burst, _)| *burst > 0);
    SystemdUnit {
        id: value("Id").to_owned(),
        load: value("LoadState").to_owned(),
        active: value("ActiveState").to_owned(),
        result: value("Result").to_owned(),
        file: value("UnitFileState").to_owned(),
        trigger_limit: limit("TriggerLimitIntervalUSec", "TriggerLimitBurst"),
        start_limited: limit("StartLimitIntervalUSec", "StartLimitBurst").is_some(),
        // Listen=/run/mqueue/a.sock (Stream)
        listen: values("Listen").filter_map(|listen| Some(listen.rsplit_once(" (")?.0.into())).collect(),
        // the result is "no" before the first start as well
        start_was_skipped: value("ConditionResult") == "no" && number("ConditionTimestampMonotonic") > 0,
        has_settings: true,
        last_line: None,
    }
}

/// Parses a time span of systemd's (`2s`, `1min 30s`); `None` for 0, which sets no limit.
fn span(text: &str) -> Option<Duration> {
    if text == "infinity" {
        return Some(Duration::MAX);
    }
    humantime::parse_duration(text).ok().filter(|span| !span.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemctl_show_is_parsed() {
        let text = "TriggerLimitIntervalUSec=2s\nTriggerLimitBurst=20\nListen=/run/a b.sock (Stream)\nListen=/run/c (Datagram)\n\
            Result=success\nId=b.socket\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\
            StartLimitIntervalUSec=0\nStartLimitBurst=5\n\nId=a.service\nActiveState=failed\nResult=exit-code\n\
            StartLimitIntervalUSec=10s\nStartLimitBurst=5\nConditionResult=no\nConditionTimestampMonotonic=7\n\nId=a.service\n\n\
            Id=c.service\nConditionResult=no\nConditionTimestampMonotonic=0\n";
        let units = parse(text);
        assert_eq!(
            units.iter().map(|unit| unit.id.as_str()).collect::<Vec<_>>(),
            ["a.service", "b.socket", "c.service"]
        );
        assert_eq!(units.iter().map(|unit| unit.start_was_skipped).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(
            (units[0].active.as_str(), units[0].result.as_str(), units[0].start_limited),
            ("failed", "exit-code", true)
        );
        assert_eq!(units[1].trigger_limit, Some((20, Duration::from_secs(2))));
        assert!(!units[1].start_limited, "an interval of 0 is no limit");
        assert_eq!(units[1].listen, [Path::new("/run/a b.sock"), Path::new("/run/c")]);
    }

    #[test]
    fn the_last_error_of_a_service_is_found_before_hints() {
        let usage = "error: old\nerror: invalid value 'bad name'\n\nFor more information, try '--help'.\n";
        assert_eq!(last_error(usage).as_deref(), Some("error: invalid value 'bad name'"));
        assert_eq!(last_error("ärger\nthe last\n\n").as_deref(), Some("the last"));
        assert_eq!(last_error("\n"), None);
    }

    #[test]
    fn systemd_time_spans_are_parsed() {
        let spans = ["2s", "1min 30s", "500ms", "0", "infinity"].map(span);
        let seconds = |s| Some(Duration::from_secs_f64(s));
        assert_eq!(spans, [seconds(2.0), seconds(90.0), seconds(0.5), None, Some(Duration::MAX)]);
    }
}
