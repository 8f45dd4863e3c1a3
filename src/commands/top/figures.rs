//! Numbers in a few characters.

use std::time::Duration;

use crate::commands::common::message_ages::MessageAge;

/// Formats a count in at most 5 characters: exactly up to 99999, then `123k`, `1.2M`, `12G`.
pub(super) fn count(number: u64) -> String {
    if number < 100_000 {
        return number.to_string();
    }
    let mut scaled = number as f64;
    let mut units = ["", "k", "M", "G", "T", "P"].iter().peekable();
    while scaled >= 999.5 && units.peek().is_some() {
        scaled /= 1000.0;
        units.next();
    }
    let unit = units.next().copied().unwrap_or("E");
    if scaled < 9.95 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// Formats messages a second in at most 5 characters: small rates with a decimal.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate > 0.0 && rate < 9.95 => format!("{rate:.1}"),
        Some(rate) => count(rate.round() as u64),
    }
}

/// Formats an age in one unit: `12s`, `3m`, `5h`, `9d`.
pub(super) fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..100 => format!("{seconds}s"),
        seconds @ 100..6000 => format!("{}m", seconds / 60),
        seconds @ 6000..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", (seconds / 86_400).min(9999)),
    }
}

/// Formats the age of the oldest message; `>` for one that was there at the first look.
pub(super) fn oldest(oldest: Option<MessageAge>) -> String {
    match oldest {
        None => "-".to_owned(),
        Some(MessageAge::Seen(at)) => age(at),
        Some(MessageAge::Over(at)) => format!(">{}", age(at)),
    }
}

/// Draws depths as `width` bars, the newest at the right, in proportion to the largest of them.
pub(super) fn sparkline(depths: impl ExactSizeIterator<Item = u32>, width: usize, is_ascii: bool) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const ASCII: [char; 8] = ['.', '.', ':', ':', '-', '=', '*', '#'];
    let bars = if is_ascii { ASCII } else { BARS };
    let skipped = depths.len().saturating_sub(width);
    let depths: Vec<u32> = depths.skip(skipped).collect();
    let most = depths.iter().copied().max().unwrap_or(0);
    let bar = |depth: u32| match depth {
        0 => ' ',
        // the largest depth is the highest bar, and any depth is a bar
        depth => bars[(u64::from(depth) * 8).div_ceil(u64::from(most)).clamp(1, 8) as usize - 1],
    };
    let drawn: String = depths.into_iter().map(bar).collect();
    format!("{drawn:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_and_rate_fits_five_characters() {
        for (number, expected) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100k"),
            (999_499, "999k"),
            (999_999, "1.0M"),
            (1_234_567, "1.2M"),
            (9_960_000, "10M"),
            (123_456_789_012, "123G"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(count(number), expected);
        }
        for power in 0..64 {
            for number in [(1_u64 << power) - 1, 1 << power, (1 << power) + 1, u64::MAX >> power] {
                assert!(count(number).len() <= 5, "{number}: {}", count(number));
            }
        }
        let rates = [None, Some(0.0), Some(0.04), Some(9.94), Some(9.96), Some(1234.5), Some(f64::MAX), Some(f64::NAN)];
        assert_eq!(rates.map(rate), ["-", "0", "0.0", "9.9", "10", "1235", "18E", "0"]);
    }

    #[test]
    fn ages_have_one_unit() {
        let seconds = [0, 99, 100, 5999, 6000, 172_799, 172_800, u64::MAX];
        assert_eq!(
            seconds.map(|seconds| age(Duration::from_secs(seconds))),
            ["0s", "99s", "1m", "99m", "1h", "47h", "2d", "9999d"]
        );
        assert_eq!(oldest(Some(MessageAge::Over(Duration::from_secs(5)))), ">5s");
    }

    #[test]
    fn sparklines_show_the_newest_at_the_right() {
        let line = |depths: &[u32], is_ascii| sparkline(depths.iter().copied(), 5, is_ascii);
        assert_eq!(line(&[], false), "     ");
        assert_eq!(line(&[0, 1, 8], false), "   ▁█");
        assert_eq!(line(&[9, 9, 9, 0, 1, 2, 3, 4], false), " ▂▄▆█");
        assert_eq!(line(&[5, 5, 5, 5, 5, u32::MAX], false), "▁▁▁▁█");
        assert_eq!(line(&[1, 4, 8], true), "  .:#");
    }
}
