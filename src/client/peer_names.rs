//! What is left out of an answer of nsqd or nsqlookupd before anybody sees it: names outside NSQ's rule and hosts that are none. They would
//! stand in log lines, and in commands that people paste.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::plural::times;
use crate::proto::stats::{Channels, Info, Lookup, Producer, Stats, TopicStats, Topics};
use crate::proto::{ChannelName, HostPort, TopicName, excerpt, is_host};

/// What was left out of one answer.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    count: usize,
    /// The first of them, fit for a log line.
    first: Option<String>,
}

impl LeftOut {
    fn keeps(&mut self, is_valid: bool, text: &str) -> bool {
        if !is_valid {
            self.count += 1;
            self.first.get_or_insert_with(|| excerpt(text.as_bytes()));
        }
        is_valid
    }

    fn keeps_topic(&mut self, name: &str) -> bool {
        self.keeps(TopicName::is_valid(name), name)
    }

    fn keeps_channel(&mut self, name: &str) -> bool {
        self.keeps(ChannelName::is_valid(name), name)
    }

    /// Logs that something was left out, once for each server.
    pub(super) fn log_once(self, program: &str, address: &str, said: &Arc<AtomicBool>) {
        if let Some(first) = self.first
            && !said.swap(true, Ordering::Relaxed)
        {
            let count = times(self.count);
            tracing::warn!(
                "{program} at {address} names what NSQ does not allow, {count}, first \"{first}\": left out"
            );
        }
    }
}

/// An answer that can be checked.
pub(super) trait Checked {
    /// Takes out what is no valid name or host, and shortens free text to what fits into a line.
    fn check(&mut self, out: &mut LeftOut);
}

impl Checked for u64 {
    fn check(&mut self, _: &mut LeftOut) {}
}

impl Checked for Stats {
    fn check(&mut self, out: &mut LeftOut) {
        [&mut self.version, &mut self.health].into_iter().for_each(shorten);
        self.topics.retain_mut(|TopicStats { topic_name, channels, .. }| {
            channels.retain_mut(|channel| out.keeps_channel(&channel.channel_name));
            out.keeps_topic(topic_name)
        });
    }
}

impl Checked for Info {
    fn check(&mut self, _: &mut LeftOut) {
        [&mut self.version, &mut self.broadcast_address, &mut self.hostname].into_iter().for_each(shorten);
    }
}

impl Checked for Lookup {
    fn check(&mut self, out: &mut LeftOut) {
        self.channels.retain(|name| out.keeps_channel(name));
        self.producers.retain_mut(|producer| {
            let Producer { remote_address, hostname, broadcast_address, version, topics, .. } = producer;
            topics.retain(|name| out.keeps_topic(name));
            [hostname, version].into_iter().for_each(shorten);
            if remote_address.parse::<HostPort>().is_err() {
                remote_address.clear();
            }
            out.keeps(is_host(broadcast_address), broadcast_address)
        });
    }
}

impl Checked for Topics {
    fn check(&mut self, out: &mut LeftOut) {
        self.topics.retain(|name| out.keeps_topic(name));
    }
}

impl Checked for Channels {
    fn check(&mut self, out: &mut LeftOut) {
        self.channels.retain(|name| out.keeps_channel(name));
    }
}

/// What an honest server says is left as it is.
fn shorten(text: &mut String) {
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.len() > 100 || !text.chars().all(is_plain) {
        *text = excerpt(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as it is after the check, and what was left out of it.
    fn checked<T: Checked + serde::de::DeserializeOwned>(json: &str) -> (T, LeftOut) {
        let (mut answer, mut out): (T, _) = (serde_json::from_str(json).unwrap(), LeftOut::default());
        answer.check(&mut out);
        (answer, out)
    }

    #[test]
    fn only_names_that_nsq_allows_are_left_in_statistics() {
        let (stats, out) = checked::<Stats>(
            r#"{"version":"1\u001b[2J","topics":[{"topic_name":"good","channels":[{"channel_name":"1"},
            {"channel_name":"x; rm -rf /"},{"channel_name":"y#ephemeral"}]},{"topic_name":"a' b\n","channels":null},{}]}"#,
        );
        let names: Vec<_> = stats.topics.iter().map(|topic| topic.topic_name.as_str()).collect();
        let channels: Vec<_> = stats.topics[0].channels.iter().map(|channel| channel.channel_name.as_str()).collect();
        assert_eq!((names, channels), (vec!["good"], vec!["1", "y#ephemeral"]));
        assert_eq!((out.count, out.first.as_deref()), (3, Some("x; rm -rf /")));
        assert_eq!(stats.version, r"1\x1b[2J");
    }

    #[test]
    fn an_nsqd_whose_host_is_none_is_left_out() {
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
        assert_eq!((out.count, out.first.as_deref()), (5, Some("a b")));
    }
}
