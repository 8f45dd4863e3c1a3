//! Families of metrics whose values are read at each scrape.

use std::fmt;

use mqueue::duration_histogram::DurationCounts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The labels of a value: names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Registers metrics that `write` reads and writes at each scrape.
pub(crate) fn register(
    registry: &mut Registry,
    write: impl Fn(&mut FamilyWriter<'_>) -> fmt::Result + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(ReadAtScrape(Box::new(write))));
}

/// Writes families of metrics, each of which has its values, with their labels, together.
#[derive(Debug)]
pub(crate) struct FamilyWriter<'a>(DescriptorEncoder<'a>);

impl FamilyWriter<'_> {
    /// Writes a family of counters; `name` is without `_total`.
    pub(crate) fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (&'l Labels, u64)>,
    ) -> fmt::Result {
        let write =
            |encoder: &mut MetricEncoder<'_>, count: u64| encoder.encode_counter::<NoLabelSet, _, f64>(&count, None);
        self.family((name, help, MetricType::Counter), values, write)
    }

    /// Writes a family of gauges.
    pub(crate) fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (&'l Labels, f64)>,
    ) -> fmt::Result {
        let write = |encoder: &mut MetricEncoder<'_>, value: f64| encoder.encode_gauge(&value);
        self.family((name, help, MetricType::Gauge), values, write)
    }

    /// Writes a family of histograms.
    pub(crate) fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (&'l Labels, DurationCounts)>,
    ) -> fmt::Result {
        let write = |encoder: &mut MetricEncoder<'_>, times: DurationCounts| {
            encoder.encode_histogram::<NoLabelSet>(times.seconds, times.count(), &times.buckets, None)
        };
        self.family((name, help, MetricType::Histogram), values, write)
    }

    fn family<'l, T>(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        values: impl IntoIterator<Item = (&'l Labels, T)>,
        write: impl Fn(&mut MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        // with a period, as the registry writes help
        let mut encoder = self.0.encode_descriptor(name, &format!("{help}."), None, kind)?;
        values.try_for_each(|(labels, value)| match labels.is_empty() {
            true => write(&mut encoder, value),
            false => write(&mut encoder.encode_family(labels)?, value),
        })
    }
}

type WriteFamilies = dyn Fn(&mut FamilyWriter<'_>) -> fmt::Result + Send + Sync;

struct ReadAtScrape(Box<WriteFamilies>);

impl fmt::Debug for ReadAtScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadAtScrape")
    }
}

impl Collector for ReadAtScrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut FamilyWriter(encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn hostile_label_values_are_escaped_and_families_without_values_are_left_out() {
        let metrics = Metrics::new(|registry| {
            register(registry, |writer| {
                let labels = vec![("stream", "a\"} 1\n# EOF\n\\".to_owned()), ("group", "g#ephemeral".to_owned())];
                writer.counters("messages_handled", "Messages", [(&labels, 7)])?;
                writer.gauges("connections", "Connections", [])?;
                let times = DurationCounts { buckets: vec![(0.5, 1), (f64::INFINITY, 2)], seconds: 1.5 };
                writer.histograms("handler_seconds", "Times", [(&Labels::new(), times)])
            });
        });
        let text = metrics.text();
        let own = text.split_once("mqueue_build_info").and_then(|(_, rest)| rest.split_once('\n')).unwrap().1;
        let expected = r#"# HELP mqueue_messages_handled Messages.
# TYPE mqueue_messages_handled counter
mqueue_messages_handled_total{stream="a\"} 1\n# EOF\n\\",group="g#ephemeral"} 7
# HELP mqueue_handler_seconds Times.
# TYPE mqueue_handler_seconds histogram
mqueue_handler_seconds_sum 1.5
mqueue_handler_seconds_count 3
mqueue_handler_seconds_bucket{le="0.5"} 1
mqueue_handler_seconds_bucket{le="+Inf"} 3
# EOF
"#;
        assert_eq!(own, expected);
    }
}
