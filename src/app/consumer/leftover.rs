//! The last look before an idle consumer ends: is there anything left for it?
//!
//! A message may have come while the consumer was leaving. wakeup would see it, too, but a poll later.

use futures_util::future::join_all;

use crate::client::{Nsqd, StatsFilter};
use crate::proto::{ChannelName, TopicName};

/// True if some nsqd has messages waiting for this channel, and would deliver them. An nsqd that does not answer has none to show:
/// wakeup goes on looking.
pub(super) async fn waits(nsqd: &[Nsqd], topic: &TopicName, channel: &ChannelName) -> bool {
    let filter = StatsFilter { topic: Some(topic.clone()), channel: Some(channel.clone()), clients: false };
    let answers = join_all(nsqd.iter().map(|nsqd| nsqd.stats(&filter))).await;
    answers.into_iter().any(|answer| match answer {
        Ok(stats) => stats.topics.iter().filter(|topic| !topic.paused).any(|topic| {
            let mut channels = topic.channels.iter().filter(|c| c.channel_name == channel.as_str());
            channels.any(|channel| !channel.paused && channel.depth > 0)
        }),
        Err(error) => {
            tracing::debug!("cannot look once more before ending: {error}");
            false
        }
    })
}
