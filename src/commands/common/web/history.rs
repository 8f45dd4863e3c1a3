//! The last 24 hours of each stream and group, in memory of a fixed size: a value a second for 10
//! minutes, and a value each 10 seconds for 24 hours.
//!
//! ```text
//!  listing ─▶ record ─▶ Series (stream, or group) ─┬─ messages ─┬─ fine: 600 × 1 s
//!                                                  └─ rate ─────┴─ coarse: 8640 × 10 s, in hours
//! ```
//!
//! A value takes two bytes, with an error of at most 0.05 %. An hour in which a value never changes
//! takes no more than one value. A stream or group without messages has no series yet, and at most
//! [`MAX_SERIES`] have one, of 41 kB at most: further ones have no charts, which is said.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mqueue::proto::{ChannelName, TopicName};
use serde::Serialize;

use crate::commands::common::cluster_listing::ClusterListing;

/// The maximum of series: they take 41 MB if every value of the day differs.
pub(super) const MAX_SERIES: usize = 1000;
/// The maximum of bytes of a series, with its names; a test measures it.
#[cfg(test)]
const MAX_SERIES_BYTES: usize = 41_000;
/// Values of a second each.
const FINE_VALUES: usize = 600;
/// Seconds that one coarse value covers.
const COARSE_SECONDS: u64 = 10;
/// Coarse values of an hour.
const HOUR_VALUES: usize = 360;
/// Whole hours.
const HOURS: usize = 24;
/// The longest time, in seconds, over which the last value stands for missing ones: listings are
/// not exactly a second apart.
const MAX_CARRIED: u64 = 3;
/// Seconds after which an absent series makes room for a new one.
const MIN_ABSENCE: u64 = 600;
/// The code of a missing value.
const MISSING: u16 = u16::MAX;
/// Rates are kept in hundredths.
const RATE_SCALE: f64 = 100.0;

/// A stream, or a group of it.
pub(super) type SeriesKey = (TopicName, Option<ChannelName>);

/// The series of all streams and groups.
#[derive(Debug)]
pub(super) struct History {
    series: BTreeMap<SeriesKey, Series>,
    max_series: usize,
    /// The streams and groups of the last listing that have no series for lack of room.
    left_out: usize,
    /// Seconds over which the last value stands for missing ones.
    carried: u64,
}

/// The span of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChartSpan {
    TenMinutes,
    Day,
}

/// The values of one series, oldest first; `null` where nothing is known.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct ChartValues {
    /// Seconds between two values.
    pub(super) step: u64,
    /// Messages that wait.
    pub(super) depth: Vec<Option<f64>>,
    /// Messages a second: published to a stream, or finished by a group.
    pub(super) rate: Vec<Option<f64>>,
    /// True if there are no values because as many series as possible are kept already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) full: bool,
}

#[derive(Debug)]
struct Series {
    depth: ValueHistory,
    rate: ValueHistory,
    /// The last second in which the stream or group existed.
    seen: u64,
}

impl History {
    /// Keeps the values of listings that are `interval` apart.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            series: BTreeMap::new(),
            max_series: MAX_SERIES,
            left_out: 0,
            carried: MAX_CARRIED.max(3 * interval.as_secs()),
        }
    }

    /// Adds a listing of the second `now`, counted from any start. Returns the number of streams and
    /// groups that have no series for lack of room.
    pub(super) fn record(&mut self, now: u64, listing: &ClusterListing) -> usize {
        self.left_out = 0;
        for stream in &listing.streams {
            let groups = stream.groups.iter();
            let depth = stream.state.depth + groups.clone().map(|group| group.state.depth).sum::<u64>();
            self.add((stream.stream.clone(), None), now, depth, stream.published_per_second);
            for group in groups {
                let key = (stream.stream.clone(), Some(group.group.clone()));
                self.add(key, now, group.state.depth, group.finished_per_second);
            }
        }
        self.left_out
    }

    fn add(&mut self, key: SeriesKey, now: u64, depth: u64, rate: Option<f64>) {
        let is_idle = depth == 0 && rate.is_none_or(|rate| rate <= 0.0);
        if !self.series.contains_key(&key) {
            if is_idle {
                return;
            }
            if !self.has_room(now) {
                self.left_out += 1;
                return;
            }
            let series = Series { depth: ValueHistory::new(now), rate: ValueHistory::new(now), seen: now };
            self.series.insert(key.clone(), series);
        }
        let Some(series) = self.series.get_mut(&key) else { return };
        series.seen = now;
        series.depth.push(now, self.carried, Some(depth));
        series.rate.push(now, self.carried, rate.map(|rate| (rate.max(0.0) * RATE_SCALE).round() as u64));
    }

    /// Returns true if there is room for a new series; the one that is absent for longest makes
    /// room if necessary.
    fn has_room(&mut self, now: u64) -> bool {
        if self.series.len() < self.max_series {
            return true;
        }
        let absent = self.series.iter().min_by_key(|(_, series)| series.seen);
        let Some((key, _)) = absent.filter(|(_, series)| now.saturating_sub(series.seen) >= MIN_ABSENCE) else {
            return false;
        };
        let key = key.clone();
        self.series.remove(&key).is_some()
    }

    /// Returns the values up to the second `now`; none without a series.
    pub(super) fn chart(&self, key: &SeriesKey, span: ChartSpan, now: u64) -> ChartValues {
        let step = match span {
            ChartSpan::TenMinutes => 1,
            ChartSpan::Day => COARSE_SECONDS,
        };
        let Some(series) = self.series.get(key) else {
            return ChartValues { step, full: self.left_out > 0, ..ChartValues::default() };
        };
        ChartValues {
            step,
            full: false,
            depth: series.depth.values(span, now, 1.0),
            rate: series.rate.values(span, now, RATE_SCALE),
        }
    }

    /// Returns the messages that waited in each of the last `seconds`, for every series.
    pub(super) fn recent_depths(&self, seconds: usize, now: u64) -> BTreeMap<String, Vec<Option<u64>>> {
        let values = |series: &Series| {
            let all = series.depth.fine(now);
            all[all.len() - seconds.min(all.len())..].iter().map(|code| decode(*code)).collect()
        };
        let name = |(stream, group): &SeriesKey| match group {
            Some(group) => format!("{stream}/{group}"),
            None => stream.to_string(),
        };
        self.series.iter().map(|(key, series)| (name(key), values(series))).collect()
    }
}

/// The history of one number.
#[derive(Debug)]
struct ValueHistory {
    fine: Box<[u16; FINE_VALUES]>,
    /// The second of the next value.
    next: u64,
    coarse: CoarseValues,
}

impl ValueHistory {
    fn new(now: u64) -> Self {
        Self { fine: Box::new([MISSING; FINE_VALUES]), next: now, coarse: CoarseValues::new(now) }
    }

    /// Adds the value of the second `now`. The last value stands for the seconds before, if they
    /// are at most `carried`. Two values of one second: the later counts.
    fn push(&mut self, now: u64, carried: u64, value: Option<u64>) {
        let code = value.map_or(MISSING, encode);
        if now < self.next {
            let slot = now % FINE_VALUES as u64;
            self.fine[slot as usize] = code;
            return;
        }
        let before = self.next.checked_sub(1).map_or(MISSING, |before| self.fine[index(before)]);
        let filler = if now - self.next <= carried { before } else { MISSING };
        let first = self.next.max(now.saturating_sub(FINE_VALUES as u64 - 1));
        for second in first..now {
            self.set(second, filler);
        }
        self.set(now, code);
        self.next = now + 1;
    }

    fn set(&mut self, second: u64, code: u16) {
        self.fine[index(second)] = code;
        self.coarse.add(second, code);
    }

    /// Returns the codes of the last ten minutes.
    fn fine(&self, now: u64) -> Vec<u16> {
        let first = (now + 1).saturating_sub(FINE_VALUES as u64);
        let code = |second| {
            let is_kept = second < self.next && second + FINE_VALUES as u64 >= self.next;
            if is_kept { self.fine[index(second)] } else { MISSING }
        };
        (first..=now).map(code).collect()
    }

    fn values(&self, span: ChartSpan, now: u64, scale: f64) -> Vec<Option<f64>> {
        let codes = match span {
            ChartSpan::TenMinutes => self.fine(now),
            ChartSpan::Day => self.coarse.codes(now / COARSE_SECONDS),
        };
        codes.into_iter().map(|code| decode(code).map(|value| value as f64 / scale)).collect()
    }
}

fn index(second: u64) -> usize {
    (second % FINE_VALUES as u64) as usize
}

/// The means of ten seconds each.
#[derive(Debug)]
struct CoarseValues {
    /// The last 24 hours that are complete, oldest first.
    hours: VecDeque<HourValues>,
    /// The values of the hour that is not complete.
    current: Vec<u16>,
    /// The number of the first value of `current`.
    first: u64,
    /// The number of the value that is being summed, its sum and the number of seconds in it.
    summed: u64,
    sum: u64,
    count: u64,
}

/// An hour of values.
#[derive(Debug)]
enum HourValues {
    Same(u16),
    Each(Box<[u16]>),
}

impl HourValues {
    fn new(codes: &[u16]) -> Self {
        match codes {
            [first, rest @ ..] if rest.iter().all(|code| code == first) => Self::Same(*first),
            codes => Self::Each(codes.into()),
        }
    }

    fn code(&self, at: usize) -> u16 {
        match self {
            Self::Same(code) => *code,
            Self::Each(codes) => codes.get(at).copied().unwrap_or(MISSING),
        }
    }
}

impl CoarseValues {
    fn new(now: u64) -> Self {
        let number = now / COARSE_SECONDS;
        Self { hours: VecDeque::new(), current: Vec::new(), first: number, summed: number, sum: 0, count: 0 }
    }

    /// Adds the value of a second. Seconds never go back.
    fn add(&mut self, second: u64, code: u16) {
        let number = second / COARSE_SECONDS;
        if number != self.summed {
            self.finish();
            // a gap of a day or more leaves nothing of what was before
            let gap = (number - self.summed - 1).min((HOURS + 1) as u64 * HOUR_VALUES as u64);
            (0..gap).for_each(|_| self.push(MISSING));
            self.first = number - self.current.len() as u64;
            self.summed = number;
        }
        if let Some(value) = decode(code) {
            self.sum = self.sum.saturating_add(value);
            self.count += 1;
        }
    }

    /// Ends the value that is being summed.
    fn finish(&mut self) {
        let code = self.mean();
        self.push(code);
        (self.sum, self.count) = (0, 0);
    }

    fn mean(&self) -> u16 {
        // rounded up: a queue that is almost always empty is not shown as empty
        if self.count == 0 { MISSING } else { encode(self.sum.div_ceil(self.count)) }
    }

    fn push(&mut self, code: u16) {
        self.current.push(code);
        if self.current.len() == HOUR_VALUES {
            self.hours.push_back(HourValues::new(&self.current));
            self.current.clear();
            while self.hours.len() > HOURS {
                self.hours.pop_front();
            }
        }
    }

    /// Returns the codes of the last day, up to the value `now`.
    fn codes(&self, now: u64) -> Vec<u16> {
        let all = (HOURS * HOUR_VALUES) as u64;
        let start = self.first - (self.hours.len() * HOUR_VALUES) as u64;
        let code = |number: u64| {
            if number == self.summed {
                return self.mean();
            }
            if number >= self.first {
                return self.current.get((number - self.first) as usize).copied().unwrap_or(MISSING);
            }
            let Some(before) = number.checked_sub(start).map(|before| before as usize) else { return MISSING };
            self.hours.get(before / HOUR_VALUES).map_or(MISSING, |hour| hour.code(before % HOUR_VALUES))
        };
        ((now + 1).saturating_sub(all)..=now).map(code).collect()
    }
}

/// Encodes a number: exactly below 2048, above with its 11 leading bits.
fn encode(value: u64) -> u16 {
    let exponent = (u64::BITS - value.leading_zeros()).saturating_sub(11);
    let code = (u64::from(exponent) << 10) + (value >> exponent);
    u16::try_from(code).unwrap_or(MISSING - 1)
}

/// Decodes a number; `None` for a missing one.
fn decode(code: u16) -> Option<u64> {
    let code = u64::from(code);
    match code {
        _ if code == u64::from(MISSING) => None,
        0..2048 => Some(code),
        _ => {
            let exponent = (code >> 10) - 1;
            Some(((code & 0x3ff) + 1024) << exponent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(stream: &str, group: Option<&str>) -> SeriesKey {
        (stream.parse().unwrap(), group.map(|group| group.parse().unwrap()))
    }

    fn history(max_series: usize) -> History {
        History { max_series, ..History::new(Duration::from_secs(1)) }
    }

    #[test]
    fn numbers_are_kept_with_an_error_of_a_thousandth() {
        for value in (0..4096).chain((0..63).map(|bits| 1 << bits)).chain((0..62).map(|bits| (1 << bits) * 3 / 2 + 1)) {
            let kept = decode(encode(value)).unwrap();
            assert!(value.abs_diff(kept) * 1000 <= value, "{value}: {kept}");
            assert!(value >= 2048 || kept == value, "{value}: {kept}");
        }
        assert!(decode(encode(u64::MAX)).is_some(), "the largest number is not a missing one");
    }

    #[test]
    fn ten_minutes_of_seconds_are_kept_and_short_gaps_filled() {
        let mut history = history(10);
        let foo = key("foo", Some("g"));
        for second in 0..1000 {
            // listings are a little more than a second apart
            if second % 20 != 7 {
                history.add(foo.clone(), second, second, Some(second as f64 / 2.0));
            }
        }
        let chart = history.chart(&foo, ChartSpan::TenMinutes, 999);
        assert_eq!((chart.step, chart.depth.len(), chart.rate.len()), (1, 600, 600));
        assert_eq!((chart.depth[0], chart.depth[599], chart.rate[599]), (Some(400.0), Some(999.0), Some(499.2)));
        assert_eq!((chart.depth[7], chart.depth[8]), (Some(406.0), Some(408.0)), "the value before stands for 407");
        let later = history.chart(&foo, ChartSpan::TenMinutes, 1009);
        assert_eq!(later.depth[589..591], [Some(999.0), None], "nothing is known since");
        history.add(foo.clone(), 1100, 7, None);
        let after = history.chart(&foo, ChartSpan::TenMinutes, 1100);
        assert_eq!((after.depth[599], after.rate[599]), (Some(7.0), None));
        assert!(after.depth[499..599].iter().all(Option::is_none), "a long gap is a gap");
        history.add(foo.clone(), 9000, 8, None);
        let after = history.chart(&foo, ChartSpan::TenMinutes, 9000);
        assert_eq!(after.depth.iter().flatten().count(), 1);
    }

    #[test]
    fn a_day_is_kept_in_means_of_ten_seconds() {
        let mut history = history(10);
        let (foo, hours) = (key("foo", None), 30);
        for second in 0..hours * 3600 {
            history.add(foo.clone(), second, if second < 20 * 3600 { 5 } else { second / 10 }, Some(0.5));
        }
        let now = hours * 3600 - 1;
        let chart = history.chart(&foo, ChartSpan::Day, now);
        assert_eq!((chart.step, chart.depth.len()), (10, 8640));
        assert_eq!((chart.depth[0], chart.depth[8639]), (Some(5.0), Some((now / 10 / 8 * 8) as f64)));
        assert!(chart.depth.iter().chain(&chart.rate).all(Option::is_some));
        assert_eq!(chart.rate[17], Some(0.5));
        let values = &history.series[&foo];
        let same = values.depth.coarse.hours.iter().filter(|hour| matches!(hour, HourValues::Same(_))).count();
        assert_eq!(same, 15, "hours that take one value");
        assert_eq!(values.rate.coarse.hours.len(), HOURS);
    }

    #[test]
    fn an_outage_is_a_gap_in_the_day() {
        let mut history = history(10);
        let foo = key("foo", None);
        for second in (0..600).chain(5000..5600) {
            history.add(foo.clone(), second, 3, None);
        }
        let chart = history.chart(&foo, ChartSpan::Day, 5599);
        assert_eq!(chart.depth.len(), 560);
        let known: Vec<usize> = (0..560).filter(|at| chart.depth[*at].is_some()).collect();
        assert_eq!(known, (0..60).chain(500..560).collect::<Vec<_>>());
        history.add(foo.clone(), 10_000_000, 4, None);
        let chart = history.chart(&foo, ChartSpan::Day, 10_000_000);
        assert_eq!(chart.depth.iter().flatten().collect::<Vec<_>>(), [&4.0]);
    }

    #[test]
    fn the_number_of_series_is_limited_and_idle_ones_have_none() {
        let mut history = history(2);
        history.add(key("idle", None), 0, 0, Some(0.0));
        assert_eq!(history.series.len(), 0);
        for stream in ["a", "b", "c"] {
            history.add(key(stream, None), 1, 1, None);
        }
        assert_eq!(history.series.len(), 2);
        let none = ChartValues { step: 10, full: true, ..Default::default() };
        assert_eq!(history.chart(&key("c", None), ChartSpan::Day, 1), none);
        // a was deleted, b lives
        for second in 2..700 {
            history.add(key("b", None), second, 0, None);
            history.add(key("c", None), second, 1, None);
        }
        let names: Vec<&str> = history.series.keys().map(|(stream, _)| stream.as_str()).collect();
        assert_eq!(names, ["b", "c"], "c got the place of a, which is gone for ten minutes");
    }

    /// The memory of a series and its names.
    fn bytes((stream, group): &SeriesKey, series: &Series) -> usize {
        let of_hour = |hour: &HourValues| match hour {
            HourValues::Same(_) => 0,
            HourValues::Each(codes) => size_of_val(&codes[..]),
        };
        let of_one = |value: &ValueHistory| {
            let CoarseValues { hours, current, .. } = &value.coarse;
            let all_hours = hours.capacity() * size_of::<HourValues>() + hours.iter().map(of_hour).sum::<usize>();
            size_of_val(&*value.fine) + all_hours + current.capacity() * size_of::<u16>()
        };
        let names = stream.as_str().len() + group.as_ref().map_or(0, |group| group.as_str().len());
        names + size_of::<(SeriesKey, Series)>() + of_one(&series.depth) + of_one(&series.rate)
    }

    #[test]
    fn the_memory_of_ten_thousand_streams_is_bounded() {
        let mut history = History::new(Duration::from_secs(1));
        let long = "x".repeat(58);
        let key_of = |number: u64| key(&format!("{long}{number}"), Some(&"y".repeat(64)));
        // one series changes at each moment of more than a day
        for second in 0..26 * 3600 {
            history.add(key_of(0), second, second * 7919 % 1_000_003, Some(second as f64 / 3.0));
        }
        let largest = bytes(&key_of(0), &history.series[&key_of(0)]);
        assert!((36_000..=MAX_SERIES_BYTES).contains(&largest), "{largest}");
        history.left_out = 0;
        (0..10_000).for_each(|number| history.add(key_of(number), 26 * 3600, number + 1, Some(1.0)));
        assert_eq!((history.series.len(), history.left_out), (MAX_SERIES, 9_000));
        let all: usize = history.series.iter().map(|(key, series)| bytes(key, series)).sum();
        assert!(all <= MAX_SERIES * MAX_SERIES_BYTES, "{all}");
        let chart = |number| history.chart(&key_of(number), ChartSpan::TenMinutes, 26 * 3600);
        assert_eq!((chart(0).full, chart(9_999).full, chart(9_999).depth.len()), (false, true, 0));
    }

    #[test]
    fn recent_depths_are_those_of_the_last_seconds() {
        let mut history = history(2);
        for second in 0..5 {
            history.add(key("s", Some("g")), second, second, None);
        }
        let recent = history.recent_depths(3, 5);
        assert_eq!(recent["s/g"], [Some(3), Some(4), None]);
        assert_eq!(history.recent_depths(60, 5)["s/g"].len(), 6);
    }
}
