//! The names of rotated files, pure: a format, a time and a revision make a name.
//!
//! ```text
//!  <TOPIC>.<HOST><REV>.<DATETIME>.log   at 12:30 UTC, revision 7   ─▶  foo.web1-000007.2026-11-27_12.log
//! ```

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::proto::TopicName;

const REVISION: &str = "<REV>";
const DATETIME: &str = "<DATETIME>";
/// The maximum length of a file name, in bytes.
const MAX_NAME: usize = 255;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The error of an invalid name format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNames {
    /// An unknown conversion.
    #[error("invalid --datetime-format {0:?}: use %Y %y %m %d %H %I %M %S %p %B %b %A %a %z %Z and %%")]
    Datetime(String),
    /// An unknown placeholder, or a name that no file can have.
    #[error(
        "invalid --filename-format {0:?}: use a name of at most 255 bytes without /, with <TOPIC>, <HOST>, <PID>, <REV> and <DATETIME>"
    )]
    Filename(String),
    /// Rotated files need different names.
    #[error("--filename-format {0:?} has no <REV>, which tells rotated files apart: put it in")]
    NoRevision(String),
}

/// The names of a consumer's rotated files.
#[derive(Debug, Clone)]
pub struct RotatedNames {
    /// The format, with the constant placeholders filled in.
    format: String,
    datetime: String,
    /// True if the first revision has a number as well.
    is_numbered: bool,
}

/// The source and the writer of the messages, for placeholders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameFields<'a> {
    pub(crate) topic: &'a TopicName,
    pub(crate) host: &'a str,
    pub(crate) pid: u32,
}

impl RotatedNames {
    /// Parses a format. With `is_numbered` each name has its revision (`-000000`), otherwise only
    /// those after the first.
    pub(crate) fn new(
        format: &str,
        datetime: &str,
        writer: NameFields<'_>,
        is_numbered: bool,
    ) -> Result<Self, InvalidNames> {
        let invalid = || InvalidNames::Filename(format.to_owned());
        if is_numbered && !format.contains(REVISION) {
            return Err(InvalidNames::NoRevision(format.to_owned()));
        }
        let unknown = ["<TOPIC>", "<HOST>", "<PID>", REVISION, DATETIME]
            .iter()
            .fold(format.to_owned(), |rest, known| rest.replace(known, ""));
        if unknown.contains(['<', '/', '\0']) || datetime.contains(['<', '/', '\0']) {
            return Err(invalid());
        }
        // a host name may have any character
        let host = writer.host.split('.').next().unwrap_or_default().replace(['<', '/', '\0'], "_");
        let filled = format
            .replace("<TOPIC>", writer.topic.as_str())
            .replace("<HOST>", &host)
            .replace("<PID>", &writer.pid.to_string());
        let names = Self { format: filled, datetime: datetime.to_owned(), is_numbered };
        let longest = names.at(UNIX_EPOCH).ok_or_else(|| InvalidNames::Datetime(datetime.to_owned()))?.of(u32::MAX);
        let is_name = !matches!(longest.as_str(), "" | "." | "..") && longest.len() <= MAX_NAME;
        is_name.then_some(names).ok_or_else(invalid)
    }

    /// Returns the names of files begun at this time; `None` if the time format is invalid.
    pub(super) fn at(&self, time: SystemTime) -> Option<TimedNames> {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let text = self.format.replace(DATETIME, &datetime(&self.datetime, seconds)?);
        Some(TimedNames { text, is_numbered: self.is_numbered })
    }
}

/// The names for one time, which differ in their revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimedNames {
    text: String,
    is_numbered: bool,
}

impl TimedNames {
    /// Returns the name of a revision.
    pub(super) fn of(&self, revision: u32) -> String {
        let number = if revision == 0 && !self.is_numbered { String::new() } else { format!("-{revision:06}") };
        self.text.replace(REVISION, &number)
    }

    /// True if names of several revisions exist.
    pub(super) fn have_revisions(&self) -> bool {
        self.text.contains(REVISION)
    }

    /// Returns the revision in a name; `None` if the name is of another format.
    pub(super) fn revision_of(&self, name: &str) -> Option<u32> {
        let (before, _) = self.text.split_once(REVISION).unwrap_or((&self.text, ""));
        let number = name.strip_prefix(before)?.strip_prefix('-').unwrap_or_default();
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let revision = number[..digits].parse().unwrap_or(0);
        // 0 where there is no number
        [revision, 0].into_iter().find(|revision| self.of(*revision) == name)
    }
}

/// Formats a UTC time as strftime does; `None` for an unknown conversion.
fn datetime(format: &str, seconds: u64) -> Option<String> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = date(days);
    let hour_of_12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[((days + 4) % 7) as usize];
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let written = match characters.next()? {
            'Y' => write!(text, "{year:04}"),
            'y' => write!(text, "{:02}", year % 100),
            'm' => write!(text, "{month:02}"),
            'd' => write!(text, "{day:02}"),
            'H' => write!(text, "{hour:02}"),
            'I' => write!(text, "{hour_of_12:02}"),
            'M' => write!(text, "{minute:02}"),
            'S' => write!(text, "{second:02}"),
            'p' => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
            'B' => write!(text, "{month_name}"),
            'b' => write!(text, "{}", &month_name[..3]),
            'A' => write!(text, "{day_name}"),
            'a' => write!(text, "{}", &day_name[..3]),
            'z' => write!(text, "+0000"),
            'Z' => write!(text, "UTC"),
            '%' => write!(text, "%"),
            _ => return None,
        };
        written.ok()?;
    }
    Some(text)
}

/// Returns year, month and day for a number of days since 1970. The computation starts years in
/// March, so that a leap day is the last day of a year.
fn date(days: u64) -> (u64, u64, u64) {
    let since_0 = days + 719_468;
    let (era, day_of_era) = (since_0 / 146_097, since_0 % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(format: &str, datetime: &str, is_numbered: bool) -> Result<RotatedNames, InvalidNames> {
        let topic = "foo".parse().unwrap();
        RotatedNames::new(
            format,
            datetime,
            NameFields { topic: &topic, host: "web1.example.org", pid: 42 },
            is_numbered,
        )
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn names_follow_their_format() {
        let hourly = names("<TOPIC>.<HOST><REV>.<DATETIME>.log", "%Y-%m-%d_%H", true).unwrap();
        let now = hourly.at(at(1_795_223_628)).unwrap();
        assert_eq!(now.of(7), "foo.web1-000007.2026-11-21_01.log");
        assert_eq!(now.of(0), "foo.web1-000000.2026-11-21_01.log");
        assert_eq!(now, hourly.at(at(1_795_223_628 + 2771)).unwrap(), "01:59:59");
        assert_ne!(now, hourly.at(at(1_795_223_628 + 2772)).unwrap(), "02:00:00");
        let plain = names("<TOPIC>.<PID><REV>", "", false).unwrap().at(at(0)).unwrap();
        assert_eq!((plain.of(0), plain.of(1)), ("foo.42".to_owned(), "foo.42-000001".to_owned()));
    }

    #[test]
    fn revisions_are_parsed_from_names() {
        for is_numbered in [true, false] {
            let now = names("a<REV>b<DATETIME><REV>", "-%S", is_numbered).unwrap().at(at(5)).unwrap();
            for revision in [0, 1, 999_999, 1_000_000, u32::MAX] {
                assert_eq!(now.revision_of(&now.of(revision)), Some(revision), "{}", now.of(revision));
            }
            for other in
                ["", "a", "a-000001", "a-000001b-05", "a-000001b-05-000002", "a-1b-05-1", "a-000001b-06-000001"]
            {
                assert_eq!(now.revision_of(other), None, "{other}");
            }
        }
        let now = names("a", "", false).unwrap().at(at(5)).unwrap();
        assert_eq!((now.revision_of("a"), now.revision_of("a-000001"), now.have_revisions()), (Some(0), None, false));
    }

    #[test]
    fn times_are_formatted_as_by_strftime_in_utc() {
        let text = |seconds| datetime("%Y %y %m %d %H %I %M %S %p %B %b %A %a %z %Z %%", seconds).unwrap();
        assert_eq!(text(0), "1970 70 01 01 00 12 00 00 AM January Jan Thursday Thu +0000 UTC %");
        assert_eq!(text(1_709_251_199), "2024 24 02 29 23 11 59 59 PM February Feb Thursday Thu +0000 UTC %");
        assert_eq!(text(1_709_251_200), "2024 24 03 01 00 12 00 00 AM March Mar Friday Fri +0000 UTC %");
        assert_eq!(text(4_107_542_399), "2100 00 02 28 23 11 59 59 PM February Feb Sunday Sun +0000 UTC %");
        assert_eq!(text(4_107_542_400), "2100 00 03 01 00 12 00 00 AM March Mar Monday Mon +0000 UTC %");
    }

    #[test]
    fn invalid_formats_are_refused() {
        for (format, datetime) in
            [("", ""), ("..", ""), ("a/<REV>", ""), ("<GZIPREV>", ""), ("<DATETIME>", "%Y/%m"), ("a\0", "")]
        {
            let error = names(format, datetime, false).unwrap_err();
            assert_eq!(error, InvalidNames::Filename(format.to_owned()), "{format:?} {datetime:?}");
        }
        assert!(names(&"a".repeat(256), "", false).is_err() && names(&"a".repeat(255), "", false).is_ok());
        for format in ["%", "%j", "%é"] {
            assert_eq!(names("<DATETIME>", format, false).unwrap_err(), InvalidNames::Datetime(format.to_owned()));
        }
        assert_eq!(names("a", "", true).unwrap_err(), InvalidNames::NoRevision("a".to_owned()));
    }
}
