//! The chunks of all streams and their due times: pure. They follow from the seed alone, not from
//! clocks, workers or the buffer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;

use super::settings::{SimulationSettings, WORK};

/// A chunk of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) stream: u32,
    /// Number within the stream, from 0.
    pub(super) number: u64,
    /// Due time since the start.
    pub(super) due: Duration,
    /// Time that a worker takes for the chunk.
    pub(super) work: Duration,
    seed: u64,
    length: u32,
}

impl Chunk {
    /// Makes the chunk's random bytes.
    pub(super) fn bytes(&self) -> Bytes {
        let mut bytes = vec![0; self.length as usize];
        fastrand::Rng::with_seed(self.seed).fill(&mut bytes);
        bytes.into()
    }
}

/// The chunks of all streams, in the order in which they are due.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    streams: Vec<StreamState>,
    /// Due time of each stream's next chunk.
    next: BinaryHeap<Reverse<(Duration, u32)>>,
    interval: Duration,
    length: u32,
    digest: crc32fast::Hasher,
}

#[derive(Debug, Clone)]
struct StreamState {
    random: fastrand::Rng,
    made: u64,
}

impl Workload {
    pub(super) fn new(settings: &SimulationSettings) -> Self {
        let mut seeds = fastrand::Rng::with_seed(settings.seed);
        let random = std::iter::repeat_with(|| fastrand::Rng::with_seed(seeds.u64(..)));
        let mut workload = Self {
            streams: random.map(|random| StreamState { random, made: 0 }).take(settings.streams as usize).collect(),
            next: BinaryHeap::with_capacity(settings.streams as usize),
            interval: Duration::from_millis(settings.interval.into()),
            length: settings.chunk_size,
            digest: crc32fast::Hasher::new(),
        };
        for stream in 0..settings.streams {
            let first = workload.gap(stream);
            workload.next.push(Reverse((first, stream)));
        }
        workload
    }

    /// Returns the due time of the next chunk.
    pub(super) fn due(&self) -> Duration {
        self.next.peek().expect("there is a stream").0.0
    }

    /// Makes the next chunk.
    pub(super) fn make(&mut self) -> Chunk {
        let Reverse((due, stream)) = self.next.pop().expect("there is a stream");
        let it = &mut self.streams[stream as usize];
        let work = between(&mut it.random, WORK.0, WORK.1);
        let chunk = Chunk { stream, number: it.made, due, work, seed: it.random.u64(..), length: self.length };
        it.made += 1;
        for number in [u64::from(stream), due.as_micros() as u64, work.as_micros() as u64, chunk.seed] {
            self.digest.update(&number.to_le_bytes());
        }
        let gap = self.gap(stream);
        self.next.push(Reverse((due + gap, stream)));
        chunk
    }

    /// Returns a checksum that tells one sequence of chunks from another.
    pub(super) fn digest(&self) -> u32 {
        self.digest.clone().finalize()
    }

    fn gap(&mut self, stream: u32) -> Duration {
        between(&mut self.streams[stream as usize].random, Duration::ZERO, self.interval)
    }
}

/// Draws a random time between the bounds, to the microsecond.
fn between(random: &mut fastrand::Rng, least: Duration, most: Duration) -> Duration {
    Duration::from_micros(random.u64(least.as_micros() as u64..=most.as_micros() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(settings: SimulationSettings, until: Duration) -> (Vec<Chunk>, u32) {
        let mut workload = Workload::new(&settings);
        let mut chunks = Vec::new();
        while workload.due() <= until {
            chunks.push(workload.make());
        }
        (chunks, workload.digest())
    }

    #[test]
    fn a_seed_makes_the_same_chunks_again_and_another_one_others() {
        let minute = Duration::from_secs(60);
        let (chunks, digest) = play(SimulationSettings::usual(), minute);
        assert_eq!((chunks.clone(), digest), play(SimulationSettings::usual(), minute));
        assert_eq!(chunks[0].bytes(), chunks[0].bytes());
        assert_ne!(chunks[0].bytes(), chunks[1].bytes());
        let (others, other_digest) = play(SimulationSettings { seed: 2, ..SimulationSettings::usual() }, minute);
        assert!(others != chunks && other_digest != digest);
    }

    #[test]
    fn chunks_come_in_order_at_the_rate_of_their_interval() {
        let (chunks, _) = play(SimulationSettings::usual(), Duration::from_secs(60));
        assert!(chunks.is_sorted_by_key(|chunk| chunk.due));
        // 100 streams, one chunk in half a second on the average
        assert!((11_700..12_300).contains(&chunks.len()), "{}", chunks.len());
        assert!(chunks.iter().all(|chunk| (WORK.0..=WORK.1).contains(&chunk.work) && chunk.bytes().len() == 1024));
        let of_one: Vec<_> = chunks.iter().filter(|chunk| chunk.stream == 7).collect();
        assert!(of_one.iter().enumerate().all(|(n, chunk)| chunk.number == n as u64));
        assert!(of_one.windows(2).all(|two| two[1].due - two[0].due <= Duration::from_secs(1)));
    }
}
