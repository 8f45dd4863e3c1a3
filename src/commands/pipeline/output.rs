//! Output of a run: on a terminal a table redrawn each second, elsewhere a line each second.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;

use super::arrivals::Arrivals;
use super::hops::{HopQuantiles, IngestReport, SenderReport, StageReport};
use crate::commands::common::latency::Quantiles;
use crate::commands::common::stdout::ProgressOutput;
use mqueue::plural::count;

/// A row of the table, for one hop.
#[derive(Debug, Default)]
struct HopRow {
    name: String,
    /// Messages handed to the next hop.
    count: u64,
    /// Messages a second: of the last second, or at the end of the whole run.
    rate: u64,
    /// Messages in progress.
    working: Option<u32>,
    latency: Option<HopQuantiles>,
}

/// The table of all hops.
#[derive(Debug)]
pub(super) struct HopTable {
    /// Rows for ingest, the stages, and the end.
    rows: Vec<HopRow>,
    /// Backlog before each stage, and before the end.
    pub(super) queues: Vec<Option<i64>>,
    dead: Vec<u64>,
}

impl HopTable {
    /// Makes a table for this many stages.
    pub(super) fn new(stages: u8) -> Self {
        let names = (1..=stages).map(|n| format!("stage {n}"));
        let names = ["ingest".to_owned()].into_iter().chain(names).chain(["end".to_owned()]);
        Self {
            rows: names.map(|name| HopRow { name, ..HopRow::default() }).collect(),
            queues: vec![None; usize::from(stages) + 1],
            dead: vec![0; usize::from(stages)],
        }
    }

    /// Updates the row of ingest from a line of its report.
    pub(super) fn ingested(&mut self, line: IngestReport) {
        self.rows[0].set(line.published, None, line.latency_ms);
    }

    /// Updates the row of a stage from a line of its report.
    pub(super) fn passed(&mut self, stage: usize, line: StageReport) {
        self.dead[stage] = line.dead;
        self.rows[stage + 1].set(line.passed, Some(line.in_flight), line.latency_ms);
    }

    /// Updates the row of the end, once a second.
    pub(super) fn arrived(&mut self, arrivals: &mut Arrivals) {
        let recent = std::mem::take(&mut arrivals.recent);
        let latency = recent.quantiles().map(|Quantiles { p50, p99, .. }| HopQuantiles { p50, p99 });
        let row = self.rows.last_mut().expect("the end");
        row.set(arrivals.received, None, latency);
    }

    fn queue(&self, row: usize) -> Option<i64> {
        row.checked_sub(1).and_then(|at| *self.queues.get(at)?)
    }

    /// Formats the table, one line per hop.
    fn text(&self) -> String {
        let mut text = String::from("             messages       rate    queue  working   latency p50        p99\n");
        for (at, HopRow { name, count, rate, working, latency }) in self.rows.iter().enumerate() {
            let (queue, working) = (or_blank(self.queue(at)), or_blank(*working));
            let [p50, p99] =
                latency.map_or([String::new(), String::new()], |HopQuantiles { p50, p99 }| [ms(p50), ms(p99)]);
            let _ = writeln!(text, "  {name:<9} {count:>9} {rate:>8}/s {queue:>8} {working:>8} {p50:>13} {p99:>10}");
        }
        text
    }

    /// Formats the table as a single line.
    fn line(&self) -> String {
        let hops = self.rows.iter().enumerate().map(|(at, HopRow { name, rate, latency, .. })| {
            let queue =
                self.queue(at).filter(|queue| *queue > 0).map_or(String::new(), |queue| format!(" queue {queue}"));
            let latency = latency.map_or(String::new(), |latency| format!(" p99 {}", ms(latency.p99)));
            format!("{name} {rate}/s{queue}{latency}")
        });
        hops.collect::<Vec<_>>().join(", ")
    }
}

impl HopRow {
    fn set(&mut self, count: u64, working: Option<u32>, latency: Option<HopQuantiles>) {
        self.rate = count.saturating_sub(self.count);
        self.count = count;
        self.working = working;
        self.latency = latency;
    }
}

/// Writer to stdout.
#[derive(Debug)]
pub(super) struct PipelineOutput {
    terminal: bool,
    /// Number of table lines drawn on the terminal.
    drawn: Cell<usize>,
    pub(super) stdout: ProgressOutput,
}

impl PipelineOutput {
    pub(super) fn begin() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: Cell::new(0), stdout: ProgressOutput::default() }
    }

    /// Prints a line for people.
    pub(super) fn note(&self, line: &str) {
        self.stdout.write(&format!("{}{line}\n", self.erased()));
    }

    /// Shows the progress.
    pub(super) fn progress(&self, time: Duration, table: &HopTable) {
        if self.terminal {
            let text = format!("{}{}", self.erased(), table.text());
            self.drawn.set(table.text().lines().count());
            self.stdout.write(&text);
        } else {
            self.stdout.write(&format!("{:6.1} s  {}\n", time.as_secs_f64(), table.line()));
        }
    }

    /// Prints the table and the totals at the end, with latencies of the whole run.
    pub(super) fn end(&self, mut table: HopTable, arrivals: &Arrivals, sent: Option<&SenderReport>, interrupted: bool) {
        let time = arrivals.time().as_secs_f64().max(1e-9);
        for row in &mut table.rows {
            row.rate = (row.count as f64 / time).round() as u64;
            row.working = None;
        }
        let end = table.rows.last_mut().expect("the end");
        end.count = arrivals.received;
        end.rate = (arrivals.received as f64 / time).round() as u64;
        end.latency = arrivals.latency.quantiles().map(|Quantiles { p50, p99, .. }| HopQuantiles { p50, p99 });
        let mut text = format!("{}\n{}", self.erased(), table.text());
        match sent {
            Some(SenderReport { sent, sent_again, late_ms }) => {
                let (received, lost, duplicates) = (arrivals.received, arrivals.lost(*sent), arrivals.duplicates);
                let late = late_ms.map_or(String::new(), |late| format!(", late p99 {}", ms(late.p99)));
                let _ = writeln!(text, "\nsent {sent} (again {sent_again}{late})");
                let lost = if interrupted { format!("{lost} still on their way") } else { format!("lost {lost}") };
                let _ = writeln!(text, "received {received}, {lost}, duplicates {duplicates}");
            }
            None => text += "\nended before all was sent\n",
        }
        let dead: u64 = table.dead.iter().sum();
        if dead + arrivals.foreign > 0 {
            let _ = writeln!(
                text,
                "{}, {} at the end",
                count(dead, "dead letter"),
                count(arrivals.foreign, "strange message")
            );
        }
        if let Some(latency) = arrivals.latency.quantiles() {
            let _ = writeln!(text, "from end to end {latency}");
        }
        self.stdout.write(&text);
    }

    /// Returns the escape sequence that erases the drawn table.
    fn erased(&self) -> String {
        match self.drawn.take() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }
}

fn or_blank(number: Option<impl ToString>) -> String {
    number.map_or(String::new(), |number| number.to_string())
}

fn ms(millis: f64) -> String {
    match millis {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}
