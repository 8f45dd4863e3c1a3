//! Removal of invalid names and hosts from answers of nsqd and nsqlookupd, which would otherwise
//! end up in log lines and in commands that people paste.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::plural;
use crate::proto::stats::{Channels, Info, Lookup, Producer, Stats, TopicStats, Topics};
use crate::proto::{ChannelName, HostPort, QueueStats, TopicName, excerpt, is_host};

/// The largest number of nsqds in an nsqlookupd's answer; the consumer connects to each.
pub(super) const MAX_NSQDS: usize = 1024;

/// The number of items removed from one answer. The names are not kept: they must not reach the
/// log.
#[derive(Debug, Default)]
pub(super) struct RemovedNames {
    count: usize,
    /// The number of nsqds beyond [`MAX_NSQDS`].
    nsqds: usize,
}

impl RemovedNames {
    fn keep(&mut self, is_valid: bool) -> bool {
        self.count += usize::from(!is_valid);
        is_valid
    }

    fn keep_topic(&mut self, name: &str) -> bool {
        self.keep(TopicName::is_valid(name))
    }

    fn keep_channel(&mut self, name: &str) -> bool {
        self.keep(ChannelName::is_valid(name))
    }

    /// Logs the removal, once for each server.
    pub(super) fn log_once(self, program: &str, address: &str, logged: &Arc<AtomicBool>) {
        let Self { count, nsqds } = self;
        if count + nsqds == 0 || logged.swap(true, Ordering::Relaxed) {
            return;
        }
        if count > 0 {
            tracing::warn!(
                "{program} at {address} sent {} of topics, channels or hosts that NSQ does not allow; they are ignored",
                plural::count(count, "name")
            );
        }
        if nsqds > 0 {
            tracing::warn!(
                "{program} at {address} sent {} more than the maximum of {MAX_NSQDS}; they are ignored",
                plural::count(nsqds, "nsqd")
            );
        }
    }
}

/// An answer whose names can be checked.
pub(super) trait Sanitize {
    /// Removes invalid names and hosts, and shortens free text to one log line.
    fn sanitize(&mut self, out: &mut RemovedNames);
}

impl Sanitize for u64 {
    fn sanitize(&mut self, _: &mut RemovedNames) {}
}

impl Sanitize for Stats {
    fn sanitize(&mut self, out: &mut RemovedNames) {
        [&mut self.version, &mut self.health].into_iter().for_each(shorten);
        self.topics.retain_mut(|TopicStats { topic_name, channels, .. }| {
            channels.retain_mut(|channel| out.keep_channel(&channel.channel_name));
            out.keep_topic(topic_name)
        });
    }
}

impl Sanitize for QueueStats {
    /// Counts the names that are already left out.
    fn sanitize(&mut self, out: &mut RemovedNames) {
        shorten(&mut self.version);
        out.count += self.invalid_names;
    }
}

impl Sanitize for Info {
    fn sanitize(&mut self, _: &mut RemovedNames) {
        [&mut self.version, &mut self.broadcast_address, &mut self.hostname].into_iter().for_each(shorten);
    }
}

impl Sanitize for Lookup {
    fn sanitize(&mut self, out: &mut RemovedNames) {
        self.channels.retain(|name| out.keep_channel(name));
        self.producers.retain_mut(|producer| {
            let Producer { remote_address, hostname, broadcast_address, version, topics, .. } = producer;
            topics.retain(|name| out.keep_topic(name));
            [hostname, version].into_iter().for_each(shorten);
            if remote_address.parse::<HostPort>().is_err() {
                remote_address.clear();
            }
            out.keep(is_host(broadcast_address))
        });
        out.nsqds += self.producers.len().saturating_sub(MAX_NSQDS);
        self.producers.truncate(MAX_NSQDS);
    }
}

impl Sanitize for Topics {
    fn sanitize(&mut self, out: &mut RemovedNames) {
        self.topics.retain(|name| out.keep_topic(name));
    }
}

impl Sanitize for Channels {
    fn sanitize(&mut self, out: &mut RemovedNames) {
        self.channels.retain(|name| out.keep_channel(name));
    }
}

/// Shortens text to one log line; plain short text stays as it is.
fn shorten(text: &mut String) {
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.len() > 100 || !text.chars().all(is_plain) {
        *text = excerpt(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checked answer and the removed items.
    fn checked<T: Sanitize + serde::de::DeserializeOwned>(json: &str) -> (T, RemovedNames) {
        let (mut answer, mut out): (T, _) = (serde_json::from_str(json).unwrap(), RemovedNames::default());
        answer.sanitize(&mut out);
        (answer, out)
    }

    #[test]
    fn invalid_names_are_removed_from_statistics() {
        let (stats, out) = checked::<Stats>(
            r#"{"version":"1\u001b[2J","topics":[{"topic_name":"good","channels":[{"channel_name":"1"},
            {"channel_name":"x; rm -rf /"},{"channel_name":"y#ephemeral"}]},{"topic_name":"a' b\n","channels":null},{}]}"#,
        );
        let names: Vec<_> = stats.topics.iter().map(|topic| topic.topic_name.as_str()).collect();
        let channels: Vec<_> = stats.topics[0].channels.iter().map(|channel| channel.channel_name.as_str()).collect();
        assert_eq!((names, channels), (vec!["good"], vec!["1", "y#ephemeral"]));
        assert_eq!(out.count, 3);
        assert_eq!(stats.version, r"1\x1b[2J");
    }

    #[test]
    fn nsqds_with_an_invalid_host_are_removed() {
        let (lookup, out) = checked::<Lookup>(
            r#"{"channels":["1","a b"],"producers":[
            {"broadcast_address":"nsqd_1.example","tcp_port":4150,"http_port":4151,"remote_address":"10.0.0.1:5","topics":["a","b c"]},
            {"broadcast_address":"::1","tcp_port":-1,"http_port":70000,"remote_address":"$(reboot):1"},
            {"broadcast_address":"-oProxyCommand=x","tcp_port":1,"http_port":1},
            {"broadcast_address":"h'; reboot '","tcp_port":1,"http_port":1},{"broadcast_address":""}]}"#,
        );
        let hosts: Vec<_> = lookup.producers.iter().map(Producer::tcp_address).collect();
        assert_eq!(hosts, ["nsqd_1.example:4150", "[::1]:0"]);
        assert_eq!((lookup.channels, &lookup.producers[0].topics), (vec!["1".to_owned()], &vec!["a".to_owned()]));
        assert_eq!((lookup.producers[1].remote_address.as_str(), lookup.producers[1].http_port), ("", 0));
        assert_eq!(out.count, 5);
    }

    #[test]
    fn at_most_1024_nsqds_are_read() {
        let all: Vec<_> = (0..3000).map(|n| format!(r#"{{"broadcast_address":"h{n}","tcp_port":1}}"#)).collect();
        let (lookup, out) = checked::<Lookup>(&format!(r#"{{"producers":[{}]}}"#, all.join(",")));
        assert_eq!((lookup.producers.len(), out.nsqds), (MAX_NSQDS, 3000 - MAX_NSQDS));
    }
}
