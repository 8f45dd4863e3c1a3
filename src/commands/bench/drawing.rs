//! The plot of a run: latency, rate and processor time over time.

use super::report::Report;
use super::run::Run;
use super::series::{Point, Slice};
use crate::commands::bench::args::What;
use crate::commands::common::plot::{Figure, Line, Panel, Tone};

/// Draws the plot as SVG.
pub(super) fn draw(run: &Run, report: &Report) -> String {
    let points = &run.series.borrow().points;
    let line = |name: &str, tone, of: &dyn Fn(&Point) -> Option<f64>| Line {
        name: name.to_owned(),
        tone,
        points: points.iter().filter_map(|point| Some((point.at, of(point)?))).collect(),
    };
    let mut panels = Vec::new();
    let mut latency = |title: &str, way: fn(&Point) -> Slice| {
        let lines =
            vec![line("p99", Tone::Third, &|point| way(point).p99), line("p50", Tone::First, &|point| way(point).p50)];
        panels.push(Panel { title: title.to_owned(), lines });
    };
    if run.plan.publishes() {
        latency("publish to OK (ms)", |point| point.published);
    }
    if run.plan.what == What::Both {
        latency("publish to handled (ms)", |point| point.handled);
    }
    let mut rates = Vec::new();
    if run.plan.publishes() {
        rates.push(line("published", Tone::First, &|point| Some(point.published.rate)));
    }
    if run.plan.consumes() {
        rates.push(line("handled", Tone::Second, &|point| Some(point.handled.rate)));
    }
    panels.push(Panel { title: "messages per second".to_owned(), lines: rates });
    let mut cores = vec![line("client", Tone::First, &|point| Some(point.client))];
    if report.broker_usage.is_some() {
        cores.push(line("broker", Tone::Third, &|point| Some(point.broker)));
    }
    panels.push(Panel { title: "processors' worths".to_owned(), lines: cores });
    Figure {
        title: "mqueue bench: latency, rate and processor time".to_owned(),
        subtitle: run.plan.told(),
        across: "seconds measured".to_owned(),
        panels,
    }
    .svg()
}
