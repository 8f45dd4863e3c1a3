//! `sleep:20ms..50ms`: a handler that only waits, for tests of load and concurrency.

use crate::proto::Message;

use super::{Handler, SleepRange, Verdict};

/// Sleeps for a uniformly random time in a range, then returns `Done`.
#[derive(Debug)]
pub struct SleepHandler {
    range: SleepRange,
}

impl SleepHandler {
    /// Creates a handler that sleeps for a time in `range`, both ends included.
    pub fn new(range: SleepRange) -> Self {
        Self { range }
    }
}

impl Handler for SleepHandler {
    async fn handle(&self, _message: Message) -> Verdict {
        let spread = self.range.longest().saturating_sub(self.range.shortest());
        let time = self.range.shortest().saturating_add(spread.mul_f64(fastrand::f64()));
        // tokio's timers take a millisecond even for no time
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        Verdict::Done(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::handler::testing::message;

    #[tokio::test(start_paused = true)]
    async fn sleep_times_are_spread_over_the_range() {
        let (shortest, longest) = (Duration::from_millis(20), Duration::from_millis(50));
        let handler = SleepHandler::new(SleepRange::new(shortest, longest).unwrap());
        let mut times = Vec::new();
        for _ in 0..500 {
            let start = Instant::now();
            assert_eq!(handler.handle(message("a")).await, Verdict::Done(None));
            times.push(start.elapsed());
        }
        // Tokio's timers count whole milliseconds, rounded up.
        assert!(times.iter().all(|time| (shortest..=longest + Duration::from_millis(1)).contains(time)), "{times:?}");
        assert!(times.iter().any(|time| *time < Duration::from_millis(25)), "{times:?}");
        assert!(times.iter().any(|time| *time > Duration::from_millis(45)), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_zero_sleep_takes_no_time() {
        let handler = SleepHandler::new(SleepRange::new(Duration::ZERO, Duration::ZERO).unwrap());
        assert_eq!(handler.handle(message("a")).await, Verdict::Done(None));
    }
}
