//! What was found: one line for people, one object for programs.

use std::fmt;

use serde::Serialize;

/// How bad it is, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// It was looked at, and is in order.
    Ok,
    /// It could not be looked at here.
    Skipped,
    /// Something will go wrong, or waits for somebody.
    Warning,
    /// Something does not work.
    Error,
}

/// What was looked at. The names are for programs, and stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Check {
    Nsqd,
    Nsqlookupd,
    Log,
    Version,
    Health,
    Clock,
    Streams,
    Groups,
    Paused,
    DeadLetters,
    SocketDir,
    Socket,
    SocketMode,
    Systemd,
    Units,
    TriggerLimit,
    StartLimit,
    Wakeup,
    Settings,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) check: Check,
    /// What it is about: `nsqd 127.0.0.1:4151`, `group foo/1`, a path, a unit.
    pub(super) subject: String,
    /// What it is like.
    pub(super) what: String,
    /// The command for a shell that mends it, or shows what is to be mended. It is safe to paste: it loses no message, ends no work, and starts no
    /// broker or consumer of which it does not know how it is to be started.
    pub(super) mend: Option<String>,
    /// The figures that it is about.
    #[serde(flatten)]
    pub(super) figures: Option<Figures>,
}

/// What an embedded broker keeps, in bytes, and how much that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log_live_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disk_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disk_free_bytes: Option<u64>,
    pub(super) index_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_index_bytes: Option<u64>,
}

impl Finding {
    pub(super) fn ok(check: Check, subject: impl ToString, what: impl ToString) -> Self {
        Self::new(Level::Ok, check, subject, what, None)
    }

    pub(super) fn skipped(check: Check, subject: impl ToString, why: impl ToString) -> Self {
        Self::new(Level::Skipped, check, subject, why, None)
    }

    pub(super) fn warning(check: Check, subject: impl ToString, what: impl ToString, mend: impl ToString) -> Self {
        Self::new(Level::Warning, check, subject, what, Some(mend.to_string()))
    }

    pub(super) fn error(check: Check, subject: impl ToString, what: impl ToString, mend: impl ToString) -> Self {
        Self::new(Level::Error, check, subject, what, Some(mend.to_string()))
    }

    /// The same with these figures.
    pub(super) fn with(mut self, figures: Figures) -> Self {
        self.figures = Some(figures);
        self
    }

    fn new(level: Level, check: Check, subject: impl ToString, what: impl ToString, mend: Option<String>) -> Self {
        let (subject, what) = (one_line(&subject.to_string()), one_line(&what.to_string()));
        Self { level, check, subject, what, mend, figures: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Skipped => "skipped",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        write!(f, "{level}: {}: {}", self.subject, self.what)?;
        self.mend.iter().try_for_each(|mend| write!(f, " → {mend}"))
    }
}

/// All findings, the worst first.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) worst: Level,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(mut findings: Vec<Finding>) -> Self {
        // stable: within a level they stay in the order of the checks
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let levels = findings.iter().map(|finding| finding.level).filter(|level| *level != Level::Skipped);
        Self { worst: levels.max().unwrap_or(Level::Ok), findings }
    }
}

/// What a server says may be anything, but a finding is a line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_stands_first_and_what_was_skipped_is_not_bad() {
        let ok = || Finding::ok(Check::Nsqd, "a", "b");
        let skipped = || Finding::skipped(Check::Systemd, "a", "b");
        let warning = || Finding::warning(Check::Paused, "a", "b", "c");
        let worst = |findings| Report::new(findings).worst;
        assert_eq!(worst(vec![]), Level::Ok);
        assert_eq!(worst(vec![ok(), skipped()]), Level::Ok);
        let report = Report::new(vec![ok(), warning(), Finding::error(Check::Nsqd, "x", "y", "z"), ok()]);
        assert_eq!((report.worst, report.findings[0].level), (Level::Error, Level::Error));
        assert_eq!(report.findings[1], warning());
    }

    #[test]
    fn a_finding_is_one_line_whatever_a_server_says() {
        let finding = Finding::error(Check::Health, "nsqd a:1", "NOK - a\nb\x1b[31m", "true");
        assert_eq!(finding.to_string(), "error: nsqd a:1: NOK - a b [31m → true");
    }
}
