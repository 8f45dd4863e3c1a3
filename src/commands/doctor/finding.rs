//! Findings: one line of text, or one JSON object, each.

use std::fmt;

use serde::Serialize;

/// The severity, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Checked, and in order.
    Ok,
    /// Not checked, as that is impossible here.
    Skipped,
    /// Something will fail, or needs attention.
    Warning,
    /// Something does not work.
    Error,
}

/// The check of a finding. The JSON names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CheckId {
    Nsqd,
    Nsqlookupd,
    Log,
    Version,
    Health,
    Certificate,
    PlainClients,
    SecretFile,
    Access,
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
    pub(super) check: CheckId,
    /// The subject: `nsqd 127.0.0.1:4151`, `group foo/1`, a path, a unit.
    pub(super) subject: String,
    /// The state of the subject.
    pub(super) message: String,
    /// The shell command that fixes the problem, or shows what to fix. It is safe to paste: it
    /// loses no message, ends no work, and starts no broker or consumer whose flags are unknown.
    pub(super) fix: Option<String>,
    /// The figures of an embedded broker.
    #[serde(flatten)]
    pub(super) figures: Option<BrokerFigures>,
}

/// The storage of an embedded broker and its limits, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct BrokerFigures {
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
    pub(super) fn ok(check: CheckId, subject: impl ToString, message: impl ToString) -> Self {
        Self::new(Level::Ok, check, subject, message, None)
    }

    pub(super) fn skipped(check: CheckId, subject: impl ToString, why: impl ToString) -> Self {
        Self::new(Level::Skipped, check, subject, why, None)
    }

    pub(super) fn warning(check: CheckId, subject: impl ToString, message: impl ToString, fix: impl ToString) -> Self {
        Self::new(Level::Warning, check, subject, message, Some(fix.to_string()))
    }

    pub(super) fn error(check: CheckId, subject: impl ToString, message: impl ToString, fix: impl ToString) -> Self {
        Self::new(Level::Error, check, subject, message, Some(fix.to_string()))
    }

    /// Adds these figures.
    pub(super) fn with(mut self, figures: BrokerFigures) -> Self {
        self.figures = Some(figures);
        self
    }

    fn new(level: Level, check: CheckId, subject: impl ToString, message: impl ToString, fix: Option<String>) -> Self {
        let (subject, message) = (one_line(&subject.to_string()), one_line(&message.to_string()));
        Self { level, check, subject, message, fix, figures: None }
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
        write!(f, "{level}: {}: {}", self.subject, self.message)?;
        self.fix.iter().try_for_each(|fix| write!(f, " → {fix}"))
    }
}

/// All findings, in falling severity.
#[derive(Debug, Serialize)]
pub(super) struct DoctorReport {
    pub(super) worst: Level,
    pub(super) findings: Vec<Finding>,
}

impl DoctorReport {
    pub(super) fn new(mut findings: Vec<Finding>) -> Self {
        // the sort is stable: findings of one level keep the order of the checks
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let levels = findings.iter().map(|finding| finding.level).filter(|level| *level != Level::Skipped);
        Self { worst: levels.max().unwrap_or(Level::Ok), findings }
    }
}

/// Replaces control characters: a server's text may have any, and a finding is one line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_sorted_by_severity_and_skipped_ones_do_not_count() {
        let ok = || Finding::ok(CheckId::Nsqd, "a", "b");
        let skipped_starts = || Finding::skipped(CheckId::Systemd, "a", "b");
        let warning = || Finding::warning(CheckId::Paused, "a", "b", "c");
        let worst = |findings| DoctorReport::new(findings).worst;
        assert_eq!(worst(vec![]), Level::Ok);
        assert_eq!(worst(vec![ok(), skipped_starts()]), Level::Ok);
        let report = DoctorReport::new(vec![ok(), warning(), Finding::error(CheckId::Nsqd, "x", "y", "z"), ok()]);
        assert_eq!((report.worst, report.findings[0].level), (Level::Error, Level::Error));
        assert_eq!(report.findings[1], warning());
    }

    #[test]
    fn findings_are_one_line_for_any_server_text() {
        let finding = Finding::error(CheckId::Health, "nsqd a:1", "NOK - a\nb\x1b[31m", "true");
        assert_eq!(finding.to_string(), "error: nsqd a:1: NOK - a b [31m → true");
    }
}
