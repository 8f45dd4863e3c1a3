//! Statistics as lines of statsd: names, gauges, and counters as differences to the last report.

use std::collections::HashMap;

use super::packets::Packets;
use crate::proto::stats::{ChannelStats, Latency, TopicStats};

/// The end of the names of ephemeral topics and channels.
const EPHEMERAL: &str = "#ephemeral";

/// Reports, one after the other.
#[derive(Debug)]
pub(super) struct StatsdReport {
    prefix: String,
    exclude_ephemeral: bool,
    /// The counters of the last report, by name.
    counters: HashMap<String, u64>,
}

impl StatsdReport {
    pub(super) fn new(prefix: String, exclude_ephemeral: bool) -> Self {
        Self { prefix, exclude_ephemeral, counters: HashMap::new() }
    }

    /// The packets of the next report.
    pub(super) fn packets(&mut self, topics: &[TopicStats], memory: Option<u64>, size: usize) -> Vec<String> {
        let before = std::mem::take(&mut self.counters);
        let packets = Packets::new(size);
        let mut lines = ReportLines { prefix: &self.prefix, packets, before: &before, counters: &mut self.counters };
        let is_wanted = |name: &str| !(self.exclude_ephemeral && name.ends_with(EPHEMERAL));
        for topic in topics.iter().filter(|topic| is_wanted(&topic.topic_name)) {
            lines.topic(topic);
            for channel in topic.channels.iter().filter(|channel| is_wanted(&channel.channel_name)) {
                lines.channel(&topic.topic_name, channel);
            }
        }
        if let Some(bytes) = memory {
            lines.gauge("mem.heap_in_use_bytes", i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        lines.packets.into_vec()
    }
}

/// The lines of one report.
struct ReportLines<'a> {
    prefix: &'a str,
    packets: Packets,
    before: &'a HashMap<String, u64>,
    counters: &'a mut HashMap<String, u64>,
}

impl ReportLines<'_> {
    fn topic(&mut self, topic: &TopicStats) {
        let name = format!("topic.{}", topic.topic_name);
        self.counter(format!("{name}.message_count"), topic.message_count);
        self.counter(format!("{name}.message_bytes"), topic.message_bytes);
        self.gauge(&format!("{name}.depth"), topic.depth);
        self.gauge(&format!("{name}.backend_depth"), topic.backend_depth);
        self.latency(&name, &topic.e2e_processing_latency);
    }

    fn channel(&mut self, topic: &str, channel: &ChannelStats) {
        let name = format!("topic.{topic}.channel.{}", channel.channel_name);
        self.counter(format!("{name}.message_count"), channel.message_count);
        self.gauge(&format!("{name}.depth"), channel.depth);
        self.gauge(&format!("{name}.backend_depth"), channel.backend_depth);
        self.gauge(&format!("{name}.in_flight_count"), channel.in_flight_count);
        self.gauge(&format!("{name}.deferred_count"), channel.deferred_count);
        self.counter(format!("{name}.requeue_count"), channel.requeue_count);
        self.counter(format!("{name}.timeout_count"), channel.timeout_count);
        self.gauge(&format!("{name}.clients"), channel.client_count);
        self.latency(&name, &channel.e2e_processing_latency);
    }

    /// Latencies in nanoseconds. Like nsqd's, a name has whole percents only: 0.999 is `_100`.
    fn latency(&mut self, name: &str, latency: &Latency) {
        for quantile in &latency.percentiles {
            let percent = quantile.quantile * 100.0;
            self.gauge(&format!("{name}.e2e_processing_latency_{percent:.0}"), quantile.value as i64);
        }
    }

    fn gauge(&mut self, name: &str, value: i64) {
        self.packets.push(&format!("{}{name}:{value}|g\n", self.prefix));
    }

    fn counter(&mut self, name: String, total: u64) {
        // a topic or channel that was deleted and created again counts from 0
        let before = self.before.get(&name).copied().filter(|before| *before <= total).unwrap_or(0);
        self.packets.push(&format!("{}{name}:{}|c\n", self.prefix, total - before));
        self.counters.insert(name, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::stats::Quantile;

    fn topic(name: &str, channels: &[&str], count: u64) -> TopicStats {
        let channel = |name: &&str| ChannelStats {
            channel_name: (*name).to_owned(),
            depth: 1,
            backend_depth: 2,
            in_flight_count: 3,
            deferred_count: 4,
            message_count: count,
            requeue_count: count + 1,
            timeout_count: count + 2,
            client_count: 5,
            ..ChannelStats::default()
        };
        TopicStats {
            topic_name: name.to_owned(),
            channels: channels.iter().map(channel).collect(),
            depth: 6,
            backend_depth: 7,
            message_count: count,
            message_bytes: count * 10,
            ..TopicStats::default()
        }
    }

    fn lines(report: &mut StatsdReport, topics: &[TopicStats], memory: Option<u64>) -> Vec<String> {
        let packets = report.packets(topics, memory, 508);
        assert!(packets.iter().all(|packet| packet.len() <= 508));
        packets.concat().lines().map(str::to_owned).collect()
    }

    #[test]
    fn names_and_kinds_are_those_of_nsqd() {
        let mut foo = topic("foo", &["c"], 8);
        let quantile = |quantile, value| Quantile { quantile, value };
        foo.e2e_processing_latency.percentiles = [quantile(0.99, 1234.5), quantile(0.5, 7.0)].into_iter().collect();
        let mut report = StatsdReport::new("nsq.a_4151.".to_owned(), false);
        assert_eq!(
            lines(&mut report, &[foo], Some(4096)),
            [
                "nsq.a_4151.topic.foo.message_count:8|c",
                "nsq.a_4151.topic.foo.message_bytes:80|c",
                "nsq.a_4151.topic.foo.depth:6|g",
                "nsq.a_4151.topic.foo.backend_depth:7|g",
                "nsq.a_4151.topic.foo.e2e_processing_latency_99:1234|g",
                "nsq.a_4151.topic.foo.e2e_processing_latency_50:7|g",
                "nsq.a_4151.topic.foo.channel.c.message_count:8|c",
                "nsq.a_4151.topic.foo.channel.c.depth:1|g",
                "nsq.a_4151.topic.foo.channel.c.backend_depth:2|g",
                "nsq.a_4151.topic.foo.channel.c.in_flight_count:3|g",
                "nsq.a_4151.topic.foo.channel.c.deferred_count:4|g",
                "nsq.a_4151.topic.foo.channel.c.requeue_count:9|c",
                "nsq.a_4151.topic.foo.channel.c.timeout_count:10|c",
                "nsq.a_4151.topic.foo.channel.c.clients:5|g",
                "nsq.a_4151.mem.heap_in_use_bytes:4096|g",
            ]
        );
        assert!(lines(&mut report, &[], None).is_empty());
    }

    /// Go rounds halves to even numbers, as Rust does.
    #[test]
    fn percents_are_rounded_like_go() {
        let rounded = [1.0, 0.999, 0.995, 0.985, 0.99, 0.5, 0.001].map(|quantile| format!("{:.0}", quantile * 100.0));
        assert_eq!(rounded, ["100", "100", "100", "98", "99", "50", "0"]);
    }

    #[test]
    fn counters_are_differences_and_begin_again_with_a_new_topic() {
        let mut report = StatsdReport::new(String::new(), false);
        let mut counts = |count: Option<u64>| {
            let topics: Vec<TopicStats> = count.map(|count| topic("foo", &["c"], count)).into_iter().collect();
            let all = lines(&mut report, &topics, None);
            let wanted = |name: &str| {
                let line = all.iter().find_map(|line| line.strip_prefix(name)?.strip_suffix("|c"))?;
                line.parse::<u64>().ok()
            };
            ["topic.foo.message_count:", "topic.foo.channel.c.requeue_count:"].map(wanted)
        };
        assert_eq!(counts(Some(5)), [Some(5), Some(6)]);
        assert_eq!(counts(Some(5)), [Some(0), Some(0)]);
        assert_eq!(counts(Some(9)), [Some(4), Some(4)]);
        assert_eq!(counts(Some(2)), [Some(2), Some(3)], "deleted and created again");
        assert_eq!(counts(None), [None, None]);
        assert_eq!(counts(Some(2)), [Some(2), Some(3)], "it was not there in between");
    }

    #[test]
    fn ephemeral_topics_and_channels_are_left_out_if_asked_for() {
        let topics = [topic("a#ephemeral", &["c"], 1), topic("b", &["c", "d#ephemeral"], 1)];
        let names = |exclude| {
            let all = lines(&mut StatsdReport::new(String::new(), exclude), &topics, None);
            let depths = all.into_iter().filter_map(|line| Some(line.split_once(".depth:")?.0.to_owned()));
            depths.collect::<Vec<_>>()
        };
        assert_eq!(names(true), ["topic.b", "topic.b.channel.c"]);
        assert_eq!(
            names(false),
            [
                "topic.a#ephemeral",
                "topic.a#ephemeral.channel.c",
                "topic.b",
                "topic.b.channel.c",
                "topic.b.channel.d#ephemeral"
            ]
        );
    }
}
