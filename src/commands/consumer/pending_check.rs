//! The last check for messages before an idle consumer ends.
//!
//! A message may have arrived while the consumer was leaving. wakeup would see it, too, but a poll
//! later.

use futures_util::future::join_all;

use crate::commands::common::broker_args::Args;
use mqueue::client::StatsFilter;
use mqueue::proto::{ChannelName, TopicName};

/// Returns true if some nsqd has a backlog for this channel, and neither the topic nor the channel
/// is paused. An nsqd that does not answer, or whose HTTP address is unknown, counts as empty:
/// wakeup goes on polling.
pub(super) async fn has_backlog(broker: &Args, topic: &TopicName, channel: &ChannelName) -> bool {
    let mut nsqds = broker.nsqd_http();
    let lookups = join_all(broker.lookupd_http_address.iter().map(|lookupd| lookupd.lookup(topic))).await;
    let listed = lookups.iter().flatten().flat_map(|lookup| &lookup.producers);
    nsqds.extend(listed.filter_map(|producer| broker.http_api(&producer.http_address())));
    let filter = StatsFilter::default().with_topic(topic).with_channel(channel);
    let answers = join_all(nsqds.iter().map(|nsqd| nsqd.stats(&filter))).await;
    answers.into_iter().any(|answer| match answer {
        Ok(stats) => stats.topics.iter().filter(|topic| !topic.paused).any(|topic| {
            let mut channels = topic.channels.iter().filter(|c| c.channel_name == channel.as_str());
            channels.any(|channel| !channel.paused && channel.depth > 0)
        }),
        Err(error) => {
            tracing::debug!("cannot check for pending messages before the exit: {error}");
            false
        }
    })
}
