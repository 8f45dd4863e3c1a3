//! The demo's output.

use std::io::{self, IsTerminal};
use std::time::Instant;

use super::all_asleep::AllAsleepStats;
use super::stats::DemoStats;
use super::{ASLEEP, AWAKE};
use crate::commands::common::stdout::{self, ProgressOutput};
use mqueue::plural::{count, times};

/// Writer to stdout that knows the start time.
#[derive(Debug)]
pub(super) struct DemoOutput {
    begun: Instant,
    colours: bool,
    pub(super) stdout: ProgressOutput,
}

impl DemoOutput {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            colours: stdout::wants_colours(io::stdout().is_terminal()),
            stdout: ProgressOutput::default(),
        }
    }

    /// Prints a line of `source`, with the time.
    pub(super) fn line(&self, source: &str, what: &str) {
        let (bold, plain) = if self.colours { (colour(source), "\x1b[0m") } else { ("", "") };
        let time = self.begun.elapsed().as_secs_f64();
        self.stdout.write(&format!("{time:7.2} s  {bold}{source:<8}{plain}  {what}\n"));
    }

    /// Prints the table at the end.
    pub(super) fn summary(&self, stats: &DemoStats, all_asleep: Option<&AllAsleepStats>) {
        let shares: Vec<_> = stats.shares.iter().map(u64::to_string).collect();
        let notes = [format!("{}: {}", count(shares.len(), "consumer"), shares.join(" + ")), wakes(stats)];
        self.stdout.write("\n            published   handled   lost   twice\n");
        for ((group, row), note) in [AWAKE, ASLEEP].iter().zip(stats.rows()).zip(notes) {
            let (published, handled, lost, twice) = (row.published, row.handled, row.lost, row.twice);
            self.stdout
                .write(&format!("  {group:<8}  {published:>9}   {handled:>7}   {lost:>4}   {twice:>5}   {note}\n"));
        }
        if let Some(shown) = all_asleep {
            let wakes: Vec<String> = shown.wakes.iter().map(|wake| format!("{} ms", wake.as_millis())).collect();
            let handled = count(shown.wakes.len(), "message");
            self.stdout.write(&format!(
                "\nbroker and consumer asleep, 0 processes: {handled} started both, handled after {}\n",
                wakes.join(" and ")
            ));
        }
        self.stdout.write(match stats.lost() + all_asleep.map_or(0, AllAsleepStats::lost) {
            0 => "\nlost 0: both groups handled every message\n",
            _ => "\nmessages were lost\n",
        });
    }
}

fn wakes(stats: &DemoStats) -> String {
    let mut wakes = stats.wakes.clone();
    wakes.sort_unstable();
    match wakes.last() {
        None => "never woken".to_owned(),
        Some(longest) => {
            let median = wakes[wakes.len() / 2].as_millis();
            format!(
                "woken {}: handled after {median} ms (median), {} ms (longest)",
                times(wakes.len()),
                longest.as_millis()
            )
        }
    }
}

fn colour(source: &str) -> &'static str {
    match source {
        AWAKE => "\x1b[32m",
        ASLEEP => "\x1b[1;35m",
        _ => "\x1b[36m",
    }
}
