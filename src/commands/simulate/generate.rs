//! Generates chunks at their due times.

use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::Simulation;
use super::workload::{Chunk, Workload};
use crate::commands::common::precise_timer::PreciseTimer;

/// Chunks made in a row before other tasks run.
const MAX_IN_A_ROW: usize = 64;

/// Passes each chunk to `take` when it is due, with its creation time, until the time is over or
/// the run must end.
pub(super) async fn generate(
    run: &Simulation,
    workload: &mut Workload,
    mut take: impl AsyncFnMut(Chunk, Instant),
) -> anyhow::Result<()> {
    let timer = PreciseTimer::start()?;
    let is_over = |due: Duration| run.until.is_some_and(|until| due > until);
    while !is_over(workload.due()) {
        tokio::select! {
            biased;
            () = run.shutdown.draining.cancelled() => return Ok(()),
            () = at(&timer, run.start + workload.due()) => {}
        }
        let mut in_a_row = 0;
        while in_a_row < MAX_IN_A_ROW && workload.due() <= run.start.elapsed() && !is_over(workload.due()) {
            let chunk = workload.make();
            let now = Instant::now();
            run.stats().generated(now - (run.start + chunk.due));
            take(chunk, now).await;
            in_a_row += 1;
            if run.shutdown.draining.is_cancelled() {
                return Ok(());
            }
        }
        if in_a_row == MAX_IN_A_ROW {
            yield_now().await;
        }
    }
    Ok(())
}

async fn at(timer: &PreciseTimer, due: Instant) {
    if due > Instant::now() {
        timer.at(due).await;
    }
}
