//! Limit of failed reads in a short time. Beyond it, the channel rests for a moment, so that a long
//! queue on an unreadable disk does not block the other channels.

use super::time::Micros;
use crate::broker::log::ChannelId;

/// Failed reads within [`REST_TIME`] after which channels rest.
pub(super) const MAX_FAILED_READS: u32 = 16;
/// Time that a channel rests, counted from the first of those failed reads.
pub(super) const REST_TIME: Micros = 20_000;

/// The reads that failed last, and the channels that rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    since: Micros,
    failed: u32,
    channels: Vec<ChannelId>,
}

impl Rest {
    /// Counts a failed read of a channel; true if the channel must rest.
    pub(super) fn failed(&mut self, channel: ChannelId, now: Micros) -> bool {
        if now.saturating_sub(self.since) >= REST_TIME {
            (self.since, self.failed) = (now, 0);
        }
        self.failed += 1;
        let rests = self.failed >= MAX_FAILED_READS;
        self.channels.extend(rests.then_some(channel));
        rests
    }

    /// When the resting channels resume, if there are any.
    pub(super) fn end(&self) -> Option<Micros> {
        (!self.channels.is_empty()).then_some(self.since + REST_TIME)
    }

    /// Removes and returns the channels whose rest is over. The last one comes first, so that each
    /// gets its turn.
    pub(super) fn rested(&mut self, now: Micros) -> Vec<ChannelId> {
        let mut rested =
            if self.end().is_some_and(|end| end <= now) { std::mem::take(&mut self.channels) } else { vec![] };
        rested.reverse();
        rested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_rest_after_several_failed_reads_and_resume_in_turns() {
        let (mut rest, a, b) = (Rest::default(), ChannelId(1), ChannelId(2));
        assert!((1..MAX_FAILED_READS).all(|_| !rest.failed(a, 7)), "readable messages may follow each");
        assert_eq!(rest.end(), None);
        assert!(rest.failed(a, 7) && rest.failed(b, 8));
        assert_eq!((rest.end(), rest.rested(REST_TIME - 1)), (Some(REST_TIME), vec![]));
        assert_eq!(rest.rested(REST_TIME), [b, a]);
        assert_eq!((rest.end(), rest.failed(b, REST_TIME)), (None, false));
    }
}
