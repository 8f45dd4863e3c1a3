//! The plot of a run: latency percentiles, and the rates of chunks processed and dropped, over
//! time.

use super::series::{SimulationPoint, SimulationSeries};
use super::settings::SimulationSettings;
use crate::commands::common::plot::{LineColour, Panel, Plot, PlotLine};
use crate::commands::simulate::args::Via;

/// Draws the plot as SVG.
pub(super) fn draw(settings: &SimulationSettings, via: Via, series: &SimulationSeries) -> String {
    let SimulationSettings { workers, streams, interval, buffer, seed, .. } = settings;
    let via = match via {
        Via::Memory => format!("buffer of {buffer}"),
        Via::Broker => "via NSQ".to_owned(),
    };
    let quantile = |name: &str, tone, quantile| line(name, tone, series, |point| point.quantile(quantile));
    let rate = |of: fn(&SimulationPoint) -> u64| {
        move |point: &SimulationPoint| Some(of(point) as f64 / point.seconds.max(1e-3))
    };
    let latency = vec![
        quantile("p99", LineColour::Third, 0.99),
        quantile("p95", LineColour::Second, 0.95),
        quantile("p50", LineColour::First, 0.5),
    ];
    let rates = vec![
        line("processed", LineColour::First, series, rate(|point| point.processed)),
        line("dropped", LineColour::Alarm, series, rate(|point| point.dropped)),
    ];
    Plot {
        title: "mqueue simulate: latency and throughput over time".to_owned(),
        subtitle: format!("{streams} streams, a chunk up to every {interval} ms each; {workers} workers of 20 to 50 ms; {via}; seed {seed}"),
        across: "seconds since the start".to_owned(),
        panels: vec![
            Panel { title: "latency, creation to completion (ms)".to_owned(), lines: latency },
            Panel { title: "chunks per second".to_owned(), lines: rates },
        ],
    }
    .svg()
}

/// Makes a line with a value for each point, placed at its middle.
fn line(
    name: &str,
    tone: LineColour,
    series: &SimulationSeries,
    of: impl Fn(&SimulationPoint) -> Option<f64>,
) -> PlotLine {
    let mut begin = 0.0;
    let points = series.points.iter().filter_map(|point| {
        let middle = begin + point.seconds / 2.0;
        begin += point.seconds;
        // the last point may cover next to no time
        of(point).filter(|_| point.seconds > 0.2).map(|value| (middle, value))
    });
    PlotLine { name: name.to_owned(), tone, points: points.collect() }
}
