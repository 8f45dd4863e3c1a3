//! docs/benchmarks.md, .json and .svg, from the rows of a run.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::book::{Row, digits, rows};
use crate::support::peer;

/// The limits of the rows that miss their goals, and the commands: written by hand.
const LIMITS: &str = include_str!("limits.md");
const COMMANDS: &str = include_str!("commands.md");

/// The figures of a run, from which the page is made.
#[derive(Serialize, Deserialize)]
struct Run {
    machine: Vec<(String, String)>,
    command: String,
    rows: Vec<Row>,
}

/// Writes the figures of this run, replacing earlier ones of the same rows, and the page.
pub fn write(folder: &Path, command: &str) {
    let earlier =
        std::fs::read(folder.join("benchmarks.json")).ok().and_then(|text| serde_json::from_slice::<Run>(&text).ok());
    let mut kept = earlier.map(|run| run.rows).unwrap_or_default();
    for row in rows() {
        let same = |other: &&mut Row| (&other.what, &other.mqueue, &other.peer) == (&row.what, &row.mqueue, &row.peer);
        match kept.iter_mut().find(same) {
            Some(other) => *other = row,
            None => kept.push(row),
        }
    }
    let run = Run { machine: machine(), command: command.to_owned(), rows: kept };
    let json = serde_json::to_string_pretty(&run).unwrap() + "\n";
    std::fs::write(folder.join("benchmarks.json"), json).unwrap();
    write_page(folder);
}

/// Writes the page and its picture again from the stored figures.
pub fn write_page(folder: &Path) {
    let run: Run = serde_json::from_slice(&std::fs::read(folder.join("benchmarks.json")).unwrap()).unwrap();
    std::fs::write(folder.join("benchmarks.md"), page(&run)).unwrap();
    std::fs::write(folder.join("benchmarks.svg"), picture(&run.rows)).unwrap();
    println!("\nwritten: benchmarks.md and benchmarks.svg in {}", folder.display());
}

/// The versions and the machine of the run: name and value.
fn machine() -> Vec<(String, String)> {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut found = vec![
        ("mqueue".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("processor".to_owned(), format!("{} × {}", cores, model.unwrap_or_default())),
    ];
    let nsqd = peer("nsqd").unwrap_or_default();
    let python = peer("pynsq/bin/python").unwrap_or_default();
    let nsqjs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/nsqjs/node_modules/nsqjs/package.json");
    for (name, version) in [
        ("kernel", said("uname", &["-r"])),
        ("nsqd and its programs (go-nsq)", said(&nsqd.display().to_string(), &["-version"])),
        ("rustc", said("rustc", &["--version"])),
        ("pynsq", said(&python.display().to_string(), &["-c", "import nsq; print(nsq.__version__)"])),
        ("node", said("node", &["--version"])),
        ("nsqjs", said("node", &["-p", &format!("require({:?}).version", nsqjs.display())])),
        ("tokio-nsq", locked("tokio-nsq").map(str::to_owned)),
        ("Redis", said("redis-server", &["--version"])),
        ("beanstalkd", said("beanstalkd", &["-v"])),
        ("NATS", said(&peer("nats-server").unwrap_or_default().display().to_string(), &["--version"])),
    ] {
        found.extend(version.map(|version| (name.to_owned(), version)));
    }
    found
}

/// The version of a crate in Cargo.lock.
fn locked(name: &str) -> Option<&'static str> {
    let (_, rest) = include_str!("../../Cargo.lock").split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

fn page(run: &Run) -> String {
    let Run { machine, command, rows } = run;
    let mut page = String::from(
        "# Benchmarks\n\n\
         The same work by mqueue and by its peers, in turns (A B A B …) on the same broker, medians of three to five rounds. The machine is shared, so that only ratios \
         say something; the spread is the lowest and the highest ratio of a round. Where a goal is a rate or megabytes a second, more is better; where it is a \
         time, a cost or memory, less is. All rows are shown, those that mqueue loses, too. The figures as JSON: [benchmarks.json](benchmarks.json).\n\n\
         ![Ratios and goals](benchmarks.svg)\n\n",
    );
    writeln!(page, "`{command}` makes this page.\n").unwrap();
    for (name, value) in machine {
        writeln!(page, "- {name}: {value}").unwrap();
    }
    page += "\n| what | peer | mqueue | ratio | spread | goal |\n|---|---|---|---:|---:|---|\n";
    for row in rows {
        let goal = match (&row.goal, row.met) {
            (Some(goal), Some(true)) => format!("{goal} met"),
            (Some(goal), _) => format!("{goal} **missed**"),
            (None, _) => String::new(),
        };
        let (ours, theirs, [low, high]) = (figure(row.mqueue_median), figure(row.peer_median), row.spread);
        let unit = &row.unit;
        writeln!(
            page,
            "| {} | {}: {theirs} {unit} | {}: {ours} {unit} | {}× | {} to {} | {goal} |",
            row.what,
            row.peer,
            row.mqueue,
            short(row.ratio),
            short(low),
            short(high)
        )
        .unwrap();
    }
    page + "\n" + LIMITS + "\n" + COMMANDS.trim_end() + "\n"
}

/// Formats a number with commas between the thousands.
fn figure(figure: f64) -> String {
    let text = short(figure);
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

fn short(figure: f64) -> String {
    format!("{figure:.*}", digits(figure))
}

/// The ratios of the rows with goals, on a scale of powers of ten, each with its goal as a mark.
fn picture(rows: &[Row]) -> String {
    const WIDTH: f64 = 480.0;
    const LINE: f64 = 32.0;
    /// The largest average width of a letter, relative to the size of the labels.
    const LETTER: f64 = 6.4;
    const RATIO: f64 = 70.0;
    let rows: Vec<&Row> = rows.iter().filter(|row| row.goal.is_some()).collect();
    // a label is never cut: the page is as wide as the longest needs
    let letters = rows.iter().map(|row| row.what.chars().count().max(row.mqueue.chars().count())).max().unwrap_or(0);
    let left = (letters as f64 * LETTER + 16.0).ceil();
    let page = left + WIDTH + RATIO;
    let height = LINE * (rows.len() as f64 + 2.0);
    let x = |ratio: f64| left + WIDTH * ((ratio.clamp(1e-3, 1e3).log10() + 3.0) / 6.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {page} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{page}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for power in -3..=3 {
        let (at, label) = (x(10_f64.powi(power)), 10_f64.powi(power));
        writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"20\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{}\"/>",
            height - LINE,
            if power == 0 { "#444" } else { "#ddd" }
        )
        .unwrap();
        writeln!(svg, "<text x=\"{at:.1}\" y=\"14\" text-anchor=\"middle\" fill=\"#444\">{label}×</text>").unwrap();
    }
    for (index, row) in rows.iter().enumerate() {
        let y = LINE * (index as f64 + 1.5);
        let colour = if row.met == Some(true) { "#2a7" } else { "#c33" };
        let (from, to) = (x(1.0).min(x(row.ratio)), x(1.0).max(x(row.ratio)));
        let goal: f64 =
            row.goal.as_deref().unwrap_or_default().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(1.0);
        for (text, above, fill) in [(&row.what, -2.0, "black"), (&row.mqueue, 11.0, "#666")] {
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"10.5\" fill=\"{fill}\">{text}</text>",
                left - 8.0,
                y + above
            )
            .unwrap();
        }
        writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>",
            y - 6.0,
            (to - from).max(1.0)
        )
        .unwrap();
        writeln!(
            svg,
            "<line x1=\"{0:.1}\" y1=\"{1:.1}\" x2=\"{0:.1}\" y2=\"{2:.1}\" stroke=\"black\" stroke-width=\"2\"/>",
            x(goal),
            y - 9.0,
            y + 9.0
        )
        .unwrap();
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#444\">{}×</text>",
            left + WIDTH + 6.0,
            y + 4.0,
            short(row.ratio)
        )
        .unwrap();
    }
    let y = height - 6.0;
    writeln!(svg, "<text x=\"{left}\" y=\"{y:.1}\" fill=\"#444\">bars: mqueue / peer, green where the goal (black mark) is met, red where not</text>\n</svg>").unwrap();
    svg
}
