//! Progress output. A bounded run has a bar on a terminal, and nothing elsewhere. An unbounded run
//! logs each message at a slow pace, and the totals now and then at a fast one.

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

use super::plan::{InputSource, ProducerPace, ProducerPlan};
use super::reader;
use super::stats::ProducerStats;

/// Messages a second up to which each one is logged.
const MAX_LOGGED_RATE: f64 = 10.0;
const FIRST_LOG_AFTER: Duration = Duration::from_secs(1);
const LOG_INTERVAL: Duration = Duration::from_secs(10);
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The kind of progress output.
#[derive(Debug)]
pub(super) enum ProducerProgress {
    Nothing,
    /// A line for each message.
    Each,
    /// A line with the totals now and then.
    Lines,
    Bar(ProgressBar, BarUnit),
}

/// The unit of a bar, with its total.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum BarUnit {
    Messages(u64),
    Bytes(u64),
    Time(Duration),
}

impl ProducerProgress {
    /// Chooses the output for a run, depending on whether stdin and stderr are terminals.
    pub(super) fn of(plan: &ProducerPlan) -> Self {
        let terminal = std::io::stderr().is_terminal();
        match (unit(plan), &plan.from, plan.pace) {
            (Some(unit), ..) if terminal => Self::Bar(bar(unit), unit),
            (Some(_), ..) => Self::Nothing,
            (None, InputSource::Events { tasks, .. }, ProducerPace::OneByOne(interval))
                if f64::from(*tasks) <= MAX_LOGGED_RATE * interval.as_secs_f64() =>
            {
                Self::Each
            }
            (None, InputSource::Events { .. }, _) => Self::Lines,
            (None, InputSource::Files { paths, .. }, _) => {
                let typed = paths.iter().any(|path| reader::is_stdin(path)) && std::io::stdin().is_terminal();
                match (typed, terminal) {
                    (true, _) => Self::Each,
                    (false, true) => Self::Lines,
                    (false, false) => Self::Nothing,
                }
            }
        }
    }

    /// Returns true if the start is logged, too.
    pub(super) fn logs_start(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Shows the progress. Never returns; runs beside the work.
    pub(super) async fn watch(&self, stats: &ProducerStats) -> Infallible {
        let started = Instant::now();
        match self {
            Self::Nothing | Self::Each => std::future::pending().await,
            Self::Lines => lines(stats).await,
            Self::Bar(bar, unit) => loop {
                bar.set_position({
                    let counts = stats.counts();
                    match unit {
                        BarUnit::Messages(_) => counts.acknowledged + counts.failed,
                        BarUnit::Bytes(_) => counts.bytes_read,
                        BarUnit::Time(_) => started.elapsed().as_millis() as u64,
                    }
                });
                sleep(REDRAW_INTERVAL).await;
            },
        }
    }

    /// Clears the bar.
    pub(super) fn end(&self) {
        if let Self::Bar(bar, _) = self {
            bar.finish_and_clear();
        }
    }
}

fn unit(plan: &ProducerPlan) -> Option<BarUnit> {
    let length = match plan.from {
        InputSource::Files { length, .. } => length.map(BarUnit::Bytes),
        InputSource::Events { .. } => None,
    };
    plan.count.map(BarUnit::Messages).or(length).or(plan.duration.map(BarUnit::Time))
}

fn bar(unit: BarUnit) -> ProgressBar {
    let (length, template) = match unit {
        BarUnit::Messages(count) => (count, "{wide_bar} {human_pos}/{human_len} {per_sec} {eta} left"),
        BarUnit::Bytes(bytes) => {
            (bytes, "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left")
        }
        BarUnit::Time(time) => (time.as_millis() as u64, "{wide_bar} {eta} left"),
    };
    let style = ProgressStyle::with_template(template).expect("a valid template");
    ProgressBar::new(length).with_style(style)
}

async fn lines(stats: &ProducerStats) -> Infallible {
    let (mut last, mut before) = (Instant::now(), 0);
    let mut pause = FIRST_LOG_AFTER;
    loop {
        sleep(pause).await;
        pause = LOG_INTERVAL;
        let (acknowledged, failed, quantiles) = {
            let counts = stats.counts();
            (counts.acknowledged, counts.failed, counts.latency.quantiles())
        };
        let rate = (acknowledged - before) as f64 / last.elapsed().as_secs_f64();
        (last, before) = (Instant::now(), acknowledged);
        let latency = quantiles.map(|q| format!(", publish→OK {q}")).unwrap_or_default();
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        tracing::info!("{acknowledged} published{failed}, {rate:.0}/s{latency}");
    }
}
