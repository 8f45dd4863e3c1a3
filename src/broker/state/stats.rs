//! Statistics of the state, in the format of nsqd's `/stats` (`nsqd/stats.go`).

use super::channel::Channel;
use super::session::Session;
use super::topic::Topic;
use super::{BrokerState, Now, SessionId};
use crate::proto::stats::{ChannelStats, ClientStats, PubCount, TopicStats};
use crate::proto::{List, TopicName};

/// Filter of the statistics.
#[derive(Debug, Clone, Default)]
pub struct StatsSelection<'a> {
    /// Only this topic.
    pub topic: Option<&'a str>,
    /// Only this channel of each topic; topics without such a channel are left out.
    pub channel: Option<&'a str>,
    /// Include the connections.
    pub clients: bool,
}

impl BrokerState {
    /// The topics, sorted by name; `null` if the requested topic does not exist.
    pub fn topic_stats(&self, of: &StatsSelection<'_>, now: Now) -> List<TopicStats> {
        let is_wanted = |name: &TopicName| of.topic.is_none_or(|wanted| wanted == name.as_str());
        let mut topics: Vec<_> = self.topics.iter().filter(|(name, _)| is_wanted(name)).collect();
        if of.topic.is_some() && topics.is_empty() {
            return List::default();
        }
        topics.sort_unstable_by_key(|(name, _)| *name);
        topics.into_iter().filter_map(|(name, topic)| self.stats_of_topic(name, topic, of, now)).collect()
    }

    /// Connections that have published; `null` if there is none, or if the requested topic does not
    /// exist.
    pub fn producer_stats(&self, of: &StatsSelection<'_>) -> List<ClientStats> {
        let is_there = of.topic.is_none_or(|topic| self.topics.keys().any(|name| name.as_str() == topic));
        let wanted = of.clients && is_there;
        let producers = self.sessions.iter().filter(|(_, session)| wanted && !session.published.is_empty());
        let mut producers = producers.map(|(_, session)| session.stats(of)).peekable();
        match producers.peek() {
            Some(_) => producers.collect(),
            None => List::default(),
        }
    }

    fn stats_of_topic(&self, name: &TopicName, topic: &Topic, of: &StatsSelection<'_>, now: Now) -> Option<TopicStats> {
        let wanted = topic.channels.iter().filter(|(name, _)| of.channel.is_none_or(|wanted| wanted == name.as_str()));
        let channels: List<ChannelStats> =
            wanted.map(|(_, id)| self.stats_of_channel(&self.channels[id], of, now)).collect();
        if of.channel.is_some() && channels.is_empty() {
            return None;
        }
        let windows = topic.channels.values().filter_map(|id| self.channels[id].latency.as_deref());
        Some(TopicStats {
            topic_name: name.to_string(),
            channels,
            depth: number(topic.depth),
            backend_depth: number(topic.backlog),
            message_count: topic.message_count,
            message_bytes: topic.message_bytes,
            paused: topic.paused,
            e2e_processing_latency: self.latency.summary(windows, now.at),
            oldest_ms: topic.oldest_ms(&self.store, now),
        })
    }

    fn stats_of_channel(&self, channel: &Channel, of: &StatsSelection<'_>, now: Now) -> ChannelStats {
        let client = |id: &SessionId| self.sessions.get(*id).map(|session| session.stats(of));
        ChannelStats {
            channel_name: channel.name.to_string(),
            depth: number(channel.depth),
            backend_depth: number(channel.backlog),
            in_flight_count: number(channel.in_flight.len()),
            deferred_count: number(channel.deferred_count),
            message_count: channel.message_count,
            requeue_count: channel.requeue_count,
            timeout_count: channel.timeout_count,
            client_count: number(channel.sessions.len()),
            clients: match of.clients {
                true => channel.sessions.iter().filter_map(client).collect(),
                false => List::default(),
            },
            paused: channel.paused,
            e2e_processing_latency: self.latency.summary(channel.latency.as_deref().into_iter(), now.at),
            oldest_ms: channel.oldest_ms(&self.store, now),
        }
    }
}

impl Session {
    fn stats(&self, of: &StatsSelection<'_>) -> ClientStats {
        let published = self.published.iter().filter(|(name, _)| of.topic.is_none_or(|topic| topic == name.as_str()));
        let security = &self.settings.security;
        let (tls, identity) = (security.tls.clone().unwrap_or_default(), security.identity.clone().unwrap_or_default());
        ClientStats {
            client_id: self.settings.client_id.clone(),
            hostname: self.settings.hostname.clone(),
            version: "V2".to_owned(),
            remote_address: self.remote_address.clone(),
            state: self.phase as i32,
            ready_count: number(self.ready),
            in_flight_count: number(self.in_flight),
            message_count: self.message_count,
            finish_count: self.finish_count,
            requeue_count: self.requeue_count,
            connect_ts: self.connected,
            sample_rate: self.settings.sample_rate,
            user_agent: self.settings.user_agent.clone(),
            pub_counts: published.map(|(topic, count)| PubCount { topic: topic.to_string(), count: *count }).collect(),
            deflate: security.deflate,
            snappy: security.snappy,
            authed: security.identity.is_some(),
            auth_identity: identity.0,
            auth_identity_url: identity.1,
            tls: security.tls.is_some(),
            tls_cipher_suite: tls.cipher_suite,
            tls_version: tls.version,
            ..ClientStats::default()
        }
    }
}

fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
