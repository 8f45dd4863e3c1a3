//! A histogram of latencies: small, and cheap to merge, for each of many channels.
//!
//! Each power of two has 64 buckets, so a bucket is at most 1/64 of its values wide, and its middle
//! is off by at most 1/128. Only the buckets from the lowest to the highest value take memory: 4
//! bytes each, 64 for a factor of two between the latencies.

/// Buckets of a power of two, in bits.
const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The number of the bucket of `counts[0]`.
    first: usize,
    counts: Vec<u32>,
    total: u64,
}

impl Histogram {
    /// Adds a latency.
    pub(super) fn record(&mut self, micros: u64) {
        let bucket = bucket_of(micros);
        self.reach(bucket, bucket + 1);
        let count = &mut self.counts[bucket - self.first];
        *count = count.saturating_add(1);
        self.total += 1;
    }

    /// Adds all latencies of another histogram.
    pub(super) fn add(&mut self, other: &Self) {
        self.reach(other.first, other.first + other.counts.len());
        let counts = &mut self.counts[other.first.saturating_sub(self.first)..];
        counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count = count.saturating_add(*more));
        self.total += other.total;
    }

    /// Makes room for the buckets from `first` to before `end`.
    fn reach(&mut self, first: usize, end: usize) {
        if self.counts.is_empty() {
            self.first = first;
        }
        if first < self.first {
            self.counts.splice(..0, std::iter::repeat_n(0, self.first - first));
            self.first = first;
        }
        self.counts.resize(self.counts.len().max(end.saturating_sub(self.first)), 0);
    }

    /// The number of latencies.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The latency in nanoseconds that this part of all latencies does not exceed; 0 without any.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        let wanted = (quantile * self.total as f64).ceil().max(1.0) as u64;
        let mut sum = 0;
        let reached = self.counts.iter().position(|count| {
            sum += u64::from(*count);
            sum >= wanted
        });
        reached.map_or(0.0, |at| middle_of(self.first + at) * 1_000.0)
    }
}

fn bucket_of(micros: u64) -> usize {
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS + 1);
    shift as usize * BUCKETS + (micros >> shift) as usize
}

/// The middle of a bucket, in microseconds.
fn middle_of(bucket: usize) -> f64 {
    let shift = (bucket / BUCKETS).saturating_sub(1);
    ((bucket - shift * BUCKETS) as f64 + 0.5) * 2f64.powi(shift as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_without_gaps_and_their_middles_near_all_of_their_values() {
        let mut last = 0;
        let ends = (0..63).flat_map(|power| [(1u64 << power) - 1, 1 << power, (1 << power) + 1]);
        let some = (0..63).flat_map(|power| (0..64).map(move |part| (1u64 << power) + part * ((1 << power) / 64)));
        let mut values: Vec<u64> = (0..100_000).chain(ends).chain(some).collect();
        values.sort_unstable();
        for micros in values {
            let bucket = bucket_of(micros);
            assert!(bucket == last || bucket == last + 1, "{micros}: {bucket} after {last}");
            last = bucket;
            let off = (middle_of(bucket) - micros as f64).abs();
            assert!(off <= (micros as f64 / 128.0).max(0.5), "{micros}: {}", middle_of(bucket));
        }
        assert!(bucket_of(u64::MAX) < 3_776);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..100 {
            let (mut all, mut values) = (Histogram::default(), Vec::new());
            for _ in 0..random.usize(1..4) {
                let mut one = Histogram::default();
                let highest = 1u64 << random.u32(1..40);
                for _ in 0..random.usize(..300) {
                    let micros = random.u64(..highest);
                    one.record(micros);
                    values.push(micros);
                }
                all.add(&one);
            }
            values.sort_unstable();
            assert_eq!(all.total(), values.len() as u64, "seed {seed}");
            for quantile in [0.001, 0.5, 0.9, 0.99, 1.0] {
                let index = (quantile * values.len() as f64).ceil().max(1.0) as usize - 1;
                let expected = values.get(index).map_or(0.0, |micros| middle_of(bucket_of(*micros)) * 1_000.0);
                assert_eq!(all.quantile(quantile), expected, "{quantile} of {values:?}, seed {seed}");
            }
        }
    }

    #[test]
    fn memory_is_taken_for_the_range_of_the_values_only() {
        let mut histogram = Histogram::default();
        (0..1_000).for_each(|number| histogram.record(1_000 + number));
        assert!(histogram.counts.len() <= 2 * BUCKETS, "{}", histogram.counts.len());
        [0, u64::MAX, 5].into_iter().for_each(|micros| histogram.record(micros));
        assert_eq!((histogram.total(), histogram.quantile(0.001)), (1_003, 5_500.0));
    }
}
