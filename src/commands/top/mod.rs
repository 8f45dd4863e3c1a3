//! `mqueue top`: streams and groups live on the terminal, with actions.
//!
//! ```text
//!  ClusterWatch ─ listing ─▶ TopState (pure) ─▶ TopView ─▶ draw ─▶ frames ─▶ terminal
//!  keys ─▶ TopKey ───────────────▲    │
//!  tasks ─ question, result ─────┘    └─▶ TopEffect ─▶ prepare, perform, clients, messages (tasks)
//! ```

mod actions;
pub(crate) mod args;
mod clients;
mod draw;
mod figures;
mod history;
mod keys;
mod messages;
mod order;
mod session;
#[cfg(test)]
mod snapshot_tests;
mod state;
mod terminal;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use self::args::Args;
use self::draw::{Palette, as_text, draw};
use self::state::TopState;
use self::view::ScreenSize;
use super::common::cluster_listing::{ClusterListing, ClusterWatch};
use super::common::exit::{Exit, Failure};
use super::common::stdout;
use mqueue::cluster::ClusterApis;

/// The limits of `--interval`.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// The width of `--once` where there is no terminal: the longest names fit.
const PLAIN_WIDTH: u16 = 136;

/// Runs the command to its end.
pub(crate) async fn run(mut args: Args) -> anyhow::Result<Exit> {
    if args.interval < MIN_INTERVAL {
        let line = format!("--interval {:?} is too short: use at least {MIN_INTERVAL:?}", args.interval);
        return Err(Failure::new(Exit::Usage, line).into());
    }
    args.interval = args.interval.min(MAX_INTERVAL);
    let cluster = args.broker.cluster()?;
    if args.json {
        return print_json(&args, cluster).await;
    }
    if args.once {
        return print_once(args, cluster).await;
    }
    if let Some(why) = no_screen() {
        return Err(Failure::new(Exit::Usage, format!("{why}: give --once for a plain view, or --json")).into());
    }
    let palette = Palette { has_colours: stdout::wants_colours(true), is_ascii: !is_utf8() };
    session::run(args, cluster, palette).await
}

/// Returns the reason why there is no full-screen view.
fn no_screen() -> Option<&'static str> {
    match () {
        () if !io::stdout().is_terminal() => Some("standard output is no terminal"),
        () if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") => {
            Some("this terminal (TERM) cannot move its cursor")
        }
        () => None,
    }
}

/// Returns true if the locale's texts are UTF-8.
fn is_utf8() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Waits for the listing after the first one: it has rates.
async fn second_listing(args: &Args, cluster: ClusterApis) -> anyhow::Result<[Arc<ClusterListing>; 2]> {
    let watch = ClusterWatch::start(cluster, args.sockets.clone(), args.interval).await;
    let mut listings = watch.subscribe();
    let first = Arc::clone(&listings.borrow_and_update());
    first.check_that_one_answered()?;
    listings.changed().await?;
    Ok([first, Arc::clone(&listings.borrow_and_update())])
}

/// Prints one view as plain text.
async fn print_once(args: Args, cluster: ClusterApis) -> anyhow::Result<Exit> {
    let [first, second] = second_listing(&args, cluster).await?;
    let mut state = TopState::new(first, args.filter, args.all, Instant::now() - args.interval);
    state.update(Arc::clone(&second), Instant::now());
    let is_terminal = io::stdout().is_terminal();
    let terminal = is_terminal.then(ratatui::crossterm::terminal::size).and_then(Result::ok);
    let width = terminal.map_or(PLAIN_WIDTH, |(width, _)| width);
    let is_ascii = is_terminal && !is_utf8();
    stdout::print(&plain_text(&mut state, width, is_ascii))?;
    Ok(second.exit())
}

/// Draws all rows, without the selection and the keys.
fn plain_text(state: &mut TopState, width: u16, is_ascii: bool) -> String {
    const BESIDE_ROWS: usize = 12;
    state.selected = None;
    let height = state.rows.len() + BESIDE_ROWS;
    let size = ScreenSize { width: usize::from(width), height, is_ascii };
    let mut view = state.view(size, Instant::now(), 0);
    view.bottom.clear();
    view.wakes = None;
    let lines = 2 + usize::from(view.problem.is_some()) + view.rows.len();
    let area = Rect::new(0, 0, width, u16::try_from(lines).unwrap_or(u16::MAX));
    let mut buffer = Buffer::empty(area);
    draw(&view, Palette { has_colours: false, is_ascii }, area, &mut buffer);
    as_text(&buffer)
}

/// Prints a listing at each interval, until Ctrl-C or the end of standard output.
async fn print_json(args: &Args, cluster: ClusterApis) -> anyhow::Result<Exit> {
    let watch = ClusterWatch::start(cluster, args.sockets.clone(), args.interval).await;
    let mut listings = watch.subscribe();
    listings.borrow_and_update().check_that_one_answered()?;
    let output = stdout::ProgressOutput::default();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Success),
            changed = listings.changed() => changed?,
        }
        let listing = Arc::clone(&listings.borrow_and_update());
        output.write(&(serde_json::to_string(&*listing)? + "\n"));
        if args.once || output.is_closed() {
            output.end()?;
            return Ok(if args.once { listing.exit() } else { Exit::Success });
        }
    }
}
