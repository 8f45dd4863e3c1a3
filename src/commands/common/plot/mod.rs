//! Line charts over a common axis, as an SVG file that is readable on its own, on light and on dark
//! pages.
//!
//! Written here, because the maintained chart crates bring a fixed look, fonts or a browser along;
//! this needs only axes and lines.

mod scale;
mod svg;

use self::scale::Scale;
use self::svg::Svg;

/// Sizes in the picture's own units.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 92.0;
const PANEL_HEIGHT: f64 = 190.0;
const PANEL_GAP: f64 = 46.0;
const BOTTOM: f64 = 52.0;
/// Distance between labels, or between lines of the subtitle.
const LABEL_HEIGHT: f64 = 15.0;
/// Upper bound on the average width of a letter of the subtitle.
const LETTER_WIDTH: f64 = 6.8;

/// A picture: panels one below the other, over one horizontal axis.
#[derive(Debug, Clone)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// Title of the horizontal axis, with its unit.
    pub(crate) across: String,
    pub(crate) panels: Vec<Panel>,
}

/// A single diagram.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    /// Title of the vertical axis, with its unit.
    pub(crate) title: String,
    pub(crate) lines: Vec<PlotLine>,
}

/// A named series of points.
#[derive(Debug, Clone)]
pub(crate) struct PlotLine {
    pub(crate) name: String,
    pub(crate) tone: LineColour,
    /// Points (x, y) from left to right; those that are not finite are left out.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Colour of a line. Each is readable on light and dark pages; a label names the line without
/// colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineColour {
    First,
    Second,
    Third,
    Alarm,
}

impl Plot {
    /// Draws the figure; returns the file's text.
    pub(crate) fn svg(&self) -> String {
        let subtitle = lines_of(&self.subtitle);
        let first = TOP + (subtitle.len() - 1) as f64 * LABEL_HEIGHT;
        let height = first + self.panels.len() as f64 * (PANEL_HEIGHT + PANEL_GAP) - PANEL_GAP + BOTTOM;
        let mut svg = Svg::begin(WIDTH, height, &self.title);
        svg.text(LEFT, 30.0, "title", &self.title);
        for (n, line) in subtitle.iter().enumerate() {
            svg.text(LEFT, 52.0 + n as f64 * LABEL_HEIGHT, "note", line);
        }
        let all = self.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
        let across = Scale::ending(all.map(|point| point.0), LEFT, WIDTH - RIGHT);
        for (n, panel) in self.panels.iter().enumerate() {
            let top = first + n as f64 * (PANEL_HEIGHT + PANEL_GAP);
            panel.draw(&mut svg, &across, top, n + 1 == self.panels.len());
        }
        svg.text((LEFT + WIDTH - RIGHT) / 2.0, height - 12.0, "axis middle", &self.across);
        svg.end()
    }
}

impl Panel {
    fn draw(&self, svg: &mut Svg, across: &Scale, top: f64, is_last: bool) {
        let bottom = top + PANEL_HEIGHT;
        let up = Scale::of(self.lines.iter().flat_map(|line| &line.points).map(|point| point.1), bottom, top);
        svg.text(LEFT, top - 10.0, "axis", &self.title);
        for (value, label) in up.ticks() {
            svg.line("grid", (LEFT, up.at(value)), (WIDTH - RIGHT, up.at(value)));
            svg.text(LEFT - 8.0, up.at(value) + 4.0, "tick end", &label);
        }
        for (value, label) in across.ticks() {
            svg.line("grid", (across.at(value), bottom), (across.at(value), bottom + 4.0));
            if is_last {
                svg.text(across.at(value), bottom + 18.0, "tick middle", &label);
            }
        }
        svg.line("base", (LEFT, bottom), (WIDTH - RIGHT, bottom));
        let mut labels: Vec<(f64, &PlotLine)> = Vec::new();
        for line in &self.lines {
            let points: Vec<(f64, f64)> = line.shown().map(|(x, y)| (across.at(x), up.at(y))).collect();
            svg.path(line.tone.class(), &points);
            if let Some(last) = points.last() {
                labels.push((last.1 + 4.0, line));
            }
        }
        spread(&mut labels, bottom + 4.0);
        for (y, line) in labels {
            svg.text(WIDTH - RIGHT + 8.0, y, &format!("label {}", line.tone.class()), &line.name);
        }
    }
}

/// Moves labels apart so that none overlaps another, and none goes below `lowest`, where the next
/// diagram's labels begin.
fn spread(labels: &mut [(f64, &PlotLine)], lowest: f64) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    for n in 1..labels.len() {
        labels[n].0 = labels[n].0.max(labels[n - 1].0 + LABEL_HEIGHT);
    }
    let mut below = lowest + LABEL_HEIGHT;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(below - LABEL_HEIGHT);
        below = label.0;
    }
}

/// Breaks a text into lines that fit to the right of `LEFT`.
fn lines_of(text: &str) -> Vec<String> {
    let letters = ((WIDTH - LEFT) / LETTER_WIDTH) as usize;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > letters {
            lines.push(word.to_owned());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

impl PlotLine {
    fn shown(&self) -> impl Iterator<Item = (f64, f64)> {
        self.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
    }
}

impl LineColour {
    fn class(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Third => "third",
            Self::Alarm => "alarm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(points: Vec<(f64, f64)>) -> Plot {
        let line = PlotLine { name: "p99 <&>".to_owned(), tone: LineColour::First, points };
        Plot {
            title: "a \"title\"".to_owned(),
            subtitle: String::new(),
            across: "seconds".to_owned(),
            panels: vec![Panel { title: "ms".to_owned(), lines: vec![line.clone(), line] }],
        }
    }

    #[test]
    fn texts_are_escaped_and_points_lie_within_the_plot() {
        let svg = figure((0..100).map(|n| (f64::from(n), f64::from(n * n))).collect()).svg();
        assert!(svg.contains("p99 &lt;&amp;&gt;") && !svg.contains("<&>"));
        let path = svg.split("<path").nth(1).expect("a line").split(" d=\"M").nth(1).expect("its points");
        let numbers = path.split('"').next().expect("an end").split([' ', 'L']);
        let numbers: Vec<f64> = numbers.filter(|n| !n.is_empty()).map(|n| n.parse().expect("a number")).collect();
        assert_eq!(numbers.len(), 200);
        assert!(numbers.chunks(2).all(|at| (LEFT..=WIDTH - RIGHT).contains(&at[0])));
        assert!(numbers.chunks(2).all(|at| (TOP..=TOP + PANEL_HEIGHT).contains(&at[1])));
    }

    #[test]
    fn labels_of_lines_that_end_together_stay_apart_and_above_the_axis() {
        let line = |name: &str| PlotLine { name: name.to_owned(), tone: LineColour::First, points: vec![] };
        let lines = ["p50", "p95", "p99"].map(line);
        for at in [[0.0, 0.0, 0.0], [100.0, 99.0, 98.0], [40.0, 41.0, 100.0]] {
            let mut labels: Vec<(f64, &PlotLine)> = at.into_iter().zip(&lines).collect();
            spread(&mut labels, 100.0);
            assert!(labels.iter().all(|label| label.0 <= 100.0), "{labels:?}");
            assert!(labels.windows(2).all(|two| two[1].0 - two[0].0 >= LABEL_HEIGHT), "{labels:?}");
        }
    }

    #[test]
    fn a_long_subtitle_is_broken_into_lines_that_fit() {
        let long = "a chunk up to every 400 ms each; ".repeat(10);
        let lines = lines_of(long.trim());
        assert!(lines.len() > 1 && lines.iter().all(|line| line.chars().count() as f64 * LETTER_WIDTH <= WIDTH - LEFT));
        assert_eq!(lines.join(" "), long.trim());
        assert_eq!(lines_of(""), [""]);
        let mut figure = figure(vec![(0.0, 1.0)]);
        figure.subtitle = long;
        assert!(figure.svg().matches("class=\"note\"").count() > 1);
    }

    #[test]
    fn no_points_and_infinite_points_are_drawn_as_an_empty_plot() {
        for points in [vec![], vec![(f64::NAN, 1.0)], vec![(1.0, f64::INFINITY)], vec![(0.0, 0.0)]] {
            let svg = figure(points).svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
