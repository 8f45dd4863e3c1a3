//! `mqueue replay`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;

use crate::commands::common::body_pattern::BodyPattern;
use crate::commands::common::broker_args;
use crate::commands::common::values::{duration_with_unit, whole};
use mqueue::proto::TopicName;

/// Publish the messages of a recording again, or count them
///
/// To a stream of its own, STREAM.replay, unless --to names another; to the stream that was recorded
/// only after a question. Messages keep their bodies byte for byte and, unless --speed says
/// otherwise, their distances in time. Messages that were recorded twice are published once.
///
/// Exit code: 0; 1 if a part of the recording is damaged or a message was not published; 2 if there
/// is no terminal for the question and --yes is missing; 69 if no nsqd can be reached; 130 if
/// interrupted.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Folder of the recording (`mqueue record`)
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,

    /// Stream to publish to [default: STREAM.replay]
    #[arg(long, value_name = "NAME")]
    pub to: Option<TopicName>,

    /// Only messages published at this time or later, in UTC: 2026-11-28T05:47:58Z, 2026-11-28,
    /// 05:47 (today), or 2h (ago) [default: all]
    #[arg(long, value_name = "TIME")]
    pub from: Option<TimeOfDay>,

    /// Only messages published before this time [default: all]
    #[arg(long, value_name = "TIME")]
    pub until: Option<TimeOfDay>,

    /// Only messages whose body matches this regular expression [default: all]
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<BodyPattern>,

    /// Times as fast as the messages were published: 1x, 10x, 0.5x, or max, as fast as nsqd takes
    /// them
    #[arg(long, value_name = "1x|10x|max", default_value = "1x")]
    pub speed: ReplaySpeed,

    /// Exit after this many messages [default: no limit]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,

    /// Say in each message that it is a replay: `line` puts a line of JSON before the body, `field` a
    /// field `replay` into a body that is a JSON object [default: bodies are unchanged]
    #[arg(long, value_enum, value_name = "line|field")]
    pub mark: Option<ReplayMark>,

    /// Print what would be published, and publish nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// The way in which a message says that it is a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReplayMark {
    /// A line of JSON before the body
    Line,
    /// A field of a JSON object
    Field,
}

/// The pace of a replay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ReplaySpeed {
    /// This many times as fast as the messages were published.
    Times(f64),
    Max,
}

impl FromStr for ReplaySpeed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text.strip_suffix('x').and_then(|times| times.parse::<f64>().ok());
        let times = times.filter(|times| (0.001..=1e6).contains(times)).map(Self::Times);
        times.ok_or_else(|| "use a factor such as 1x, 10x or 0.5x, or max".to_owned())
    }
}

/// A time, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeOfDay(pub(crate) i64);

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read_time(text, SystemTime::now())
    }
}

fn read_time(text: &str, now: SystemTime) -> Result<TimeOfDay, String> {
    let usage = || "use a time in UTC (2026-11-28T05:47:58Z, 2026-11-28, 05:47) or an age (2h)".to_owned();
    let today = humantime::format_rfc3339_seconds(now).to_string();
    let today = today.split('T').next().unwrap_or_default();
    let whole = match (text.contains('-'), text.matches(':').count()) {
        (true, 0) => format!("{text} 00:00:00"),
        (true, 1) => format!("{text}:00"),
        (false, 1) => format!("{today} {text}:00"),
        (false, 2) => format!("{today} {text}"),
        _ => text.to_owned(),
    };
    let time = humantime::parse_rfc3339_weak(&whole).ok();
    let ago = || duration_with_unit(text).ok().and_then(|ago: Duration| now.checked_sub(ago));
    let since_1970 = time.or_else(ago).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let nanos = since_1970.and_then(|time| i64::try_from(time.as_nanos()).ok());
    nanos.map(TimeOfDay).ok_or_else(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_time_of_today_or_an_age() {
        let now = humantime::parse_rfc3339("2026-11-28T05:47:58Z").unwrap();
        for (text, time) in [
            ("2026-11-27T01:02:03Z", "2026-11-27T01:02:03Z"),
            ("2026-11-27T01:02:03.25Z", "2026-11-27T01:02:03.25Z"),
            ("2026-11-27 01:02:03", "2026-11-27T01:02:03Z"),
            ("2026-11-27T01:02", "2026-11-27T01:02:00Z"),
            ("2026-11-27", "2026-11-27T00:00:00Z"),
            ("01:02", "2026-11-28T01:02:00Z"),
            ("01:02:03", "2026-11-28T01:02:03Z"),
            ("2h", "2026-11-28T03:47:58Z"),
            ("1h 30m", "2026-11-28T04:17:58Z"),
        ] {
            let expected = humantime::parse_rfc3339(time).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(read_time(text, now), Ok(TimeOfDay(expected.as_nanos() as i64)), "{text}");
        }
        for wrong in ["", "7", "yesterday", "25:00", "2026-13-01", "1969-01-01", "99999d"] {
            assert!(read_time(wrong, now).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_speed_is_a_factor_or_max() {
        assert_eq!("10x".parse(), Ok(ReplaySpeed::Times(10.0)));
        assert_eq!("max".parse(), Ok(ReplaySpeed::Max));
        for wrong in ["", "x", "0x", "-1x", "10", "nanx", "infx", "MAX"] {
            assert!(wrong.parse::<ReplaySpeed>().is_err(), "{wrong:?}");
        }
    }
}
