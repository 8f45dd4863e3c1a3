//! The contenders' figures: printed as they arrive, and kept for docs/benchmarks.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::median;

/// One contender's figures, one for each round.
pub struct Contender {
    pub name: &'static str,
    pub figures: Vec<f64>,
}

impl Contender {
    pub fn median(&self) -> f64 {
        median(&self.figures)
    }
}

/// The goal for a contender beside its peer.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// The highest ratio.
    AtMost(f64),
    /// The lowest ratio.
    AtLeast(f64),
    /// The highest difference, in the unit of the figures.
    MoreByAtMost(f64),
}

impl Goal {
    fn is_met(self, ours: f64, peer: f64) -> bool {
        match self {
            Self::AtMost(most) => ours / peer <= most,
            Self::AtLeast(least) => ours / peer >= least,
            Self::MoreByAtMost(most) => ours - peer <= most,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}×"),
            Self::AtLeast(least) => format!("≥ {least}×"),
            Self::MoreByAtMost(most) => format!("≤ {most} {unit} more"),
        }
    }
}

/// A contender and a peer, by their indexes, and the goal if there is one.
pub type Pair = (usize, usize, Option<Goal>);

/// One line of docs/benchmarks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub what: String,
    pub unit: String,
    pub mqueue: String,
    pub peer: String,
    pub mqueue_median: f64,
    pub peer_median: f64,
    /// The medians' ratio.
    pub ratio: f64,
    /// The lowest and the highest ratio of a round.
    pub spread: [f64; 2],
    pub goal: Option<String>,
    pub met: Option<bool>,
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// The rows so far.
pub fn rows() -> Vec<Row> {
    ROWS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Prints medians and spread, and the comparison of each pair, which is kept as a row.
pub fn report(what: &str, unit: &str, results: &[Contender], pairs: &[Pair]) {
    println!("\n{what}");
    for result in results {
        let (low, high) = ends(result.figures.iter().copied());
        let digits = digits(result.median());
        println!("  {:<44} {:>14.digits$} {unit} ({low:.digits$} to {high:.digits$})", result.name, result.median());
    }
    for (ours, peer, goal) in pairs {
        let row = row(what, unit, &results[*ours], &results[*peer], *goal);
        let goal = match (&row.goal, row.met) {
            (Some(goal), Some(true)) => format!("  goal {goal}: met"),
            (Some(goal), _) => format!("  goal {goal}: MISSED"),
            (None, _) => String::new(),
        };
        let digits = digits(row.ratio);
        let [low, high] = row.spread;
        println!("  {} / {}: {:.digits$}x ({low:.digits$} to {high:.digits$}){goal}", row.mqueue, row.peer, row.ratio);
        ROWS.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }
}

fn row(what: &str, unit: &str, ours: &Contender, peer: &Contender, goal: Option<Goal>) -> Row {
    let ratio = ours.median() / peer.median();
    let (low, high) = ends(ours.figures.iter().zip(&peer.figures).map(|(ours, peer)| ours / peer));
    Row {
        what: what.to_owned(),
        unit: unit.to_owned(),
        mqueue: ours.name.to_owned(),
        peer: peer.name.to_owned(),
        mqueue_median: ours.median(),
        peer_median: peer.median(),
        ratio,
        spread: [low, high],
        goal: goal.map(|goal| goal.text(unit)),
        met: goal.map(|goal| goal.is_met(ours.median(), peer.median())),
    }
}

fn ends(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    figures.fold((f64::MAX, f64::MIN), |(low, high), figure| (low.min(figure), high.max(figure)))
}

/// The number of decimals for three significant digits.
pub fn digits(figure: f64) -> usize {
    match figure.abs() {
        0.0..0.01 => 4,
        0.01..0.1 => 3,
        0.1..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    }
}
