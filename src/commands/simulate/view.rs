//! Progress output: one changing line on a terminal, a line each second elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::settings::SimulationSettings;
use super::stats::SimulationStats;

/// Width of the bar that shows how full the buffer is.
const BAR_WIDTH: u64 = 20;

/// The progress output.
pub(super) struct ProgressView {
    bar: Option<ProgressBar>,
    /// Size of the buffer; `None` if it is unbounded.
    room: Option<u64>,
    before: (u64, u64),
}

impl ProgressView {
    /// Starts the output on stderr.
    pub(super) fn begin(settings: &SimulationSettings, is_bounded: bool) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("a valid template"));
            bar
        });
        Self { bar, room: is_bounded.then_some(settings.buffer.into()), before: (0, 0) }
    }

    /// Shows the counts, once a second.
    pub(super) fn second(&mut self, elapsed: Duration, stats: &SimulationStats) {
        let line = self.line(elapsed, stats);
        self.before = (stats.generated, stats.processed);
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            // a closed stderr is no reason to end
            None => drop(writeln!(io::stderr().lock(), "{line}")),
        }
    }

    /// Clears the line.
    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, elapsed: Duration, stats: &SimulationStats) -> String {
        let (generated, processed) = (stats.generated - self.before.0, stats.processed - self.before.1);
        let waiting = match self.room {
            Some(room) => format!("buffer {} {}/{room}", filled(stats.waiting, room), stats.waiting),
            None => format!("waiting {}", stats.waiting),
        };
        let latency = stats
            .recent
            .quantiles()
            .map_or("-".to_owned(), |q| format!("p50 {:.1} p95 {:.1} p99 {:.1} ms", q.p50, q.p95, q.p99));
        let dropped = stats.dropped;
        let seconds = elapsed.as_secs_f64();
        format!("{seconds:5.0} s  made {generated}/s  processed {processed}/s  {waiting}  {latency}  dropped {dropped}")
    }
}

fn filled(count: u64, room: u64) -> String {
    let full = (count * BAR_WIDTH).div_ceil(room.max(1)).min(BAR_WIDTH) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR_WIDTH as usize - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_when_the_buffer_is() {
        assert_eq!(filled(0, 500), format!("[{}]", ".".repeat(20)));
        assert_eq!(filled(1, 500), format!("[#{}]", ".".repeat(19)));
        assert_eq!(filled(500, 500), format!("[{}]", "#".repeat(20)));
    }
}
