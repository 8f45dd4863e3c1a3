//! A warning about what others do, which may come as often as they like.

use super::lease::Time;

/// After so long without another one an episode is over.
const OVER: Time = Time::from_secs(60);

/// How often something happened, and when it is said: the first time, and whenever it is ten times as often.
#[derive(Debug, Default)]
pub(super) struct Episode {
    count: u64,
    last: Time,
}

impl Episode {
    /// It happened. Returns how often in this episode, if that is to be said.
    pub(super) fn happens(&mut self, now: Time) -> Option<u64> {
        if now >= self.last + OVER {
            self.count = 0;
        }
        (self.count, self.last) = (self.count.saturating_add(1), now);
        (10u64.pow(self.count.ilog10()) == self.count).then_some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_and_when_it_is_ten_times_as_often() {
        let mut episode = Episode::default();
        let begin = Time::from_secs(1000);
        let said: Vec<u64> = (0..5000).filter_map(|n| episode.happens(begin + n * OVER / 100)).collect();
        assert_eq!(said, [1, 10, 100, 1000], "it never ends");
        let later = begin + 5000 * OVER / 100 + OVER;
        assert_eq!((episode.happens(later), episode.happens(later)), (Some(1), None), "another one");
    }
}
