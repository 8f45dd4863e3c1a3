//! The answer of a command to a message: one line.
//!
//! ```text
//!  ok                        Done
//!  ok TEXT                   Done; TEXT goes to the next hop, if there is one
//!  retry [DELAY] [REASON]    Retry: DELAY is 30 (seconds), 500ms, 5m; without it, the worker's own delay
//!  drop [REASON]             Drop
//!
//!  id=ID ok …                the same, for the message with this id
//! ```
//!
//! A verdict without an id is for the next message without a verdict.

use std::time::Duration;

use bytes::Bytes;

use crate::handler::{LONGEST_DELAY, Verdict};

/// The maximum length of a reason, or of an invalid line, in characters.
const MAX_SHOWN: usize = 200;

/// An answer of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CommandAnswer {
    /// The id of the message, if the command gives it.
    pub(super) id: Option<Bytes>,
    pub(super) verdict: Verdict,
}

/// Parses a line; keeps the output only if `captures`. `None` if it is not an answer.
pub(super) fn answer(line: &Bytes, captures: bool) -> Option<CommandAnswer> {
    let Some(rest) = line.strip_prefix(b"id=") else {
        return Some(CommandAnswer { id: None, verdict: verdict(line, captures)? });
    };
    let (id, rest) = rest.split_at(rest.iter().position(|byte| *byte == b' ')?);
    Some(CommandAnswer { id: Some(line.slice_ref(id)), verdict: verdict(&line.slice_ref(&rest[1..]), captures)? })
}

fn verdict(line: &Bytes, captures: bool) -> Option<Verdict> {
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let rest = line.slice((end + 1).min(line.len())..);
    Some(match &line[..end] {
        b"ok" => Verdict::Done(Some(rest).filter(|text| captures && !text.is_empty())),
        b"retry" => retry(&sanitized(&rest)),
        b"drop" => Verdict::drop(or_default(sanitized(&rest).trim(), "dropped by the command")),
        _ => return None,
    })
}

fn retry(rest: &str) -> Verdict {
    let rest = rest.trim();
    let (first, behind) = rest.split_once(' ').unwrap_or((rest, ""));
    let after = delay(first);
    let why = if after.is_some() { behind.trim() } else { rest };
    Verdict::Retry { after, why: or_default(why, "put off by the command") }
}

/// A plain number is seconds, as everywhere on the command line.
fn delay(word: &str) -> Option<Duration> {
    let seconds = word.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.or_else(|| humantime::parse_duration(word).ok()).map(|delay| delay.min(LONGEST_DELAY))
}

fn or_default(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

/// Returns a command's text for a log: without control characters, and shortened.
pub(super) fn sanitized(text: &[u8]) -> String {
    // a character has at most four bytes
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * MAX_SHOWN)]);
    text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Verdict> {
        verdict(&Bytes::copy_from_slice(line.as_bytes()), true)
    }

    #[test]
    fn answers_may_have_an_id() {
        let read = |line: &'static str| answer(&Bytes::from_static(line.as_bytes()), true);
        let id = Some(Bytes::from_static(b"0123456789abcdef"));
        let done = Verdict::Done(Some(" a".into()));
        assert_eq!(read("id=0123456789abcdef ok  a"), Some(CommandAnswer { id: id.clone(), verdict: done }));
        assert_eq!(
            read("id=0123456789abcdef drop"),
            Some(CommandAnswer { id, verdict: Verdict::drop("dropped by the command") })
        );
        assert_eq!(read("ok"), Some(CommandAnswer { id: None, verdict: Verdict::Done(None) }));
        for line in ["id=", "id=0123456789abcdef", "id=0123456789abcdef ", "id=a  ok", "id=a id=b ok", "ok id"] {
            assert_eq!(read(line).is_some(), line == "ok id", "{line:?}");
        }
    }

    fn retry(after: Option<u64>, why: &str) -> Option<Verdict> {
        Some(Verdict::Retry { after: after.map(Duration::from_millis), why: why.to_owned() })
    }

    #[test]
    fn answers_are_parsed_with_delay_and_reason() {
        assert_eq!(read("ok"), Some(Verdict::Done(None)));
        assert_eq!(read("ok "), Some(Verdict::Done(None)));
        assert_eq!(read("ok  a b\t"), Some(Verdict::Done(Some(" a b\t".into()))));
        assert_eq!(verdict(&"ok a".into(), false), Some(Verdict::Done(None)));
        assert_eq!(read("retry"), retry(None, "put off by the command"));
        assert_eq!(read("retry 30"), retry(Some(30_000), "put off by the command"));
        assert_eq!(read("retry 1.5 it  is busy"), retry(Some(1500), "it  is busy"));
        assert_eq!(read("retry 5m locked"), retry(Some(300_000), "locked"));
        assert_eq!(read("retry it is busy"), retry(None, "it is busy"));
        assert_eq!(read("drop"), Some(Verdict::drop("dropped by the command")));
        assert_eq!(read("drop no such user"), Some(Verdict::drop("no such user")));
    }

    #[test]
    fn other_lines_are_not_answers() {
        for line in ["", " ok", "OK", "okay", "done", "{\"ok\":true}", "ok\r"] {
            assert_eq!(read(line), None, "{line:?}");
        }
    }

    #[test]
    fn answers_are_limited_and_sanitized() {
        for odd in ["-1", "nan", "inf", "1e300", "99999999999999999999years", "-5s"] {
            let Some(Verdict::Retry { after, .. }) = read(&format!("retry {odd}")) else { panic!("{odd}") };
            assert!(after.is_none_or(|after| after <= LONGEST_DELAY), "{odd}: {after:?}");
        }
        assert_eq!(read("retry 99999"), retry(Some(3_600_000), "put off by the command"));
        assert_eq!(read("drop \x1b[2Jgone"), Some(Verdict::drop("[2Jgone")));
        let Some(Verdict::Drop { why }) = read(&format!("drop {}", "ü".repeat(5000))) else { panic!("no drop") };
        assert_eq!(why, "ü".repeat(MAX_SHOWN));
    }
}
