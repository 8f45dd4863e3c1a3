//! The result of a run: a table, JSON, and a command for each violation.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::case::CaseResult;
use super::faults::FaultKind;
use super::history::MessageCounts;
use super::judge::Violation;
use crate::commands::common::text_table::TextTable;
use mqueue::plural::count;

/// Violations that are described; the rest is counted.
const DESCRIBED: usize = 20;

/// The result of a run.
#[derive(Debug, Serialize)]
pub(super) struct ProofReport {
    pub(super) target: String,
    pub(super) seed: u64,
    /// Seconds that the run took.
    pub(super) seconds: f64,
    pub(super) cases: u64,
    pub(super) messages: MessageCounts,
    pub(super) faults: Vec<FaultReport>,
    /// Messages lost as far as the target's promise allows it.
    pub(super) lost_as_allowed: u64,
    /// The longest time between the acknowledgement of such a message and the power cut.
    pub(super) oldest_lost_ms: Option<f64>,
    /// First deliveries in another order than published; the target promises none.
    pub(super) out_of_order: u64,
    pub(super) peak_memory_bytes: u64,
    pub(super) violations: u64,
    pub(super) described: Vec<RepeatableViolation>,
    /// Faults that were left out, and why.
    pub(super) left_out: Option<String>,
    #[serde(skip)]
    times: BTreeMap<FaultKind, FaultTimes>,
}

/// A violation and the command that repeats its case.
#[derive(Debug, Serialize)]
pub(super) struct RepeatableViolation {
    #[serde(flatten)]
    pub(super) violation: Violation,
    pub(super) command: String,
}

/// The faults of one kind.
#[derive(Debug, Serialize)]
pub(super) struct FaultReport {
    pub(super) fault: &'static str,
    pub(super) times: u64,
    pub(super) dropped_bytes: u64,
    pub(super) lost_as_allowed: u64,
    pub(super) violations: u64,
    pub(super) recovery_median_ms: Option<f64>,
    pub(super) recovery_max_ms: Option<f64>,
}

#[derive(Debug, Default)]
struct FaultTimes {
    times: u64,
    dropped_bytes: u64,
    allowed: u64,
    violations: u64,
    recoveries: Vec<Duration>,
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

impl ProofReport {
    pub(super) fn new(target: String, seed: u64) -> Self {
        Self {
            target,
            seed,
            seconds: 0.0,
            cases: 0,
            messages: MessageCounts::default(),
            faults: Vec::new(),
            lost_as_allowed: 0,
            oldest_lost_ms: None,
            out_of_order: 0,
            peak_memory_bytes: 0,
            violations: 0,
            described: Vec::new(),
            left_out: None,
            times: BTreeMap::new(),
        }
    }

    /// Adds a case, which `command` repeats.
    pub(super) fn add(&mut self, case: CaseResult, command: &str) {
        self.cases += 1;
        let (sum, of) = (&mut self.messages, case.counts);
        sum.published += of.published;
        sum.acknowledged += of.acknowledged;
        sum.refused += of.refused;
        sum.delivered += of.delivered;
        sum.again += of.again;
        for fault in case.faults {
            let times = self.times.entry(fault.kind).or_default();
            times.times += 1;
            times.dropped_bytes += fault.dropped_bytes;
            times.recoveries.extend(fault.recovery);
        }
        for fault in &case.judgement.allowed {
            self.times.entry(*fault).or_default().allowed += 1;
        }
        self.lost_as_allowed += case.judgement.allowed.len() as u64;
        let oldest = case.judgement.oldest_lost.map(milliseconds);
        self.oldest_lost_ms = self.oldest_lost_ms.into_iter().chain(oldest).reduce(f64::max);
        self.out_of_order += case.judgement.disordered;
        self.peak_memory_bytes = self.peak_memory_bytes.max(case.peak_memory);
        for violation in case.judgement.violations {
            self.violations += 1;
            if let Some(fault) = violation.after {
                self.times.entry(fault).or_default().violations += 1;
            }
            if self.described.len() < DESCRIBED {
                self.described.push(RepeatableViolation { violation, command: command.to_owned() });
            }
        }
    }

    /// Completes the report.
    pub(super) fn end(&mut self, took: Duration) {
        self.seconds = milliseconds(took) / 1e3;
        self.faults = std::mem::take(&mut self.times).into_iter().map(|(kind, times)| times.report(kind)).collect();
    }

    /// Formats the report for people.
    pub(super) fn text(&self) -> String {
        let mut table =
            TextTable::new(["fault", "times", "dropped", "lost, allowed", "violations", "recovery p50", "max"]);
        for fault in &self.faults {
            let time = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
            table.row([
                fault.fault.to_owned(),
                fault.times.to_string(),
                format!("{:.2} MB", fault.dropped_bytes as f64 / 1e6),
                fault.lost_as_allowed.to_string(),
                fault.violations.to_string(),
                time(fault.recovery_median_ms),
                time(fault.recovery_max_ms),
            ]);
        }
        let MessageCounts { published, acknowledged, refused, delivered, again } = self.messages;
        let oldest =
            self.oldest_lost_ms.map_or_else(String::new, |ms| format!(", the oldest {ms:.1} ms before the cut"));
        let lines = [
            format!("{}, seed {}", self.target, self.seed),
            table.text(),
            format!("{published} published, {acknowledged} acknowledged, {refused} refused"),
            format!("{delivered} delivered, {again} of them again, {} out of order", self.out_of_order),
            format!("{} lost as its promise allows{oldest}", count(self.lost_as_allowed, "message")),
            format!("memory at most {:.1} MB", self.peak_memory_bytes as f64 / 1e6),
            self.left_out.as_ref().map_or_else(String::new, |why| format!("left out: {why}")),
            self.verdict(),
        ];
        lines.into_iter().filter(|line| !line.is_empty()).map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    fn verdict(&self) -> String {
        let cases = count(self.cases, "case");
        let mut text = format!("{} in {cases}, {:.0} s\n", count(self.violations, "violation"), self.seconds);
        for RepeatableViolation { violation, command } in &self.described {
            text += &format!("\n{}\n    repeat: {command}\n", violation.text);
        }
        text
    }
}

impl FaultTimes {
    fn report(mut self, kind: FaultKind) -> FaultReport {
        self.recoveries.sort_unstable();
        FaultReport {
            fault: kind.describe(),
            times: self.times,
            dropped_bytes: self.dropped_bytes,
            lost_as_allowed: self.allowed,
            violations: self.violations,
            recovery_median_ms: self.recoveries.get(self.recoveries.len() / 2).copied().map(milliseconds),
            recovery_max_ms: self.recoveries.last().copied().map(milliseconds),
        }
    }
}
