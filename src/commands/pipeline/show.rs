//! What a person follows: a table that is drawn anew each second, or a line each second where there is no terminal.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::hops::{Ingested, Millis, Passed, Sent};
use super::ledger::Ledger;
use crate::commands::common::latency::Quantiles;
use mqueue::plural::count;

/// A row of the table: a hop.
#[derive(Debug, Default)]
struct Row {
    name: String,
    /// Messages that the next hop has.
    count: u64,
    /// Of the last second, or in the end of the whole run.
    rate: u64,
    /// Messages that are worked on.
    working: Option<u32>,
    latency: Option<Millis>,
}

/// All hops.
#[derive(Debug)]
pub(super) struct Table {
    /// Ingest, the stages, the end.
    rows: Vec<Row>,
    /// What waits before each stage, and before the end.
    pub(super) queues: Vec<Option<i64>>,
    dead: Vec<u64>,
}

impl Table {
    /// For this many stages.
    pub(super) fn new(stages: u8) -> Self {
        let names = (1..=stages).map(|n| format!("stage {n}"));
        let names = ["ingest".to_owned()].into_iter().chain(names).chain(["end".to_owned()]);
        Self {
            rows: names.map(|name| Row { name, ..Row::default() }).collect(),
            queues: vec![None; usize::from(stages) + 1],
            dead: vec![0; usize::from(stages)],
        }
    }

    /// A line of ingest's report.
    pub(super) fn ingested(&mut self, line: Ingested) {
        self.rows[0].set(line.published, None, line.latency_ms);
    }

    /// A line of a stage's report.
    pub(super) fn passed(&mut self, stage: usize, line: Passed) {
        self.dead[stage] = line.dead;
        self.rows[stage + 1].set(line.passed, Some(line.in_flight), line.latency_ms);
    }

    /// A second has passed at the end.
    pub(super) fn arrived(&mut self, ledger: &mut Ledger) {
        let recent = std::mem::take(&mut ledger.recent);
        let latency = recent.quantiles().map(|Quantiles { p50, p99, .. }| Millis { p50, p99 });
        let row = self.rows.last_mut().expect("the end");
        row.set(ledger.received, None, latency);
    }

    fn queue(&self, row: usize) -> Option<i64> {
        row.checked_sub(1).and_then(|at| *self.queues.get(at)?)
    }

    /// The table, a line a hop.
    fn text(&self) -> String {
        let mut text = String::from("             messages       rate    queue  working   latency p50        p99\n");
        for (at, Row { name, count, rate, working, latency }) in self.rows.iter().enumerate() {
            let (queue, working) = (or_blank(self.queue(at)), or_blank(*working));
            let [p50, p99] = latency.map_or([String::new(), String::new()], |Millis { p50, p99 }| [ms(p50), ms(p99)]);
            let _ = writeln!(text, "  {name:<9} {count:>9} {rate:>8}/s {queue:>8} {working:>8} {p50:>13} {p99:>10}");
        }
        text
    }

    /// The same in one line.
    fn line(&self) -> String {
        let hops = self.rows.iter().enumerate().map(|(at, Row { name, rate, latency, .. })| {
            let queue =
                self.queue(at).filter(|queue| *queue > 0).map_or(String::new(), |queue| format!(" queue {queue}"));
            let latency = latency.map_or(String::new(), |latency| format!(" p99 {}", ms(latency.p99)));
            format!("{name} {rate}/s{queue}{latency}")
        });
        hops.collect::<Vec<_>>().join(", ")
    }
}

impl Row {
    fn set(&mut self, count: u64, working: Option<u32>, latency: Option<Millis>) {
        self.rate = count.saturating_sub(self.count);
        self.count = count;
        self.working = working;
        self.latency = latency;
    }
}

/// Stdout.
#[derive(Debug)]
pub(super) struct Show {
    terminal: bool,
    /// Lines of the table that stand on the terminal.
    drawn: Cell<usize>,
    /// Why nothing more can be shown: nobody reads any more, or a disk is full.
    closed: RefCell<Option<io::Error>>,
}

impl Show {
    pub(super) fn begin() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: Cell::new(0), closed: RefCell::new(None) }
    }

    /// True if nothing more can be shown.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    /// Whether all was shown.
    pub(super) fn shown(&self) -> io::Result<()> {
        self.closed.take().map_or(Ok(()), Err)
    }

    /// A line for people.
    pub(super) fn note(&self, line: &str) {
        self.write(&format!("{}{line}\n", self.erased()));
    }

    /// How it goes.
    pub(super) fn progress(&self, time: Duration, table: &Table) {
        if self.terminal {
            let text = format!("{}{}", self.erased(), table.text());
            self.drawn.set(table.text().lines().count());
            self.write(&text);
        } else {
            self.write(&format!("{:6.1} s  {}\n", time.as_secs_f64(), table.line()));
        }
    }

    /// What it came to: latencies of the whole run.
    pub(super) fn end(&self, mut table: Table, ledger: &Ledger, sent: Option<&Sent>, interrupted: bool) {
        let time = ledger.time().as_secs_f64().max(1e-9);
        for row in &mut table.rows {
            row.rate = (row.count as f64 / time).round() as u64;
            row.working = None;
        }
        let end = table.rows.last_mut().expect("the end");
        end.count = ledger.received;
        end.rate = (ledger.received as f64 / time).round() as u64;
        end.latency = ledger.latency.quantiles().map(|Quantiles { p50, p99, .. }| Millis { p50, p99 });
        let mut text = format!("{}\n{}", self.erased(), table.text());
        match sent {
            Some(Sent { sent, sent_again, late_ms }) => {
                let (received, lost, duplicates) = (ledger.received, ledger.lost(*sent), ledger.duplicates);
                let late = late_ms.map_or(String::new(), |late| format!(", late p99 {}", ms(late.p99)));
                let _ = writeln!(text, "\nsent {sent} (again {sent_again}{late})");
                let lost = if interrupted { format!("{lost} still on their way") } else { format!("lost {lost}") };
                let _ = writeln!(text, "received {received}, {lost}, duplicates {duplicates}");
            }
            None => text += "\nended before all was sent\n",
        }
        let dead: u64 = table.dead.iter().sum();
        if dead + ledger.strange > 0 {
            let _ = writeln!(
                text,
                "{}, {} at the end",
                count(dead, "dead letter"),
                count(ledger.strange, "strange message")
            );
        }
        if let Some(latency) = ledger.latency.quantiles() {
            let _ = writeln!(text, "from end to end {latency}");
        }
        self.write(&text);
    }

    /// What takes the drawn table away.
    fn erased(&self) -> String {
        match self.drawn.take() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            self.closed.replace(Some(error));
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
