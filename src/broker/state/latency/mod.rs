//! End-to-end processing latency of a channel: the time from publishing a message to its FIN.
//!
//! ```text
//!  FIN ─▶ current half ─▶ previous half ─▶ dropped
//!         └─ quantiles over both halves ─┘
//! ```
//!
//! As in nsqd (`internal/quantile`), the window has two halves, so quantiles are those of the last
//! half to whole window. A histogram takes the place of nsqd's targeted stream, so the quantiles
//! need not be known before, and those of a thousand channels take a few milliseconds.

mod histogram;

use std::time::Duration;

use self::histogram::Histogram;
use super::time::{Micros, Now};
use crate::proto::stats::{Latency, Quantile};

/// Configuration of latency statistics, with nsqd's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencySettings {
    /// The quantiles to report, such as 0.99, in the order of the report; none switches the
    /// measurement off.
    pub percentiles: Vec<f64>,
    /// The time that the quantiles cover.
    pub window: Duration,
}

impl Default for LatencySettings {
    fn default() -> Self {
        Self { percentiles: Vec::new(), window: Duration::from_secs(600) }
    }
}

impl LatencySettings {
    /// A window for a channel, if latencies are measured.
    pub(super) fn new_window(&self) -> Option<Box<LatencyWindow>> {
        let half = u64::try_from(self.window.as_micros() / 2).unwrap_or(u64::MAX).max(1);
        (!self.percentiles.is_empty()).then(|| {
            Box::new(LatencyWindow { half, since: 0, current: Histogram::default(), previous: Histogram::default() })
        })
    }

    /// The quantiles over the windows of several channels; without a window, nsqd's `null`.
    pub(super) fn summary<'a>(&self, windows: impl Iterator<Item = &'a LatencyWindow>, now: Micros) -> Latency {
        let mut windows = windows.peekable();
        if windows.peek().is_none() {
            return Latency::default();
        }
        let mut sum = Histogram::default();
        windows.flat_map(|window| window.recent(now)).for_each(|half| sum.add(half));
        let quantiles = self.percentiles.iter().map(|&quantile| Quantile { quantile, value: sum.quantile(quantile) });
        Latency { count: i64::try_from(sum.total()).unwrap_or(i64::MAX), percentiles: quantiles.collect() }
    }
}

/// The latencies of a channel's last messages.
#[derive(Debug)]
pub(super) struct LatencyWindow {
    /// The length of half a window.
    half: Micros,
    /// The start of the current half.
    since: Micros,
    current: Histogram,
    previous: Histogram,
}

impl LatencyWindow {
    /// Adds a message that was published at `timestamp` (nanoseconds since 1970) and finished now.
    pub(super) fn record(&mut self, timestamp: i64, now: Now) {
        self.advance(now.at);
        // the wall clock may have been set back
        let nanos = u64::try_from(now.unix_nanos.saturating_sub(timestamp)).unwrap_or(0);
        self.current.record(nanos / 1_000);
    }

    /// Turns the window up to now.
    fn advance(&mut self, now: Micros) {
        let halves = self.halves_until(now);
        if halves > 0 {
            self.since += halves * self.half;
            let current = std::mem::take(&mut self.current);
            self.previous = if halves == 1 { current } else { Histogram::default() };
        }
    }

    /// The number of halves that have ended since the last message.
    fn halves_until(&self, now: Micros) -> u64 {
        now.saturating_sub(self.since) / self.half
    }

    /// The halves that still count now.
    fn recent(&self, now: Micros) -> impl Iterator<Item = &Histogram> {
        let count = 2_u64.saturating_sub(self.halves_until(now));
        [&self.current, &self.previous].into_iter().take(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::log::MemoryLog;
    use super::super::{BrokerState, SessionId, SessionSettings, StateLimits, StatsSelection};
    use super::*;
    use crate::proto::{ChannelName, Frame, Message, TopicName, WriteBuffer};
    use bytes::{Buf, BytesMut};

    const SECOND: Micros = 1_000_000;

    fn settings(percentiles: &[f64]) -> LatencySettings {
        LatencySettings { percentiles: percentiles.into(), window: Duration::from_secs(600) }
    }

    /// A message that took `millis` milliseconds and was finished at second `at`.
    fn record(window: &mut LatencyWindow, at: u64, millis: i64) {
        let now = Now { at: at * SECOND, unix_nanos: 1_800_000_000_000_000_000 };
        window.record(now.unix_nanos - millis * 1_000_000, now);
    }

    fn count(settings: &LatencySettings, window: &LatencyWindow, at: u64) -> i64 {
        settings.summary(std::iter::once(window), at * SECOND).count
    }

    #[test]
    fn nothing_is_measured_without_percentiles() {
        assert!(settings(&[]).new_window().is_none());
        assert_eq!(settings(&[]).summary(std::iter::empty(), 0), Latency::default());
        assert_eq!(settings(&[0.5]).summary(std::iter::empty(), 0), Latency::default(), "a topic without channels");
    }

    #[test]
    fn a_message_counts_for_half_a_window_to_a_whole_one() {
        let settings = settings(&[0.5]);
        let mut window = settings.new_window().unwrap();
        record(&mut window, 299, 1);
        for (at, expected) in [(299, 1), (300, 1), (599, 1), (600, 0), (100_000, 0)] {
            assert_eq!(count(&settings, &window, at), expected, "at {at} s");
        }
        record(&mut window, 310, 1);
        assert_eq!((count(&settings, &window, 599), count(&settings, &window, 600)), (2, 1));
        assert_eq!(count(&settings, &window, 900), 0);
        record(&mut window, 100_000, 1);
        assert_eq!(count(&settings, &window, 100_000), 1, "after a long pause");
    }

    #[test]
    fn quantiles_are_exact_to_one_percent_and_merged_over_channels() {
        let settings = settings(&[1.0, 0.99, 0.5]);
        let mut windows = [settings.new_window().unwrap(), settings.new_window().unwrap()];
        (1..=1_000).for_each(|millis| record(&mut windows[usize::from(millis % 3 == 0)], 10, millis));
        let merged = settings.summary(windows.iter().map(|window| &**window), 20 * SECOND);
        assert_eq!(merged.count, 1_000);
        for (quantile, millis) in merged.percentiles.iter().zip([1_000.0, 990.0, 500.0]) {
            let ratio = quantile.value / (millis * 1e6);
            assert!((0.99..=1.01).contains(&ratio), "{quantile:?}: {ratio}");
        }
        let quantiles: Vec<f64> = merged.percentiles.iter().map(|it| it.quantile).collect();
        assert_eq!(quantiles, settings.percentiles);
        let empty = settings.summary(windows.iter().map(|window| &**window), 9_000 * SECOND);
        assert_eq!((empty.count, empty.percentiles.len(), empty.percentiles[0].value), (0, 3, 0.0));
    }

    #[test]
    fn a_clock_that_was_set_back_or_forward_is_no_error() {
        let settings = settings(&[1.0]);
        let mut window = settings.new_window().unwrap();
        for timestamp in [i64::MAX, i64::MIN] {
            window.record(timestamp, Now { at: 0, unix_nanos: 1_800_000_000_000_000_000 });
        }
        let latency = settings.summary(std::iter::once(&*window), 0);
        assert_eq!(latency.count, 2);
        assert!(latency.percentiles[0].value > 9e18, "{latency:?}");
    }

    /// A state, and a client of it.
    struct Scene {
        state: BrokerState,
        client: SessionId,
        now: Now,
    }

    impl Scene {
        fn new(settings: LatencySettings) -> Self {
            let mut state = BrokerState::new(StateLimits::default(), Box::new(MemoryLog));
            state.measure_latency(settings);
            let now = Now { at: 0, unix_nanos: 1_800_000_000_000_000_000 };
            let client = state.connect(SessionSettings::default(), String::new(), 0, now);
            Self { state, client, now }
        }

        fn pass(&mut self, millis: u64) {
            self.now =
                Now { at: self.now.at + millis * 1_000, unix_nanos: self.now.unix_nanos + millis as i64 * 1_000_000 };
            self.state.advance(self.now);
        }

        fn receive(&mut self) -> Message {
            let mut out = WriteBuffer::new();
            self.state.take_output(self.client, &mut out, self.now);
            let mut bytes = BytesMut::from(&out.copy_to_bytes(out.remaining())[..]);
            match Frame::decode(&mut bytes, 1 << 20) {
                Ok(Some(Frame::Message(message))) => message,
                other => panic!("no message: {other:?}"),
            }
        }

        /// The latencies of the topic and of its channels.
        fn latencies(&self) -> Vec<Latency> {
            let stats = self.state.topic_stats(&StatsSelection::default(), self.now);
            let channels = stats[0].channels.iter().map(|channel| channel.e2e_processing_latency.clone());
            std::iter::once(stats[0].e2e_processing_latency.clone()).chain(channels).collect()
        }
    }

    #[test]
    fn only_fin_adds_a_latency_and_it_counts_from_publishing() {
        let mut scene = Scene::new(settings(&[0.5]));
        let topic = TopicName::new("foo").unwrap();
        let [one, other] = ["a", "b"].map(|name| ChannelName::new(name).unwrap());
        scene.state.subscribe(scene.client, &topic, &one, scene.now).unwrap();
        scene.state.create_channel(&topic, &other, scene.now);
        scene.state.ready(scene.client, 1, scene.now);
        scene.state.publish(&topic, ["x"].into_iter().collect(), None, scene.now).unwrap();
        let message = scene.receive();
        scene.pass(1_000);
        scene.state.requeue(scene.client, &message.id, 0, scene.now).unwrap();
        let message = scene.receive();
        scene.pass(60_000);
        let message_again = scene.receive();
        assert_eq!((message_again.id, message_again.attempts), (message.id, 3), "it timed out");
        assert_eq!(scene.latencies().iter().map(|it| it.count).sum::<i64>(), 0);
        scene.state.finish(scene.client, &message.id, scene.now).unwrap();
        let [of_topic, of_one, of_other] = &scene.latencies()[..] else { panic!("two channels") };
        assert_eq!((of_topic.count, of_one.count, of_other.count), (1, 1, 0));
        assert!((60.5e9..61.5e9).contains(&of_one.percentiles[0].value), "{of_one:?}");
        scene.pass(600_000);
        assert_eq!(scene.latencies().iter().map(|it| it.count).sum::<i64>(), 0, "the window has passed");
    }

    #[test]
    fn nothing_is_reported_when_nothing_is_measured() {
        let mut scene = Scene::new(LatencySettings::default());
        let (topic, channel) = (TopicName::new("foo").unwrap(), ChannelName::new("a").unwrap());
        scene.state.create_channel(&topic, &channel, scene.now);
        assert_eq!(scene.latencies(), [Latency::default(), Latency::default()]);
    }
}
