//! The `Date` header of HTTP answers (RFC 9110, 5.6.7): `Sat, 21 Nov 2026 01:13:48 GMT`, always in
//! this form.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Parses an HTTP date; `None` for any other text and for dates before 1970.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let (_, rest) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let mut words = rest.split(' ');
    let mut word = || words.next();
    let day: u64 = word()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month_name = word()?;
    let month = MONTHS.iter().position(|month| *month == month_name)? as u64;
    let year: u64 = word()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = word()?.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part <= 60));
    let mut part = || clock.next().flatten();
    let (hours, minutes, seconds) = (part()?, part()?, part()?);
    let days = days_before(year, month) + day - 1;
    Some(UNIX_EPOCH + Duration::from_secs(((days * 24 + hours) * 60 + minutes) * 60 + seconds))
}

/// Days from 1970 to the first of a month (0 is January).
fn days_before(year: u64, month: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = leaps(year) > leaps(year - 1);
    let before: u64 = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].iter().take(month as usize).sum();
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + before + u64::from(is_leap && month > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_to_the_second() {
        let at = |text| parse(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(at("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(at("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(at("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        assert_eq!(at("Sat, 21 Nov 2026 01:13:48 GMT"), Some(1_795_223_628));
        for wrong in
            ["", "now", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Nov 1894 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT"]
        {
            assert_eq!(at(wrong), None, "{wrong:?}");
        }
    }
}
