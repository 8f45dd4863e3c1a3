//! The plot of a run: latency, rate and processor time over time.

use super::report::BenchReport;
use super::run::BenchRun;
use super::series::{BenchPoint, FlowPoint};
use crate::commands::bench::args::BenchMode;
use crate::commands::common::plot::{LineColour, Panel, Plot, PlotLine};

/// Draws the plot as SVG.
pub(super) fn draw(run: &BenchRun, report: &BenchReport) -> String {
    let points = &run.series.borrow().points;
    let line = |name: &str, tone, of: &dyn Fn(&BenchPoint) -> Option<f64>| PlotLine {
        name: name.to_owned(),
        tone,
        points: points.iter().filter_map(|point| Some((point.at, of(point)?))).collect(),
    };
    let mut panels = Vec::new();
    let mut latency = |title: &str, way: fn(&BenchPoint) -> FlowPoint| {
        let lines = vec![
            line("p99", LineColour::Third, &|point| way(point).p99),
            line("p50", LineColour::First, &|point| way(point).p50),
        ];
        panels.push(Panel { title: title.to_owned(), lines });
    };
    if run.plan.publishes() {
        latency("publish to OK (ms)", |point| point.published);
    }
    if run.plan.what == BenchMode::Both {
        latency("publish to handled (ms)", |point| point.handled);
    }
    let mut rates = Vec::new();
    if run.plan.publishes() {
        rates.push(line("published", LineColour::First, &|point| Some(point.published.rate)));
    }
    if run.plan.consumes() {
        rates.push(line("handled", LineColour::Second, &|point| Some(point.handled.rate)));
    }
    panels.push(Panel { title: "messages per second".to_owned(), lines: rates });
    let mut cores = vec![line("client", LineColour::First, &|point| Some(point.client))];
    if report.broker_usage.is_some() {
        cores.push(line("broker", LineColour::Third, &|point| Some(point.broker)));
    }
    panels.push(Panel { title: "processors' worths".to_owned(), lines: cores });
    Plot {
        title: "mqueue bench: latency, rate and processor time".to_owned(),
        subtitle: run.plan.describe(),
        across: "seconds measured".to_owned(),
        panels,
    }
    .svg()
}
