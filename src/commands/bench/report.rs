//! The report of a run, as a table, as Markdown, or as JSON, which `--compare` reads.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::compare::Comparison;
use super::meter::UsageMeter;
use super::plan::BenchPlan;
use super::run::BenchRun;
use super::stats::FlowStats;
use crate::commands::common::latency::{InMillis, LatencyHistogram, Quantiles};
use crate::commands::common::text_table::TextTable;
use mqueue::plural::count;

/// The results of a finished run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BenchReport {
    /// Version of this program.
    pub(super) version: String,
    pub(super) load: BenchPlan,
    /// Description of the broker.
    pub(super) broker: String,
    /// Length of the measured time in seconds.
    pub(super) measured_s: f64,
    /// Messages published and acknowledged.
    pub(super) published: Option<FlowReport>,
    pub(super) handled: Option<FlowReport>,
    /// Delays between due time and sending in an open loop.
    pub(super) late_ms: Option<Quantiles>,
    /// Messages due within the measured time but not sent before its end; the latency includes the
    /// time that they waited.
    pub(super) unsent: u64,
    /// Messages published but not handled by the end.
    pub(super) missing: u64,
    pub(super) client_usage: UsageReport,
    /// `None` if the broker's process is not known.
    pub(super) broker_usage: Option<UsageReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) compared: Option<Comparison>,
}

/// Rate and latency of messages in one direction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FlowReport {
    pub(super) messages: u64,
    pub(super) messages_per_s: f64,
    /// Megabytes of bodies a second.
    pub(super) mb_per_s: f64,
    pub(super) latency_ms: Option<Quantiles>,
}

/// Processor time and memory of one side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UsageReport {
    /// Processor seconds during the measured time.
    pub(super) cpu_s: f64,
    /// Processors in use on average.
    pub(super) cores: f64,
    pub(super) cpu_us_per_message: Option<f64>,
    /// The largest memory use seen.
    pub(super) memory_bytes: u64,
}

impl BenchReport {
    pub(super) fn of(run: &BenchRun, broker: String) -> Self {
        let stats = run.stats.borrow();
        let (plan, seconds) = (&run.plan, stats.window.length(Instant::now()).as_secs_f64());
        let flow = |way: &FlowStats| FlowReport::of(way, seconds, plan.size);
        // a message that is published and handled counts once
        let messages = stats.published.measured.max(stats.handled.measured);
        let usage = |meter: &UsageMeter| UsageReport::of(meter, seconds, messages);
        let brokers = run.broker.borrow();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            load: plan.clone(),
            broker,
            measured_s: seconds,
            published: plan.publishes().then(|| flow(&stats.published)),
            handled: plan.consumes().then(|| flow(&stats.handled)),
            late_ms: stats.late.quantiles(),
            unsent: stats.unsent,
            missing: if plan.publishes() && plan.consumes() {
                stats.published.total.saturating_sub(stats.handled.total)
            } else {
                0
            },
            client_usage: usage(&run.client.borrow()),
            broker_usage: (!brokers.is_empty()).then(|| usage(&brokers)),
            compared: None,
        }
    }

    /// Formats the report as plain text.
    pub(super) fn text(&self) -> String {
        let tables = [self.flows(), self.usages()].map(|table| table.text()).join("\n");
        let compared = self.compared.as_ref().map(Comparison::text).unwrap_or_default();
        format!("{}\n{tables}{}{compared}", self.head(), self.notes())
    }

    /// Formats the report as Markdown.
    pub(super) fn markdown(&self) -> String {
        let tables = [self.flows(), self.usages()].map(|table| table.markdown()).join("\n");
        let compared = self.compared.as_ref().map(Comparison::markdown).unwrap_or_default();
        format!("{}\n{tables}{}{compared}", self.head(), self.notes())
    }

    fn head(&self) -> String {
        let Self { version, broker, measured_s, load, .. } = self;
        let warm_up = if load.warm_up > 0.0 { format!(" after {} s", load.warm_up) } else { String::new() };
        format!("mqueue {version}, {}\non {broker}\nmeasured for {measured_s:.2} s{warm_up}\n", load.describe())
    }

    fn flows(&self) -> TextTable {
        let mut table = TextTable::new(["", "messages", "messages/s", "MB/s", "p50", "p95", "p99", "max"]);
        for (name, flow) in [("published", &self.published), ("handled", &self.handled)] {
            if let Some(FlowReport { messages, messages_per_s, mb_per_s, latency_ms }) = flow {
                let [p50, p95, p99, max] = quantiles(*latency_ms);
                let (rate, mb) = (figure(*messages_per_s), figure(*mb_per_s));
                table.row([name.to_owned(), messages.to_string(), rate, mb, p50, p95, p99, max]);
            }
        }
        if self.late_ms.is_some() {
            let [p50, p95, p99, max] = quantiles(self.late_ms);
            let none = String::new;
            table.row(["sent late".to_owned(), none(), none(), none(), p50, p95, p99, max]);
        }
        table
    }

    fn usages(&self) -> TextTable {
        let mut table = TextTable::new(["", "CPU", "cores", "µs a message", "memory"]);
        for (name, usage) in [("client", Some(&self.client_usage)), ("broker", self.broker_usage.as_ref())] {
            if let Some(UsageReport { cpu_s, cores, cpu_us_per_message, memory_bytes }) = usage {
                let each = cpu_us_per_message.map_or("-".to_owned(), figure);
                let memory = format!("{:.1} MB", *memory_bytes as f64 / 1e6);
                table.row([name.to_owned(), format!("{cpu_s:.2} s"), format!("{cores:.2}"), each, memory]);
            }
        }
        table
    }

    /// Lists the messages that were not sent, or not handled.
    fn notes(&self) -> String {
        let mut notes = String::new();
        if self.unsent > 0 {
            let due = count(self.unsent, "message");
            notes += &format!("\ndue but not sent: {due}: the rate is beyond the capacity\n");
        }
        if self.missing > 0 {
            notes += &format!("\npublished but not handled by the end: {}\n", count(self.missing, "message"));
        }
        notes
    }
}

impl FlowReport {
    fn of(way: &FlowStats, seconds: f64, size: u32) -> Self {
        let rate = per(way.measured as f64, seconds).unwrap_or(0.0);
        let latency_ms = LatencyHistogram::quantiles(&way.latency);
        Self { messages: way.measured, messages_per_s: rate, mb_per_s: rate * f64::from(size) / 1e6, latency_ms }
    }
}

impl UsageReport {
    fn of(meter: &UsageMeter, seconds: f64, messages: u64) -> Self {
        let cpu_s = meter.spent.as_secs_f64();
        Self {
            cpu_s,
            cores: per(cpu_s, seconds).unwrap_or(0.0),
            cpu_us_per_message: per(cpu_s * 1e6, messages as f64),
            memory_bytes: meter.memory,
        }
    }
}

fn per(what: f64, number: f64) -> Option<f64> {
    (number > 0.0).then(|| what / number)
}

/// Formats a number with the digits that matter.
pub(super) fn figure(number: f64) -> String {
    match number {
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        number if number >= 1.0 => format!("{number:.2}"),
        number => format!("{number:.3}"),
    }
}

fn quantiles(of: Option<Quantiles>) -> [String; 4] {
    let Some(Quantiles { p50, p95, p99, max, .. }) = of else { return ["-"; 4].map(str::to_owned) };
    [p50, p95, p99, max].map(|ms| InMillis(ms).to_string())
}
