//! Prometheus metrics of a command.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Content type of `/metrics`.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The counters of a command, each named `mqueue_…`, and `mqueue_build_info`.
#[derive(Debug)]
pub(crate) struct Metrics(Registry);

impl Metrics {
    /// Makes a registry with the build information; `register` adds the command's own metrics.
    pub(crate) fn new(register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::with_prefix("mqueue");
        registry.register("build", "The program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        register(&mut registry);
        Self(registry)
    }

    /// Formats all metrics as OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("a String takes all that is written");
        text
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn text_has_the_build_and_the_registered_metrics() {
        let counter: Counter = Counter::default();
        let metrics = Metrics::new(|registry| registry.register("pokes", "Pokes", counter.clone()));
        counter.inc_by(3);
        let text = metrics.text();
        let build = format!("mqueue_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        for line in [build.as_str(), "mqueue_pokes_total 3", "# EOF"] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
    }
}
