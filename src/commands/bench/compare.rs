//! Comparison of this run with an earlier one, figure by figure.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::report::{BenchReport, FlowReport, UsageReport, figure};
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::text_table::TextTable;

/// An earlier run's report, written with `--output json`.
#[derive(Debug)]
pub(super) struct EarlierReport(BenchReport);

/// The comparison of the figures that both runs have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Comparison {
    /// Differences between the loads of the two runs; with any, the ratios mean little.
    different: Vec<String>,
    figures: Vec<ComparedFigure>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ComparedFigure {
    what: String,
    earlier: f64,
    now: f64,
    ratio: f64,
}

impl EarlierReport {
    /// Reads a report. Fails if the file holds none.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let failure = |e: &dyn std::fmt::Display| {
            let line = format!("cannot compare with {}: {e}: name a file written by --output json", path.display());
            Failure::new(Exit::Usage, line)
        };
        let text = std::fs::read_to_string(path).map_err(|e| failure(&e))?;
        serde_json::from_str(&text).map(Self).map_err(|e| failure(&e))
    }

    /// Compares the figures that both runs have.
    pub(super) fn compare(&self, now: &BenchReport) -> Comparison {
        let Self(earlier) = self;
        let pairs = figures(earlier).into_iter().zip(figures(now));
        let figures = pairs.filter_map(|((what, earlier), (_, now))| {
            let (earlier, now) = (earlier?, now?);
            (earlier > 0.0).then(|| ComparedFigure { what: what.to_owned(), earlier, now, ratio: now / earlier })
        });
        Comparison { figures: figures.collect(), different: different(earlier, now) }
    }
}

impl Comparison {
    /// Formats the comparison as plain text.
    pub(super) fn text(&self) -> String {
        format!("\n{}{}", self.table().text(), self.warning())
    }

    /// Formats the comparison as Markdown.
    pub(super) fn markdown(&self) -> String {
        format!("\n{}{}", self.table().markdown(), self.warning())
    }

    fn table(&self) -> TextTable {
        let mut table = TextTable::new(["", "earlier", "now", "ratio"]);
        for ComparedFigure { what, earlier, now, ratio } in &self.figures {
            table.row([what.clone(), figure(*earlier), figure(*now), format!("{ratio:.2}×")]);
        }
        table
    }

    fn warning(&self) -> String {
        match self.different.is_empty() {
            true => String::new(),
            false => format!("\nloads differ: {}\n", self.different.join("; ")),
        }
    }
}

/// Lists the figures of a run by name: the same names in the same order for every run.
fn figures(report: &BenchReport) -> Vec<(&'static str, Option<f64>)> {
    let rate = |flow: &Option<FlowReport>| flow.as_ref().map(|flow| flow.messages_per_s);
    let p50 = |flow: &Option<FlowReport>| flow.as_ref()?.latency_ms.map(|ms| ms.p50);
    let p99 = |flow: &Option<FlowReport>| flow.as_ref()?.latency_ms.map(|ms| ms.p99);
    let (client, broker) = (Some(&report.client_usage), report.broker_usage.as_ref());
    let cpu = |usage: Option<&UsageReport>| usage?.cpu_us_per_message;
    let memory = |usage: Option<&UsageReport>| usage.map(|usage| usage.memory_bytes as f64 / 1e6);
    vec![
        ("published, messages/s", rate(&report.published)),
        ("published, p50, ms", p50(&report.published)),
        ("published, p99, ms", p99(&report.published)),
        ("handled, messages/s", rate(&report.handled)),
        ("handled, p50, ms", p50(&report.handled)),
        ("handled, p99, ms", p99(&report.handled)),
        ("client, µs a message", cpu(client)),
        ("client, MB", memory(client)),
        ("broker, µs a message", cpu(broker)),
        ("broker, MB", memory(broker)),
    ]
}

/// Lists the fields in which the two loads differ, each with both values.
fn different(earlier: &BenchReport, now: &BenchReport) -> Vec<String> {
    let fields = |report: &BenchReport| match serde_json::to_value(&report.load) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (was, is) = (fields(earlier), fields(now));
    let changed = is.iter().filter(|(name, value)| was.get(*name) != Some(*value));
    let text = |value: Option<&serde_json::Value>| match value {
        None | Some(serde_json::Value::Null) => "none".to_owned(),
        Some(value) => value.to_string().trim_matches('"').to_owned(),
    };
    changed.map(|(name, value)| format!("{name} was {}, is {}", text(was.get(name)), text(Some(value)))).collect()
}
