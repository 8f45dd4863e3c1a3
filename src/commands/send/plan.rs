//! The messages to send and their due times. A message is the same each time it is made, so a
//! repetition is a duplicate.

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::commands::common::precise_timer::PreciseTimer;
use crate::commands::common::schedule::Schedule;
use crate::commands::send::args::{Args, Rate};

/// The messages of a run, by their number from 0.
#[derive(Debug)]
pub(super) struct SendPlan {
    pub(super) count: u64,
    first_id: u64,
    start: Instant,
    /// Start time since 1970.
    epoch: Duration,
    /// `None`: as fast as the receiver takes them.
    schedule: Option<Schedule>,
    alarm: PreciseTimer,
}

impl SendPlan {
    /// Creates a plan that begins now. Fails if its timer thread cannot be started.
    pub(super) fn begin(args: &Args) -> io::Result<Self> {
        let start = Instant::now();
        let schedule = match args.rate {
            Rate::Fixed(rate) => Some(Schedule::new(start, rate)),
            Rate::Max => None,
        };
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { count: args.count, first_id: args.first, start, epoch, schedule, alarm: PreciseTimer::start()? })
    }

    /// Returns the time at which message `n` is due.
    pub(super) fn due_at(&self, n: u64) -> Instant {
        self.schedule.map_or_else(Instant::now, |schedule| schedule.at(n))
    }

    /// Returns the number of messages due by now.
    pub(super) fn due(&self) -> u64 {
        self.schedule.map_or(self.count, |schedule| schedule.due(Instant::now()).min(self.count))
    }

    /// Waits until message `n` is due. Cancel-safe.
    pub(super) async fn wait_for(&self, n: u64) {
        if self.due() <= n {
            self.alarm.at(self.due_at(n)).await;
        }
    }

    /// Appends message `n` as JSON.
    pub(super) fn write(&self, n: u64, out: &mut Vec<u8>) {
        let id = self.first_id + n;
        let due = (self.epoch + self.due_at(n).saturating_duration_since(self.start)).as_nanos();
        let (shortcode, destination) = (10_000 + id % 90_000, 15_550_000_000 + id % 10_000_000);
        write!(out, r#"{{"id":{id},"shortcode":"{shortcode}","destination":"{destination}","tag":"{due}"}}"#)
            .expect("a Vec takes all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqueue::handler::Schema;

    #[test]
    fn messages_are_deterministic_and_match_the_schema_of_stages() {
        let start = Instant::now();
        let plan = SendPlan {
            count: 10,
            first_id: 1,
            start,
            epoch: Duration::from_secs(1_700_000_000),
            schedule: Some(Schedule::new(start, 500.0)),
            alarm: PreciseTimer::start().unwrap(),
        };
        let mut line = Vec::new();
        plan.write(5, &mut line);
        let text = r#"{"id":6,"shortcode":"10006","destination":"15550000006","tag":"1700000000010000000"}"#;
        assert_eq!(String::from_utf8(line.clone()).unwrap(), text);
        assert_eq!("message".parse::<Schema>().unwrap().check(&line), Ok(()));
    }
}
