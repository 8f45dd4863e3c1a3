//! Parsers of flag values that several commands share. Each error says what is allowed: clap adds
//! the flag and the value.

use std::convert::Infallible;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::time::Duration;

/// Reads a whole number within `range` that `T` can hold.
pub(crate) fn whole<T>(
    range: impl RangeBounds<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: TryFrom<u64> + 'static,
{
    let least = match range.start_bound() {
        Bound::Included(least) => *least,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let most = match range.end_bound() {
        Bound::Included(most) => *most,
        Bound::Excluded(after) => after.saturating_sub(1),
        Bound::Unbounded => u64::MAX,
    };
    let most = most.min(largest::<T>());
    move |text| {
        let number = text.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| match most {
            u64::MAX => format!("use a whole number of at least {least}"),
            most => format!("use a whole number from {least} to {most}"),
        })
    }
}

/// Returns the largest number that an unsigned type of 8 to 64 bits holds.
pub(crate) fn largest<T: TryFrom<u64>>() -> u64 {
    [64, 32, 16, 8].map(|bits| u64::MAX >> (64 - bits)).into_iter().find(|max| T::try_from(*max).is_ok()).unwrap_or(0)
}

/// A path, or none.
pub(crate) type MaybePath = Option<PathBuf>;

/// Reads a path; an empty one is none.
pub(crate) fn maybe_path(text: &str) -> Result<MaybePath, Infallible> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

/// Reads a duration with its unit, such as `500ms`. A bare number is refused: it once meant
/// milliseconds here, and means seconds elsewhere.
///
/// # Errors
/// Says what a duration looks like.
pub(crate) fn duration_with_unit(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        // zero is the same in every unit
        Ok(0.0) => Ok(Duration::ZERO),
        Ok(_) => Err(format!("give the unit, too: {text}ms or {text}s")),
        Err(_) => duration(text).map_err(|_| "use a number with a unit (500ms, 2s, 1m)".to_owned()),
    }
}

/// Reads a bare number of milliseconds, as environment variables have it, or a duration with a
/// unit.
///
/// # Errors
/// Says what is allowed.
pub(crate) fn millis(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(millis) => Ok(Duration::from_millis(millis)),
        Err(_) => {
            humantime::parse_duration(text).map_err(|_| "use milliseconds (500), or a unit (500ms, 1s)".to_owned())
        }
    }
}

/// The words that a log filter accepts, with tracing's name for each level.
const LEVELS: [(&str, &str); 12] = [
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
    ("off", "off"),
    ("err", "error"),
    ("warning", "warn"),
    ("notice", "info"),
    ("verbose", "debug"),
    ("none", "off"),
    ("quiet", "off"),
];

/// The level of what no directive of a log filter names.
const DEFAULT_LEVEL: &str = "info";

/// Reads a log filter: levels, and levels of targets as in `info,mqueue::client=debug`. A single
/// unknown word is refused: tracing would take it for a target, and silence everything else.
///
/// # Errors
/// Names the levels.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    let directives: Result<Vec<String>, String> = text.split(',').map(str::trim).map(directive).collect();
    match text.trim() {
        // an empty variable counts as unset
        "" => Ok(DEFAULT_LEVEL.to_owned()),
        _ => directives.map(|directives| match directives.iter().all(|directive| directive.contains('=')) {
            // a part's level says nothing of the rest, which tracing would silence
            true => format!("{DEFAULT_LEVEL},{}", directives.join(",")),
            false => directives.join(","),
        }),
    }
}

pub(crate) fn directive(text: &str) -> Result<String, String> {
    let (part, word) = text.rsplit_once('=').map_or((None, text), |(part, word)| (Some(part), word));
    let known = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word.trim()));
    match (part, known) {
        (None, Some((_, level))) => Ok((*level).to_owned()),
        (Some(part), Some((_, level))) if !part.is_empty() => Ok(format!("{part}={level}")),
        _ => {
            Err("use error, warn, info, debug, trace or off, or a part's level as in info,mqueue::client=debug"
                .to_owned())
        }
    }
}

/// How a command that runs for long reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReportFormat {
    /// At the end, for people.
    Text,
    /// JSON on stdout: a line each second, and one at the end.
    Json,
}

/// Reads a duration: a bare number of seconds (`30`, `0.5`), or with units (`30s`, `1m 30s`,
/// `250ms`).
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match seconds.map_or_else(|| humantime::parse_duration(text), Ok) {
        Ok(duration) => Ok(duration),
        Err(_) => Err("use seconds (30) or a number with a unit (30s, 250ms, 1m)".to_owned()),
    }
}

/// Checks an address to connect to; returns the text unchanged.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    text.parse::<mqueue::client::Address>().map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// Reads a duration within `range`.
pub(crate) fn duration_in(text: &str, range: std::ops::RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = duration(text)?;
    let shown = |end: &Duration| humantime::format_duration(*end).to_string();
    let wrong = || format!("use {} to {}", shown(range.start()), shown(range.end()));
    range.contains(&duration).then_some(duration).ok_or_else(wrong)
}

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e8).contains(rate));
    rate.ok_or_else(|| "use messages a second, such as 50 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_outside_its_range_is_refused_with_the_range() {
        let read = whole::<u32>(1..=10_000);
        assert_eq!((read("1"), read("10000")), (Ok(1), Ok(10_000)));
        for wrong in ["0", "10001", "1e6", "abc", "", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(read(wrong), Err("use a whole number from 1 to 10000".to_owned()), "{wrong:?}");
        }
    }

    #[test]
    fn a_range_without_an_end_ends_where_the_type_does() {
        assert_eq!(whole::<u64>(1..)("0"), Err("use a whole number of at least 1".to_owned()));
        assert_eq!(whole::<u16>(..)("65536"), Err("use a whole number from 0 to 65535".to_owned()));
        assert_eq!(whole::<u8>(..)("255"), Ok(255));
        assert_eq!(whole::<u32>(..)("4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn an_interval_has_a_unit_where_a_bare_number_once_meant_milliseconds() {
        assert_eq!(duration_with_unit("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration_with_unit("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration_with_unit("0"), Ok(Duration::ZERO));
        assert_eq!(duration_with_unit("500"), Err("give the unit, too: 500ms or 500s".to_owned()));
        assert!(["", "x", "-5s"].iter().all(|wrong| duration_with_unit(wrong).is_err()));
        assert_eq!((millis("500"), millis("2s")), (Ok(Duration::from_millis(500)), Ok(Duration::from_secs(2))));
    }

    #[test]
    fn log_filters_take_the_usual_words_and_refuse_unknown_ones() {
        for (text, filter) in [
            ("info", "info"),
            ("warning", "warn"),
            ("WARN", "warn"),
            ("err", "error"),
            ("quiet", "off"),
            ("", "info"),
            ("info,mqueue::client=debug", "info,mqueue::client=debug"),
            ("warning, mqueue::client=verbose", "warn,mqueue::client=debug"),
            ("mqueue::client=debug", "info,mqueue::client=debug"),
            ("mqueue::nope=off,mqueue::client=err", "info,mqueue::nope=off,mqueue::client=error"),
        ] {
            assert_eq!(log_filter(text).as_deref(), Ok(filter), "{text:?}");
        }
        for wrong in ["warnig", "mqueue", "5", "mqueue=loud", "=debug", "info,loud", "info,"] {
            let error = log_filter(wrong).unwrap_err();
            assert!(error.contains("error, warn, info, debug, trace"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        use std::time::Duration;
        let read = |text| duration(text).ok();
        assert_eq!(read("30"), Some(Duration::from_secs(30)));
        assert_eq!(read("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("1m 30s"), Some(Duration::from_secs(90)));
        for wrong in ["", "soon", "-1", "1e400", "nan"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
