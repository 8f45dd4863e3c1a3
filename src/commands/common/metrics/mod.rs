//! Prometheus metrics of a command, with the same names in all commands.
//!
//! ```text
//!  the work ─▶ WorkMeter, PublishMeter (atomics) ◀── families, at each scrape ◀── status_server: /metrics
//! ```

pub(crate) mod families;
pub(crate) mod group_meter;
pub(crate) mod listen_args;
pub(crate) mod publish_meter;
pub(crate) mod status_server;
mod text_format;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Content types of `/metrics`: OpenMetrics, and Prometheus' own text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

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

/// Makes the response to a request for `/metrics` with these headers, from OpenMetrics text. A
/// client that does not ask for OpenMetrics gets Prometheus' text format.
pub(crate) fn response(open_metrics: String, headers: &HeaderMap) -> Response {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    match accepted.any(|value| value.contains("application/openmetrics-text")) {
        true => ([(header::CONTENT_TYPE, OPEN_METRICS)], open_metrics).into_response(),
        false => ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text_format::of(&open_metrics)).into_response(),
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

    #[test]
    fn the_format_is_the_one_that_the_client_accepts() {
        let text = Metrics::new(|_| ()).text();
        let type_for = |accept: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            response(text.clone(), &headers).headers()[header::CONTENT_TYPE].clone()
        };
        // as Prometheus 2 asks
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(type_for(prometheus), OPEN_METRICS);
        assert_eq!((type_for("*/*"), type_for("text/plain")), (type_for(""), PROMETHEUS_TEXT.parse().unwrap()));
    }
}
