//! `--rate`: messages on a schedule, whatever the answers.

use std::io;
use std::time::{Duration, Instant};

use super::in_flight::InFlightBatches;
use super::send_modes::ProducerRun;
use super::source::MessageSource;
use super::stream_publisher::MessageBatch;
use crate::commands::common::precise_timer::PreciseTimer;
use crate::commands::common::schedule::Schedule;

/// Bytes in flight while nsqd is slow. Beyond it messages are sent late.
const MAX_BYTES_IN_FLIGHT: usize = 32 << 20;

impl ProducerRun<'_> {
    /// Publishes `rate` messages a second, whether or not earlier messages were acknowledged.
    /// Messages due by `time` are sent, as far as there is room.
    pub(super) async fn at_rate(&self, mut source: MessageSource, rate: f64, time: Option<Duration>) -> io::Result<()> {
        let timer = PreciseTimer::start()?;
        let start = Instant::now();
        let schedule = Schedule::new(start, rate);
        let last_moment = time.map(|time| start + time.saturating_sub(Duration::from_nanos(1)));
        let mut in_flight = InFlightBatches::new(self.publisher, MAX_BYTES_IN_FLIGHT);
        let mut sent = 0;
        loop {
            // read before the clock: messages due by the end are sent after it
            let over = self.stop.is_cancelled();
            let now = Instant::now();
            let due = schedule.due(last_moment.map_or(now, |last| now.min(last)));
            if sent < due && in_flight.has_room() {
                let Some(bodies) = self.take_due(&mut source, due - sent).await else { break };
                let next = sent + bodies.len() as u64;
                in_flight.launch(MessageBatch { bodies, due: (sent..next).map(|n| schedule.at(n)).collect() });
                sent = next;
            }
            match (sent < due, in_flight.has_room()) {
                (true, true) => in_flight.settle_until(tokio::task::yield_now()).await,
                (_, _) if over => {
                    self.publisher.stats.unsent((due - sent).min(self.left.get()));
                    break;
                }
                (true, false) => tokio::select! {
                    () = in_flight.settle() => {}
                    () = self.stop.cancelled() => {}
                },
                (false, _) => tokio::select! {
                    () = in_flight.settle_until(timer.at(schedule.at(sent))) => {}
                    () = self.stop.cancelled() => {}
                },
            }
        }
        in_flight.settle_all().await;
        Ok(())
    }
}
