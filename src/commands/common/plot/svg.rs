//! The SVG file: shapes and texts.

use std::fmt::Write;

/// Colours and fonts, with another set for dark pages.
const STYLE: &str = "
  .page { fill: #ffffff }
  text { font-family: system-ui, 'Helvetica Neue', Arial, sans-serif; font-size: 12px; fill: #4a5260 }
  .title { font-size: 17px; font-weight: 600; fill: #14181f }
  .axis { font-weight: 600; fill: #14181f }
  .middle { text-anchor: middle }
  .end { text-anchor: end }
  .label { font-weight: 600 }
  .grid { stroke: #e3e6eb }
  .base { stroke: #8b94a3 }
  path { fill: none; stroke-width: 1.8; stroke-linejoin: round }
  path.first { stroke: #1f6feb } text.first { fill: #1f6feb }
  path.second { stroke: #8250df } text.second { fill: #8250df }
  path.third { stroke: #bc4c00 } text.third { fill: #bc4c00 }
  path.alarm { stroke: #cf222e } text.alarm { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 }
    text { fill: #9aa4b2 }
    .title, .axis { fill: #e6edf3 }
    .grid { stroke: #21262d }
    .base { stroke: #6e7681 }
    path.first { stroke: #58a6ff } text.first { fill: #58a6ff }
    path.second { stroke: #bc8cff } text.second { fill: #bc8cff }
    path.third { stroke: #f0883e } text.third { fill: #f0883e }
    path.alarm { stroke: #ff7b72 } text.alarm { fill: #ff7b72 }
  }
";

/// An SVG picture under construction.
#[derive(Debug)]
pub(crate) struct Svg(String);

impl Svg {
    /// Starts an empty page; screen readers read out `name`.
    pub(crate) fn begin(width: f64, height: f64, name: &str) -> Self {
        let name = escaped(name);
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{name}\">\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n"
        ))
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.put(format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(text)));
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    /// Draws a line through the points; nothing if there are none.
    pub(crate) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        if !points.is_empty() {
            self.put(format_args!("<path class=\"{class}\" d=\"M{}\"/>", points.join("L")));
        }
    }

    /// Ends the picture; returns the file's text.
    pub(crate) fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("a String takes all that is written");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
