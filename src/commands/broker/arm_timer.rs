//! `mqueue broker arm-timer`: the one timer that a sleeping broker needs, as root.
//!
//! ```text
//!  next-start ──▶ due in the future:  systemd-run --on-calendar=…   (mqueue-broker.timer)
//!                 due already:        systemctl start mqueue-broker.service
//!                 nothing:            no timer
//! ```
//!
//! The timer goes by the wall clock, as deferred messages do, so a step of the clock moves both. It
//! is a transient unit, which a reboot removes: `--boot` arms it anew.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::next_start::NextStart;
use crate::commands::common::exit::{Exit, Failure};

/// The folder of systemd's transient units.
const TRANSIENT: &str = "/run/systemd/transient";
/// The delay of a start that is due already, after a signal: who stops the unit sees it stopped.
const AFTER_SIGNAL: Duration = Duration::from_secs(2);

/// The year 9999, in milliseconds since 1970.
const END_OF_CALENDARS: u64 = 253_370_764_800_000;

/// Arm the timer that starts a sleeping broker when a deferred message is due
///
/// For the unit's ExecStopPost=, and as root: reads what the broker has left in its data folder,
/// takes back an earlier timer, and arms one if something is due. Needs systemd.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct ArmTimerArgs {
    /// Folder of the log, the broker's --data-path
    #[arg(
        long,
        env = "MQUEUE_DATA_PATH",
        value_name = "PATH",
        overrides_with = "data_path",
        default_value = "mqueue-data"
    )]
    pub data_path: PathBuf,

    /// Name of the broker's units, without .service
    #[arg(long, value_name = "NAME", default_value = "mqueue-broker", value_parser = unit_name)]
    pub unit: String,

    /// Start the broker at once if it did not end by itself before this boot [default: false]
    #[arg(long)]
    pub boot: bool,
}

fn unit_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@:".contains(c);
    let is_name = !text.is_empty() && !text.starts_with('-') && text.chars().all(allowed);
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "use the name of a unit without its ending: mqueue-broker".to_owned())
}

/// The start of the broker to arrange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arranged {
    /// None.
    Nothing,
    /// As it is: systemd restarts a broker that was killed.
    AsItIs,
    /// Now.
    Start,
    /// By a timer, at this time.
    At(SystemTime),
}

/// Decides by the note: pure.
pub(super) fn arrange(note: Option<NextStart>, is_boot: bool, now: SystemTime) -> Arranged {
    let Some(NextStart::Ended { by_signal, due, is_pending }) = note else {
        return match note {
            Some(_) if is_boot => Arranged::Start,
            Some(_) => Arranged::AsItIs,
            None => Arranged::Nothing,
        };
    };
    if is_boot && is_pending {
        return Arranged::Start;
    }
    // a time that a calendar cannot hold never comes
    let due = due.filter(|due| *due < END_OF_CALENDARS).map(|due| UNIX_EPOCH + Duration::from_millis(due));
    match due {
        None => Arranged::Nothing,
        Some(due) if due > now => Arranged::At(due),
        Some(_) if by_signal && !is_boot => Arranged::At(now + AFTER_SIGNAL),
        Some(_) => Arranged::Start,
    }
}

/// Arranges the next start.
///
/// # Errors
/// The note cannot be read, or systemd refuses.
pub(crate) fn run(args: &ArmTimerArgs) -> Result<Exit, Failure> {
    let note = NextStart::read(&args.data_path).map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot read next-start in {}: {error}", args.data_path.display()))
    })?;
    let (timer, service) = (format!("{}.timer", args.unit), format!("{}.service", args.unit));
    let arranged = arrange(note, args.boot, SystemTime::now());
    if arranged != Arranged::AsItIs && Path::new(TRANSIENT).join(&timer).exists() {
        systemd("systemctl", &["stop", &timer])?;
    }
    match arranged {
        Arranged::Nothing | Arranged::AsItIs => {}
        Arranged::Start => systemd("systemctl", &["start", "--no-block", &service])?,
        Arranged::At(due) => {
            let calendar = format!("--on-calendar={}", calendar(due));
            // stopping the socket stops the timer
            let part_of = format!("--timer-property=PartOf={}.socket", args.unit);
            let description = "--timer-property=Description=Start of the sleeping mqueue broker for a deferred message";
            let unit = format!("--unit={service}");
            let accuracy = "--timer-property=AccuracySec=1ms";
            systemd("systemd-run", &["--quiet", &unit, &calendar, accuracy, &part_of, description])?;
            // systemd never elapses a timer whose time passed before it was armed
            if SystemTime::now() >= due {
                systemd("systemctl", &["start", "--no-block", &service])?;
            }
        }
    }
    Ok(Exit::Success)
}

/// Writes a time as a calendar event, rounded up to milliseconds.
fn calendar(at: SystemTime) -> String {
    let at = at + Duration::from_nanos(999_999);
    humantime::format_rfc3339_millis(at).to_string().replace('T', " ").replace('Z', " UTC")
}

fn systemd(program: &str, args: &[&str]) -> Result<(), Failure> {
    let command = || format!("{program} {}", args.join(" "));
    let failed = |why: String| Failure::new(Exit::Failure, format!("{} failed: {why}", command()));
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| failed(said.lines().next().unwrap_or("no reason").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_start_follows_the_note() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let now = at(10_000);
        let left = |due| Some(NextStart::Ended { by_signal: false, due, is_pending: false });
        let stopped = |due, is_pending| Some(NextStart::Ended { by_signal: true, due, is_pending });
        for (note, after_end, at_boot) in [
            (None, Arranged::Nothing, Arranged::Nothing),
            (Some(NextStart::Running), Arranged::AsItIs, Arranged::Start),
            (left(None), Arranged::Nothing, Arranged::Nothing),
            (left(Some(12_000)), Arranged::At(at(12_000)), Arranged::At(at(12_000))),
            (left(Some(10_000)), Arranged::Start, Arranged::Start),
            (left(Some(u64::MAX)), Arranged::Nothing, Arranged::Nothing),
            (stopped(None, false), Arranged::Nothing, Arranged::Nothing),
            (stopped(None, true), Arranged::Nothing, Arranged::Start),
            (stopped(Some(12_000), true), Arranged::At(at(12_000)), Arranged::Start),
            (stopped(Some(9_000), false), Arranged::At(now + AFTER_SIGNAL), Arranged::Start),
        ] {
            assert_eq!(arrange(note, false, now), after_end, "{note:?}");
            assert_eq!(arrange(note, true, now), at_boot, "{note:?} at boot");
        }
    }

    #[test]
    fn a_time_is_written_as_systemd_reads_it() {
        assert_eq!(calendar(UNIX_EPOCH + Duration::from_millis(1_795_803_636_610)), "2026-11-27 18:20:36.610 UTC");
        assert_eq!(calendar(UNIX_EPOCH + Duration::from_nanos(1)), "1970-01-01 00:00:00.001 UTC");
    }
}
