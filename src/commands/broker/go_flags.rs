//! Flags as Go's `flag` package reads them, which nsqd uses: `-name` is `--name`, and numbers,
//! durations and booleans have Go's forms.

use std::ffi::{OsStr, OsString};
use std::ops::RangeBounds;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

use crate::commands::common::values::whole;

/// Rewrites `-name` to `--name`, up to `--`. Values, and the short flags of `command`, are not
/// changed.
pub(crate) fn with_two_dashes(words: impl IntoIterator<Item = OsString>, command: &Command) -> Vec<OsString> {
    let mut words = words.into_iter().peekable();
    let mut rewritten: Vec<OsString> = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            rewritten.push(word);
            break;
        }
        let Some((arg, name, value)) = flag(&word, command) else {
            rewritten.push(if is_long(&word, command) { joined_to(b"-", &word) } else { word });
            continue;
        };
        let takes_value = takes_value(arg);
        match value {
            Some(value) if !takes_value => match value.to_str().map(boolean) {
                Some(Ok(true)) => rewritten.push(name),
                Some(Ok(false)) => rewritten.retain(|before| *before != name),
                _ => rewritten.push(joined(&name, value)),
            },
            Some(value) => rewritten.push(joined(&name, value)),
            None if !takes_value || arg.is_require_equals_set() => rewritten.push(name),
            None => match words.peek() {
                // clap takes a negative number for flags
                Some(next) if is_negative(next) => rewritten.push(joined(&name, &words.next().unwrap_or_default())),
                Some(next) if !next.as_bytes().starts_with(b"-") => {
                    rewritten.push(name);
                    rewritten.extend(words.next());
                }
                Some(_) | None => rewritten.push(name),
            },
        }
    }
    rewritten.extend(words);
    rewritten
}

/// Finds the flag that a word names: its argument, `--name`, and the value after `=`.
fn flag<'a>(word: &'a OsStr, command: &'a Command) -> Option<(&'a Arg, OsString, Option<&'a OsStr>)> {
    let text = word.as_bytes().strip_prefix(b"-")?;
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (name, value) = match text.iter().position(|byte| *byte == b'=') {
        Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]))),
        None => (text, None),
    };
    let arg = command.get_arguments().find(|arg| arg.get_long().is_some_and(|long| long.as_bytes() == name))?;
    let name = joined_to(b"--", OsStr::from_bytes(name));
    Some((arg, name, value))
}

fn joined(name: &OsStr, value: &OsStr) -> OsString {
    OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat())
}

fn joined_to(before: &[u8], word: &OsStr) -> OsString {
    OsString::from_vec([before, word.as_bytes()].concat())
}

/// True for `-word` that is not made of short flags; clap then says which flag is similar.
fn is_long(word: &OsStr, command: &Command) -> bool {
    let is_short = |byte: &u8| command.get_arguments().any(|arg| arg.get_short() == Some(char::from(*byte)));
    match word.as_bytes() {
        [b'-', name @ ..] if name.len() > 1 => name[0].is_ascii_alphabetic() && !name.iter().all(is_short),
        _ => false,
    }
}

fn is_negative(word: &OsStr) -> bool {
    matches!(word.as_bytes(), [b'-', b'0'..=b'9' | b'.', ..])
}

/// True for a flag that has a value, or may have one. The command is built.
pub(super) fn takes_value(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|count| count.takes_values())
}

/// True for an argument that clap answers itself, such as `--version`.
pub(super) fn is_answered_by_clap(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Version | ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong)
}

/// Parses a boolean as Go does (`strconv.ParseBool`).
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}

/// Reads a whole number within `range` in Go's forms: `255`, `0xff`, `0o377`, `0377`,
/// `0b1111_1111`.
pub(super) fn go_whole<T>(
    range: impl RangeBounds<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: TryFrom<u64> + 'static,
{
    let read = whole::<T>(range);
    move |text| match integer(text) {
        Some(number) => read(&number.to_string()),
        None => read(text),
    }
}

/// Parses an integer as Go does (`strconv.ParseInt` of base 0).
pub(super) fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match (lower.get(..2), lower.get(2..)) {
        (Some("0x"), Some(rest)) => (16, rest),
        (Some("0o"), Some(rest)) => (8, rest),
        (Some("0b"), Some(rest)) => (2, rest),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-', '_']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let digits = digits.replace('_', "");
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

/// The longest duration that Go has, in nanoseconds.
const LONGEST: u128 = i64::MAX as u128;

/// Parses a duration as nsqd does (Go's `time.ParseDuration`). A bare number is refused, because it
/// could mean seconds or milliseconds. A negative duration is zero: whatever nsqd limits by it,
/// nothing is below.
pub(super) fn go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || match text.parse::<f64>() {
        Ok(_) => format!("say the unit: {text}s, {text}ms"),
        Err(_) => "use numbers with units: ns, us, ms, s, m, h (60s, 1m30s, 1.5h)".to_owned(),
    };
    let (is_negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut sum) = (unsigned, Duration::ZERO);
    loop {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(unit);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        sum = sum.checked_add(part).filter(|sum| sum.as_nanos() <= LONGEST).ok_or_else(wrong)?;
        match after {
            "" if is_negative => return Ok(Duration::ZERO),
            "" => return Ok(sum),
            more => rest = more,
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::commands::cli::whole_command_line;

    fn rewritten(words: &str) -> String {
        let cli = whole_command_line();
        let broker = cli.find_subcommand("broker").unwrap();
        let words = with_two_dashes(words.split(' ').map(OsString::from), broker);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn one_dash_is_two_where_it_names_a_long_flag() {
        for (typed, meant) in [
            ("-data-path /x", "--data-path /x"),
            ("-data-path=/x", "--data-path=/x"),
            ("--data-path=-snappy", "--data-path=-snappy"),
            ("-log warn", "--log warn"),
            ("-snappy -deflate=false", "--snappy --deflate=false"),
            ("-max-channel-consumers -1", "--max-channel-consumers=-1"),
            ("-msg-timeout -1.5s", "--msg-timeout=-1.5s"),
            ("-http-address  -snappy", "--http-address  --snappy"),
            ("-h -V", "-h -V"),
            ("-help", "--help"),
            ("-version=true", "--version"),
            ("--version=f -memory=1", "--memory=1"),
            ("-version -version=0", ""),
            ("-data-path", "--data-path"),
            ("-data-path -memory", "--data-path --memory"),
            ("-nonsense=1 data-path - -hV -x", "--nonsense=1 data-path - -hV -x"),
            ("-- -data-path", "-- -data-path"),
            ("-verbose -- -verbose", "--verbose -- -verbose"),
        ] {
            assert_eq!(rewritten(typed), meant, "{typed}");
        }
    }

    #[test]
    fn values_are_not_changed_even_if_they_are_not_text() {
        let (cli, bytes) = (whole_command_line(), b"-data-path=\xff-snappy".to_vec());
        let words = with_two_dashes([OsString::from_vec(bytes)], cli.find_subcommand("broker").unwrap());
        assert_eq!(words, [OsString::from_vec(b"--data-path=\xff-snappy".to_vec())]);
    }

    #[test]
    fn durations_are_those_of_nsqd() {
        for (text, millis) in [
            ("0", 0),
            ("-0", 0),
            ("60s", 60_000),
            ("+1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1000),
            ("1500us", 1),
            ("0s", 0),
            ("-1h30m", 0),
            ("2562047h", 9_223_369_200_000),
        ] {
            assert_eq!(go_duration(text).map(|duration| duration.as_millis()), Ok(millis), "{text}");
        }
        for wrong in
            ["60000", "", "-", "s", "1d", "1M", "1m 30s", "--1s", "1m-30s", "1.2.3s", "5m1", "1e3s", "2562048h"]
        {
            go_duration(wrong).expect_err(wrong);
        }
        assert_eq!(go_duration("60000").unwrap_err(), "say the unit: 60000s, 60000ms");
    }

    #[test]
    fn numbers_and_booleans_are_those_of_go() {
        for (text, number) in [
            ("255", 255),
            ("0xFF", 255),
            ("0o377", 255),
            ("0377", 255),
            ("0b1111_1111", 255),
            ("1_000", 1000),
            ("0", 0),
            ("-1", -1),
        ] {
            assert_eq!(integer(text), Some(number), "{text}");
        }
        for wrong in ["", "-", "1__0", "1_", "08", "1e3", "0x", "0x-1", "+-1", "9223372036854775808", "1.0"] {
            assert_eq!(integer(wrong), None, "{wrong}");
        }
        let read = go_whole::<u32>(1..=1 << 20);
        assert_eq!((read("0x100000"), read("+1")), (Ok(1 << 20), Ok(1)));
        for wrong in ["0", "-1", "", "1e6"] {
            assert_eq!(read(wrong), Err("use a whole number from 1 to 1048576".to_owned()), "{wrong}");
        }
        assert_eq!((boolean("T"), boolean("0")), (Ok(true), Ok(false)));
        assert!(["", "yes", "tRUE", "on"].iter().all(|wrong| boolean(wrong).is_err()));
    }
}
