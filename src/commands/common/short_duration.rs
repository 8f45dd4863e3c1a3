//! Durations for people, in at most six characters without blanks: `350ms`, `3.2s`, `3m12s`, `5d3h`.

use std::time::Duration;

/// Formats a duration with one or two units.
pub(crate) fn short_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..10 => format!("{}.{}s", seconds, time.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "m"),
        86_400..8_640_000 => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_and_cut_rather_than_rounded() {
        for (millis, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (9_999, "9.9s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (192_345, "3m12s"),
            (3_599_000, "59m59s"),
            (3_600_000, "1h"),
            (86_399_000, "23h59m"),
            (86_400_000, "1d"),
            (8_639_999_000, "99d23h"),
            (8_640_000_000, "100d"),
        ] {
            assert_eq!(short_duration(Duration::from_millis(millis)), text);
            assert!(text.len() <= 6);
        }
    }
}
