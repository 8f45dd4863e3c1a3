//! The pool size at which drops begin, and the cost of each number of workers. The same chunks of a
//! seed are played against many pools without a clock, beside the prediction of queueing theory.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::queueing::{lost, mean_wait};
use super::settings::{SimulationSettings, WORK};
use super::workload::Workload;
use crate::commands::common::latency::{LatencyHistogram, Quantiles};

/// Approximate number of chunks to play, unless a duration is given.
const PLAYED_CHUNKS: f64 = 60_000.0;

/// The result of a pool.
#[derive(Debug, Clone)]
struct PoolResult {
    generated: u64,
    dropped: u64,
    latency: Option<Quantiles>,
    mean: Duration,
}

/// Formats the plan as text.
pub(super) fn plan(settings: &SimulationSettings, duration: Option<Duration>) -> String {
    // gaps are uniform from 0 to the interval, and work is uniform between its bounds
    let rate = f64::from(settings.streams) * 2000.0 / f64::from(settings.interval);
    let (least, most) = (WORK.0.as_secs_f64(), WORK.1.as_secs_f64());
    let work = (least + most) / 2.0;
    let variation = (most - least).powi(2) / 12.0 / (work * work);
    let load = rate * work;
    let duration = duration.unwrap_or_else(|| Duration::from_secs_f64((PLAYED_CHUNKS / rate).clamp(1.0, 3600.0)));
    let buffers: BTreeSet<u32> = [settings.buffer / 5, settings.buffer, settings.buffer * 4].map(|n| n.max(1)).into();
    let mut text = format!(
        "{} streams, a chunk every {:.0} ms on the average: {rate:.0} chunks/s, {:.1} ms of work each: {load:.1} workers' work
{:.0} s of them (seed {}), played against each pool; in brackets what theory says

 workers   busy         wait, mean         p50        p99  |  dropped with a buffer of\n{:57}|{}\n",
        settings.streams,
        f64::from(settings.interval) / 2.0,
        work * 1e3,
        duration.as_secs_f64(),
        settings.seed,
        "",
        buffers.iter().map(|buffer| format!("{buffer:>18}")).collect::<String>(),
    );
    let enough = enough(settings, load, duration);
    for workers in pools(load, settings.workers).into_iter().chain(enough).collect::<BTreeSet<_>>() {
        let played: Vec<PoolResult> = buffers
            .iter()
            .map(|buffer| play(&SimulationSettings { workers, buffer: *buffer, ..*settings }, duration))
            .collect();
        let chosen = &played[buffers.iter().position(|buffer| *buffer == settings.buffer).expect("it is one of them")];
        let predicted = mean_wait(workers, load, variation).map_or("grows".into(), |wait| ms(wait * work * 1e3));
        let waited = chosen.mean.as_secs_f64() * 1e3 - work * 1e3;
        let busy = 100.0 * load / f64::from(workers);
        let at = |of: fn(&Quantiles) -> f64| chosen.latency.as_ref().map_or("-".into(), |latency| ms(of(latency)));
        let mark = if workers == settings.workers { '*' } else { ' ' };
        text += &format!(
            "{mark}{workers:>7} {busy:>5.0}%  {:>9} {:>9}  {:>9} {:>10}  |",
            ms(waited.max(0.0)),
            format!("({predicted})"),
            at(|q| q.p50),
            at(|q| q.p99)
        );
        for (buffer, played) in buffers.iter().zip(&played) {
            let share = 100.0 * played.dropped as f64 / played.generated as f64;
            let theory = 100.0 * lost(workers, load, *buffer);
            text += &format!("{:>18}", format!("{} ({})", percent(share), percent(theory)));
        }
        text.push('\n');
    }
    let found = enough.map_or_else(
        || format!("with a buffer of {} every pool drops chunks", settings.buffer),
        |workers| format!("with a buffer of {} drops end at {workers} workers", settings.buffer),
    );
    text + &format!("\n* as asked for; {found}")
}

/// Finds the smallest pool that can do the work and drops nothing.
fn enough(settings: &SimulationSettings, load: f64, duration: Duration) -> Option<u32> {
    let drops = |workers| play(&SimulationSettings { workers, ..*settings }, duration).dropped > 0;
    let (mut below, mut enough) = (load.floor() as u32, (3.0 * load).ceil() as u32 + 1);
    if drops(enough) {
        return None;
    }
    while enough - below > 1 {
        let middle = below + (enough - below) / 2;
        if drops(middle) { below = middle } else { enough = middle }
    }
    Some(enough)
}

/// Lists pool sizes around the load, and the one requested.
fn pools(load: f64, asked: u32) -> BTreeSet<u32> {
    let shares = [0.7, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3, 1.5, 2.0, 3.0];
    let around = shares.map(|share| ((load * share).ceil() as u32).max(1));
    around.into_iter().chain([asked]).collect()
}

/// Plays the chunks of `duration`: exact, except that moving a chunk takes no time.
fn play(settings: &SimulationSettings, duration: Duration) -> PoolResult {
    let mut workload = Workload::new(settings);
    let mut pool =
        SimulatedPool { ends: BinaryHeap::new(), waiting: VecDeque::new(), latency: LatencyHistogram::new() };
    let (mut generated, mut dropped) = (0, 0);
    while workload.due() <= duration {
        let chunk = workload.make();
        generated += 1;
        pool.advance(Some(chunk.due));
        if pool.ends.len() < settings.workers as usize {
            pool.begin(chunk.due, chunk.due, chunk.work);
        } else if pool.waiting.len() < settings.buffer as usize {
            pool.waiting.push_back((chunk.due, chunk.work));
        } else {
            dropped += 1;
        }
    }
    pool.advance(None);
    let mean = pool.latency.mean().unwrap_or_default();
    PoolResult { generated, dropped, latency: pool.latency.quantiles(), mean }
}

struct SimulatedPool {
    /// Times at which the busy workers will be free.
    ends: BinaryHeap<Reverse<Duration>>,
    /// Creation time and work of each waiting chunk.
    waiting: VecDeque<(Duration, Duration)>,
    latency: LatencyHistogram,
}

impl SimulatedPool {
    /// Lets workers that are free by `then` take waiting chunks; runs to the end if `then` is
    /// `None`.
    fn advance(&mut self, then: Option<Duration>) {
        while let Some(Reverse(end)) =
            self.ends.peek().copied().filter(|Reverse(end)| then.is_none_or(|then| *end <= then))
        {
            self.ends.pop();
            if let Some((made, work)) = self.waiting.pop_front() {
                self.begin(end, made, work);
            }
        }
    }

    fn begin(&mut self, now: Duration, made: Duration, work: Duration) {
        self.ends.push(Reverse(now + work));
        self.latency.record(now + work - made);
    }
}

fn ms(ms: f64) -> String {
    match ms {
        ..10_000.0 => format!("{ms:.1} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

fn percent(share: f64) -> String {
    match share {
        ..0.005 => "0".to_owned(),
        _ => format!("{share:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_large_enough_drops_nothing_and_takes_as_long_as_the_work() {
        let played = play(&SimulationSettings::usual(), Duration::from_secs(60));
        let Quantiles { p99, max, .. } = played.latency.unwrap();
        assert_eq!(played.dropped, 0);
        assert!(p99 <= 50.05 && max <= 50.05, "nobody waits with 50 workers for 7: {p99} {max}");
    }

    #[test]
    fn chunks_beyond_the_capacity_are_dropped() {
        // 3 workers for the work of 7
        let settings = SimulationSettings { workers: 3, ..SimulationSettings::usual() };
        let played = play(&settings, Duration::from_secs(300));
        let share = played.dropped as f64 / played.generated as f64;
        assert!((share - 4.0 / 7.0).abs() < 0.03, "{share}");
        let waits = played.latency.unwrap().p99;
        // the whole buffer is ahead of the last chunk: 500 chunks at 3 in 35 ms
        assert!((5_000.0..6_500.0).contains(&waits), "{waits}");
    }

    #[test]
    fn the_simulated_wait_agrees_with_queueing_theory() {
        let settings = SimulationSettings { workers: 8, streams: 200, interval: 2000, ..SimulationSettings::usual() };
        let played = play(&settings, Duration::from_secs(1000));
        let waited = played.mean.as_secs_f64() * 1e3 - 35.0;
        let predicted = mean_wait(8, 7.0, 0.0612).unwrap() * 35.0;
        assert!((0.6..1.4).contains(&(waited / predicted)), "{waited} ms, not {predicted} ms");
    }

    #[test]
    fn the_plan_says_where_drops_end() {
        let text = plan(&SimulationSettings { buffer: 100, ..SimulationSettings::usual() }, None);
        assert!(text.contains("7.0 workers' work") && text.contains("drops end at"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with('*')).count(), 2, "{text}");
    }
}
