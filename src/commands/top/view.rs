//! The contents of the screen as texts, pure: from the state and the screen's size.

use std::time::Instant;

use super::figures::{age, count, oldest, rate, sparkline};
use super::history::QueueHistory;
use super::keys::HELP;
use super::messages::MessageRow;
use super::order::{RowPlace, TopSort};
use super::state::{TopInput, TopScreen, TopState};
use crate::commands::common::queue_clients::ClientRow;
use crate::commands::common::short_duration::short_duration;
use crate::commands::common::stream_listing::{GroupListing, StreamListing};
use mqueue::plural;
use mqueue::proto::PeekState;

/// The width of the sparkline.
const SPARKLINE: usize = 8;
/// The narrowest column of names, before other columns are left out.
const MIN_NAME: usize = 14;
/// How long a wake is shown beside its group.
const SHOW_WAKE: u64 = 60;

/// The screen's size and abilities.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScreenSize {
    pub(super) width: usize,
    pub(super) height: usize,
    /// True if only ASCII is drawn.
    pub(super) is_ascii: bool,
}

/// The contents of the screen.
#[derive(Debug, Default)]
pub(super) struct TopView {
    pub(super) title: String,
    /// Lines about brokers that did not answer.
    pub(super) problem: Option<String>,
    pub(super) columns: Vec<ViewColumn>,
    pub(super) rows: Vec<ViewRow>,
    pub(super) wakes: Option<String>,
    /// The last lines: keys, a question, or the result of an action.
    pub(super) bottom: Vec<String>,
    pub(super) bottom_tone: RowTone,
}

/// A column, as wide as it is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct ViewColumn {
    pub(super) title: &'static str,
    pub(super) width: usize,
    /// True for texts, which are left-aligned.
    pub(super) is_text: bool,
    /// The importance: on a narrow screen, those of a low rank are left out first.
    rank: u8,
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct ViewRow {
    pub(super) cells: Vec<String>,
    pub(super) tone: RowTone,
    pub(super) is_selected: bool,
}

/// The look of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum RowTone {
    #[default]
    Plain,
    Stream,
    Asleep,
    Paused,
    Alert,
    Question,
}

const fn number(title: &'static str, width: usize, rank: u8) -> ViewColumn {
    ViewColumn { title, width, is_text: false, rank }
}

const fn text(title: &'static str, width: usize, rank: u8) -> ViewColumn {
    ViewColumn { title, width, is_text: true, rank }
}

/// The columns of the streams and groups. The first is as wide as there is room, the last as its
/// widest text.
const QUEUE_COLUMNS: [ViewColumn; 11] = [
    text("STREAM/GROUP", MIN_NAME, 100),
    number("DEPTH", 5, 99),
    text("HISTORY", SPARKLINE, 50),
    number("FLIGHT", 6, 70),
    number("DEFER", 5, 40),
    number("IN/S", 5, 80),
    number("OUT/S", 5, 81),
    number("OLDEST", 6, 60),
    number("CONS", 6, 85),
    number("DEAD", 5, 75),
    text("STATE", 0, 90),
];

const CLIENT_COLUMNS: [ViewColumn; 11] = [
    text("CLIENT", MIN_NAME, 100),
    number("FLIGHT", 6, 99),
    number("RDY", 5, 90),
    number("MSGS", 5, 80),
    number("FIN", 5, 85),
    number("REQ", 5, 70),
    number("SINCE", 5, 60),
    text("GROUP", 0, 55),
    text("NSQD", 0, 50),
    text("ADDRESS", 0, 40),
    text("PROGRAM", 0, 30),
];

impl TopState {
    /// Makes the view for a screen of this size, and scrolls so that the selected row is on it.
    pub(super) fn view(&mut self, size: ScreenSize, now: Instant, unix_time: i64) -> TopView {
        let mut view = TopView { title: self.title(), problem: self.problem(), ..TopView::default() };
        (view.bottom, view.bottom_tone) = self.bottom(size);
        let shows_wakes = size.height >= 12 && matches!(self.screen, TopScreen::Queues);
        view.wakes = shows_wakes.then(|| self.last_wakes(now)).flatten();
        let taken = 2 + usize::from(view.problem.is_some()) + usize::from(view.wakes.is_some()) + view.bottom.len();
        self.page = size.height.saturating_sub(taken).max(1);
        match &self.screen {
            TopScreen::Queues => self.queues(&mut view, size, now),
            TopScreen::Clients(_) => self.clients(&mut view, size, unix_time),
            TopScreen::Messages(_) => self.messages(&mut view, size),
            TopScreen::Help => help(&mut view, size),
        }
        view
    }

    fn queues(&mut self, view: &mut TopView, size: ScreenSize, now: Instant) {
        let selected = self.selected_row();
        if let Some(row) = selected {
            self.first_row = self.first_row.clamp((row + 1).saturating_sub(self.page), row);
        }
        self.first_row = self.first_row.min(self.rows.len().saturating_sub(self.page));
        let shown = self.rows.iter().enumerate().skip(self.first_row).take(self.page);
        let rows = shown.filter_map(|(number, place)| {
            let mut row = self.row(*place, size.is_ascii, now)?;
            row.is_selected = Some(number) == selected;
            Some(row)
        });
        let rows = rows.collect();
        fit(view, &QUEUE_COLUMNS, rows, size.width);
        if self.rows.is_empty() {
            let what = if self.filter.is_empty() { "no streams" } else { "no stream or group has this in its name" };
            view.rows = vec![ViewRow { cells: vec![what.to_owned()], tone: RowTone::Plain, is_selected: false }];
        }
    }

    fn row(&self, place: RowPlace, is_ascii: bool, now: Instant) -> Option<ViewRow> {
        let stream = self.listing.streams.get(place.stream)?;
        let history = self.history(place);
        Some(match place.group {
            None => stream_row(stream, history, is_ascii),
            Some(number) => group_row(stream, stream.groups.get(number)?, history, is_ascii, now),
        })
    }

    fn clients(&mut self, view: &mut TopView, size: ScreenSize, unix_time: i64) {
        let TopScreen::Clients(clients) = &mut self.screen else { return };
        clients.first_row = clients.first_row.min(clients.rows.len().saturating_sub(self.page));
        let shown = clients.rows.iter().skip(clients.first_row).take(self.page);
        let rows = shown.map(|client| client_row(client, clients.target.group.is_some(), unix_time)).collect();
        fit(view, &CLIENT_COLUMNS, rows, size.width);
        let known = match clients.total {
            None => "asking the nsqds".to_owned(),
            Some(total) if total > clients.rows.len() => {
                format!("the busiest {} of {total} connections", clients.rows.len())
            }
            Some(total) => plural::count(total as u64, "connection"),
        };
        view.title = format!("clients of {}: {known}", clients.target);
        if clients.error.is_some() {
            view.problem.clone_from(&clients.error);
        }
    }

    fn messages(&mut self, view: &mut TopView, size: ScreenSize) {
        let TopScreen::Messages(messages) = &mut self.screen else { return };
        let mut notes: Vec<String> = messages.notes.iter().flat_map(|note| wrapped(note, size.width, 6)).collect();
        // on a small screen, messages come first
        notes.truncate(if messages.rows.is_empty() { self.page } else { self.page / 2 });
        let room = self.page.saturating_sub(notes.len()).max(1);
        messages.first_row = messages.first_row.min(messages.rows.len().saturating_sub(room));
        let shown = messages.rows.iter().skip(messages.first_row).take(room);
        let line = |cells: String, tone: RowTone| ViewRow { cells: vec![cells], tone, is_selected: false };
        view.rows = notes.into_iter().map(|note| line(note, RowTone::Paused)).collect();
        view.rows.extend(shown.map(|message| line(message_line(message), message_tone(message))));
        let known = match messages.rows.len() {
            _ if !messages.is_known => "asking the nsqds".to_owned(),
            0 => "none".to_owned(),
            rows => format!("{} to {rows}", messages.first_row + 1),
        };
        view.title = format!("messages of {}: {known}", messages.target);
        view.columns = vec![ViewColumn { width: size.width, ..text(MESSAGE_TITLES, 0, 100) }];
    }

    fn title(&self) -> String {
        let listing = &self.listing;
        let shown = || listing.streams.iter().filter(|stream| self.shows_all || stream.is_shown);
        let groups = || shown().flat_map(|stream| &stream.groups);
        // the first listing has no rates
        let is_measured = self.listings > 1;
        let sum = |rates: &mut dyn Iterator<Item = Option<f64>>| is_measured.then(|| rates.flatten().sum());
        let published = sum(&mut shown().map(|stream| stream.published_per_second));
        let finished = sum(&mut groups().map(|group| group.finished_per_second));
        let depth: u64 = shown().map(|stream| stream.state.depth).chain(groups().map(|group| group.state.depth)).sum();
        let answered = listing.nsqds.iter().filter(|nsqd| nsqd.error.is_none()).count();
        let dead: u64 = shown().map(|stream| stream.dead_letters).sum();
        let mut title = format!(
            "{}  {}  in {}/s  out {}/s  depth {}  dead {}",
            plural::count(answered as u64, "nsqd"),
            plural::count(shown().count() as u64, "stream"),
            rate(published),
            rate(finished),
            count(depth),
            count(dead)
        );
        if self.sort != TopSort::Name {
            title += &format!("  by {}", self.sort.word());
        }
        if !self.filter.is_empty() {
            title += &format!("  filter: {}", self.filter);
        }
        title
    }

    /// Describes brokers that did not answer.
    fn problem(&self) -> Option<String> {
        let silent: Vec<&String> = self.listing.nsqds.iter().filter_map(|nsqd| nsqd.error.as_ref()).collect();
        let first = silent.first().copied().or(self.listing.lookupd_errors.first())?;
        Some(match silent.len() {
            0 => first.clone(),
            1 => format!("{first}: its messages are not counted"),
            silent => format!("{silent} of {} nsqds are not counted: {first}", self.listing.nsqds.len()),
        })
    }

    fn last_wakes(&self, now: Instant) -> Option<String> {
        let wake = |(at, target): &(Instant, _)| format!("{target} {}", age(now.saturating_duration_since(*at)));
        let wakes: Vec<String> = self.wakes.iter().map(wake).collect();
        (!wakes.is_empty()).then(|| format!("woken: {}", wakes.join(", ")))
    }

    fn bottom(&self, size: ScreenSize) -> (Vec<String>, RowTone) {
        let most = size.height.saturating_sub(1).clamp(1, 6);
        match (&self.input, &self.status) {
            (TopInput::Question(question), _) => (wrapped(question, size.width, most), RowTone::Question),
            (TopInput::Filter(_), _) => (vec![format!("filter: {}_", self.filter)], RowTone::Plain),
            (TopInput::Commands, Some(status)) => {
                let tone = if status.is_error { RowTone::Alert } else { RowTone::Plain };
                (wrapped(&status.text, size.width, most), tone)
            }
            (TopInput::Commands, None) => (vec![self.keys(size.width)], RowTone::Plain),
        }
    }

    fn keys(&self, width: usize) -> String {
        let all = match self.screen {
            TopScreen::Queues => {
                "?:keys q:quit /:filter Enter:clients v:messages p:pause e:empty w:wake r:redrive s:sort"
            }
            TopScreen::Clients(_) => "Esc:back j,k:scroll v:messages p:pause e:empty w:wake r:redrive q:quit",
            TopScreen::Messages(_) => "Esc:back j,k:scroll p:pause e:empty w:wake r:redrive q:quit",
            TopScreen::Help => "Esc:back q:quit",
        };
        // whole keys only
        let mut shown = String::new();
        for key in all.split(' ') {
            if !shown.is_empty() && shown.len() + 1 + key.len() > width {
                break;
            }
            shown += if shown.is_empty() { "" } else { " " };
            shown += key;
        }
        shown
    }
}

fn stream_row(stream: &StreamListing, history: Option<&QueueHistory>, is_ascii: bool) -> ViewRow {
    let state = &stream.state;
    let nothing = || "-".to_owned();
    let cells = vec![
        stream.stream.to_string(),
        count(state.depth),
        history.map_or(String::new(), |history| sparkline(history.depths(), SPARKLINE, is_ascii)),
        nothing(),
        nothing(),
        rate(stream.published_per_second),
        nothing(),
        oldest(stream.oldest),
        nothing(),
        count(stream.dead_letters),
        paused(state.paused_on, state.nsqds),
    ];
    let tone = if state.paused_on > 0 { RowTone::Paused } else { RowTone::Stream };
    ViewRow { cells, tone, is_selected: false }
}

fn group_row(
    stream: &StreamListing,
    group: &GroupListing,
    history: Option<&QueueHistory>,
    is_ascii: bool,
    now: Instant,
) -> ViewRow {
    let state = &group.state;
    let woken = history.and_then(|history| history.woken).map(|at| now.saturating_duration_since(at));
    let condition = match woken.filter(|woken| woken.as_secs() < SHOW_WAKE) {
        _ if state.paused_on > 0 => paused(state.paused_on, state.nsqds),
        Some(woken) => format!("woken {}", age(woken)),
        None => String::new(),
    };
    let cells = vec![
        format!(" {}", group.group),
        count(state.depth),
        history.map_or(String::new(), |history| sparkline(history.depths(), SPARKLINE, is_ascii)),
        count(state.in_flight),
        count(state.deferred),
        "-".to_owned(),
        rate(group.finished_per_second),
        oldest(group.oldest),
        if group.asleep { "asleep".to_owned() } else { count(state.connections) },
        "-".to_owned(),
        condition,
    ];
    let is_left_alone = state.connections == 0 && !group.asleep && state.depth > 0 && stream.is_shown;
    let tone = match () {
        () if state.paused_on > 0 => RowTone::Paused,
        () if is_left_alone => RowTone::Alert,
        () if group.asleep => RowTone::Asleep,
        () => RowTone::Plain,
    };
    ViewRow { cells, tone, is_selected: false }
}

fn client_row(client: &ClientRow, is_of_group: bool, unix_time: i64) -> ViewRow {
    let unsigned = |number: i64| count(u64::try_from(number).unwrap_or(0));
    let since = std::time::Duration::from_secs(u64::try_from(unix_time.saturating_sub(client.connected)).unwrap_or(0));
    let cells = vec![
        client.name.clone(),
        unsigned(client.in_flight),
        unsigned(client.ready),
        count(client.messages),
        count(client.finished),
        count(client.requeued),
        age(since),
        if is_of_group { String::new() } else { client.group.clone() },
        client.nsqd.clone(),
        client.address.clone(),
        client.agent.clone(),
    ];
    let tone = if client.in_flight > 0 { RowTone::Plain } else { RowTone::Asleep };
    ViewRow { cells, tone, is_selected: false }
}

/// The titles above the messages' lines.
const MESSAGE_TITLES: &str = "STATE       AGE  TRIES  BODY";

fn message_line(message: &MessageRow) -> String {
    let (state, age) = (message.state.as_str().replace('_', " "), short_duration(message.age));
    format!("{state:<9}  {age:>6}  {:>3}  {}", message.attempts, message.body)
}

fn message_tone(message: &MessageRow) -> RowTone {
    match message.state {
        PeekState::InFlight => RowTone::Stream,
        PeekState::Deferred => RowTone::Asleep,
        PeekState::Held | PeekState::Waiting => RowTone::Plain,
    }
}

fn help(view: &mut TopView, size: ScreenSize) {
    let width = HELP.iter().map(|(keys, _)| keys.len()).max().unwrap_or(0);
    let row = |(keys, meaning): &(&str, &str)| ViewRow {
        cells: vec![format!("{keys:<width$}  {meaning}")],
        tone: RowTone::Plain,
        is_selected: false,
    };
    view.rows = HELP.iter().map(row).collect();
    view.columns = vec![ViewColumn { width: size.width, ..text("KEYS", 0, 100) }];
}

/// Describes a pause; empty if there is none. A stream or group can be paused on some nsqds only.
fn paused(on: u64, nsqds: u64) -> String {
    match on {
        0 => String::new(),
        on if on == nsqds => "paused".to_owned(),
        on => format!("paused {on}/{nsqds}"),
    }
}

/// Chooses the columns that fit the width, and keeps their cells. A column without a width of its
/// own is as wide as its texts, and left out if they are empty.
fn fit(view: &mut TopView, columns: &[ViewColumn], rows: Vec<ViewRow>, width: usize) {
    let widest = |number: usize| {
        let cells = rows.iter().filter_map(|row| row.cells.get(number));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut kept: Vec<(usize, ViewColumn)> = columns.iter().copied().enumerate().collect();
    for (number, column) in &mut kept[1..] {
        if column.width == 0 {
            let texts = widest(*number);
            column.width = if texts == 0 { 0 } else { texts.max(column.title.len()).min(40) };
        }
    }
    kept.retain(|(number, column)| *number == 0 || column.width > 0);
    let taken = |kept: &[(usize, ViewColumn)]| kept[1..].iter().map(|(_, column)| column.width + 1).sum::<usize>();
    let least = MIN_NAME.min(width / 2);
    while taken(&kept) + least > width && kept.len() > 1 {
        let lowest = kept.iter().enumerate().skip(1).min_by_key(|(_, (_, column))| column.rank);
        let Some(lowest) = lowest.map(|(place, _)| place) else { break };
        kept.remove(lowest);
    }
    // names take what is left, and no more than they need
    let room = width.saturating_sub(taken(&kept));
    let needed = widest(0).max(columns[0].title.len()) + 1;
    let names = room.min(needed);
    if let Some((_, first)) = kept.first_mut() {
        first.width = names;
    }
    view.columns = kept.iter().map(|(_, column)| *column).collect();
    view.rows = rows
        .into_iter()
        .map(|mut row| {
            row.cells = kept.iter().map(|(number, _)| std::mem::take(&mut row.cells[*number])).collect();
            row
        })
        .collect();
}

/// Wraps a text at this width, at blanks where there are any; at most `most` lines, the last of
/// which ends with the text's end.
fn wrapped(text: &str, width: usize, most: usize) -> Vec<String> {
    let width = width.max(1);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let used = line.chars().count();
            let blank = usize::from(used > 0);
            if used + blank + rest.len() <= width {
                line.extend(std::iter::repeat_n(' ', blank).chain(rest.drain(..)));
            } else if used == 0 {
                line.extend(rest.drain(..width));
            } else {
                lines.push(std::mem::take(&mut line));
            }
        }
    }
    lines.push(line);
    if lines.len() > most {
        // the end of a question is what it asks for
        let last = lines.pop();
        lines.truncate(most.saturating_sub(1));
        lines.extend(last);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_wrapped_at_blanks_and_keep_their_end() {
        assert_eq!(wrapped("empty a with 2 messages? [y/N]", 80, 3), ["empty a with 2 messages? [y/N]"]);
        assert_eq!(wrapped("empty a with 2 messages? [y/N]", 16, 3), ["empty a with 2", "messages? [y/N]"]);
        assert_eq!(wrapped("aaaaaaaaaa bb [y/N]", 4, 9), ["aaaa", "aaaa", "aa", "bb", "[y/N", "]"]);
        assert_eq!(wrapped("a b c d [y/N]", 5, 2), ["a b c", "[y/N]"]);
        assert_eq!(wrapped("", 0, 1), [""]);
    }
}
