//! The work that the end of the process would interrupt, and the time of the next work.

use super::super::log::UnixMillis;
use super::BrokerState;

/// Work that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unfinished {
    /// Copies in flight: they wait for an answer or for their timeout.
    pub in_flight: usize,
    /// Messages of ephemeral topics and channels: the end of the process loses them.
    pub ephemeral: usize,
    /// The time at which the first deferred message is due.
    pub next_due: Option<UnixMillis>,
}

impl BrokerState {
    /// Counts the work that is left. Looks at every channel and every deferred run.
    pub fn unfinished(&self) -> Unfinished {
        let mut unfinished = Unfinished::default();
        for channel in self.channels.values() {
            unfinished.in_flight += channel.in_flight.len();
            if channel.is_logged() {
                let due = channel.deferred.values().map(|run| run.due).min();
                unfinished.next_due = unfinished.next_due.into_iter().chain(due).min();
            } else {
                unfinished.ephemeral += channel.depth + channel.deferred_count;
            }
        }
        let ephemeral = self.topics.values().filter(|topic| topic.is_ephemeral);
        unfinished.ephemeral += ephemeral.map(|topic| topic.depth).sum::<usize>();
        unfinished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::log::MemoryLog;
    use crate::broker::state::{Now, StateLimits};
    use crate::proto::{Bodies, ChannelName, TopicName};

    #[test]
    fn the_first_deferred_message_and_ephemeral_ones_are_counted() {
        let now = Now { at: 0, unix_nanos: 5_000_000_000 };
        let mut state = BrokerState::new(StateLimits::default(), Box::new(MemoryLog));
        let topic = |name| TopicName::new(name).unwrap();
        state.create_channel(&topic("a"), &ChannelName::new("g").unwrap(), now);
        assert_eq!(state.unfinished(), Unfinished::default());
        for delay in [None, Some(9_000), Some(700)] {
            state.publish(&topic("a"), Bodies::one("x".into()), delay, now).unwrap();
        }
        let next_due = Some(UnixMillis(5_700));
        assert_eq!(state.unfinished(), Unfinished { next_due, ..Unfinished::default() });
        state.create_channel(&topic("a"), &ChannelName::new("g#ephemeral").unwrap(), now);
        state.publish(&topic("a"), Bodies::one("x".into()), None, now).unwrap();
        state.publish(&topic("b#ephemeral"), Bodies::one("x".into()), None, now).unwrap();
        assert_eq!(state.unfinished(), Unfinished { next_due, ephemeral: 2, in_flight: 0 });
    }
}
