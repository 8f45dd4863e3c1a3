//! Progress output: one changing line on a terminal, a line each second elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::settings::Settings;
use super::tally::Tally;

/// Width of the bar that shows how full the buffer is.
const CELLS: u64 = 20;

/// The progress output.
pub(super) struct View {
    bar: Option<ProgressBar>,
    /// Size of the buffer; `None` if it is unbounded.
    room: Option<u64>,
    before: (u64, u64),
}

impl View {
    /// Starts the output on stderr.
    pub(super) fn begin(settings: &Settings, is_bounded: bool) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("a valid template"));
            bar
        });
        Self { bar, room: is_bounded.then_some(settings.buffer.into()), before: (0, 0) }
    }

    /// Shows the counts, once a second.
    pub(super) fn second(&mut self, elapsed: Duration, tally: &Tally) {
        let line = self.line(elapsed, tally);
        self.before = (tally.generated, tally.processed);
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

    fn line(&self, elapsed: Duration, tally: &Tally) -> String {
        let (generated, processed) = (tally.generated - self.before.0, tally.processed - self.before.1);
        let waiting = match self.room {
            Some(room) => format!("buffer {} {}/{room}", filled(tally.waiting, room), tally.waiting),
            None => format!("waiting {}", tally.waiting),
        };
        let latency = tally
            .recent
            .quantiles()
            .map_or("-".to_owned(), |q| format!("p50 {:.1} p95 {:.1} p99 {:.1} ms", q.p50, q.p95, q.p99));
        let dropped = tally.dropped;
        let seconds = elapsed.as_secs_f64();
        format!("{seconds:5.0} s  made {generated}/s  processed {processed}/s  {waiting}  {latency}  dropped {dropped}")
    }
}

fn filled(count: u64, room: u64) -> String {
    let full = (count * CELLS).div_ceil(room.max(1)).min(CELLS) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(CELLS as usize - full))
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
