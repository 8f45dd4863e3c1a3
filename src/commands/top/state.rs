//! The state of the view, pure: listings and keys in; [`TopEffect`]s, and what [`view`](super::view)
//! shows, out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::clients::ClientList;
use super::history::{HistoryPoint, QueueHistory};
use super::keys::{AskedAction, TopKey};
use super::messages::MessageList;
use super::order::{RowPlace, TopSort, matches, ordered};
use crate::commands::common::cluster_listing::ClusterListing;
use crate::commands::common::stream_listing::{GroupListing, StreamListing};
use mqueue::cluster::{QueueAction, QueueTarget};

/// Wakes that are kept.
const MAX_WAKES: usize = 8;
/// The longest filter, in characters.
const MAX_FILTER: usize = 64;

/// The state.
#[derive(Debug)]
pub(super) struct TopState {
    pub(super) listing: Arc<ClusterListing>,
    /// The number of listings so far.
    pub(super) listings: u64,
    /// The past of each stream and group.
    histories: HashMap<QueueTarget, QueueHistory>,
    /// Groups that have woken, the last first.
    pub(super) wakes: VecDeque<(Instant, QueueTarget)>,
    /// The streams and groups that are shown, in their order.
    pub(super) rows: Vec<RowPlace>,
    pub(super) sort: TopSort,
    pub(super) filter: String,
    /// True if streams of dead letters and of redriven messages are shown.
    pub(super) shows_all: bool,
    pub(super) selected: Option<QueueTarget>,
    /// The first row on the screen.
    pub(super) first_row: usize,
    /// The rows on the screen, when it was drawn last.
    pub(super) page: usize,
    pub(super) screen: TopScreen,
    pub(super) input: TopInput,
    pub(super) status: Option<TopStatus>,
}

/// The contents of the screen.
#[derive(Debug)]
pub(super) enum TopScreen {
    Queues,
    Clients(ClientList),
    Messages(MessageList),
    Help,
}

/// The meaning of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopInput {
    /// Each key is a command.
    Commands,
    /// Keys are the text of the filter, which was this one before.
    Filter(String),
    /// This question waits for yes or no.
    Question(String),
}

/// The result of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopStatus {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// Work for the program's loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopEffect {
    Quit,
    /// The terminal goes back to the shell (Ctrl-Z).
    Suspend,
    /// The whole screen is drawn again (Ctrl-L).
    Redraw,
    /// The nsqds are asked now.
    Refresh,
    /// An action is prepared, and asked about.
    Prepare(AskedAction, QueueTarget),
    /// The question is answered.
    Confirm,
    Decline,
    /// The clients of a stream or group are wanted.
    OpenClients(QueueTarget),
    /// The messages of a stream or group are wanted.
    OpenMessages(QueueTarget),
    /// The clients or messages are not wanted any more.
    CloseList,
}

impl TopState {
    /// Begins with a first listing.
    pub(super) fn new(listing: Arc<ClusterListing>, filter: Option<String>, shows_all: bool, now: Instant) -> Self {
        let mut state = Self {
            listing: Arc::clone(&listing),
            listings: 0,
            histories: HashMap::new(),
            wakes: VecDeque::new(),
            rows: Vec::new(),
            sort: TopSort::Name,
            filter: filter.unwrap_or_default(),
            shows_all,
            selected: None,
            first_row: 0,
            page: 1,
            screen: TopScreen::Queues,
            input: TopInput::Commands,
            status: None,
        };
        state.update(listing, now);
        state
    }

    /// Takes a new listing.
    pub(super) fn update(&mut self, listing: Arc<ClusterListing>, now: Instant) {
        self.listings += 1;
        self.listing = Arc::clone(&listing);
        for stream in &listing.streams {
            let target = QueueTarget::new(stream.stream.clone(), None);
            self.record(target, stream_point(stream), now);
            for group in &stream.groups {
                let target = QueueTarget::new(stream.stream.clone(), Some(group.group.clone()));
                self.record(target, group_point(group), now);
            }
        }
        let current = self.listings;
        self.histories.retain(|_, history| history.listing == current);
        self.arrange();
    }

    fn record(&mut self, target: QueueTarget, point: HistoryPoint, now: Instant) {
        let history = self.histories.entry(target.clone()).or_default();
        history.listing = self.listings;
        if history.add(now, point) {
            self.wakes.push_front((now, target));
            self.wakes.truncate(MAX_WAKES);
        }
    }

    /// Returns the past of a row.
    pub(super) fn history(&self, place: RowPlace) -> Option<&QueueHistory> {
        self.histories.get(&self.target(place)?)
    }

    /// Returns the stream or group of a row.
    pub(super) fn target(&self, place: RowPlace) -> Option<QueueTarget> {
        let stream = self.listing.streams.get(place.stream)?;
        let group = match place.group {
            Some(number) => Some(stream.groups.get(number)?.group.clone()),
            None => None,
        };
        Some(QueueTarget::new(stream.stream.clone(), group))
    }

    /// Returns the stream of a target.
    fn stream_of(&self, target: &QueueTarget) -> Option<&StreamListing> {
        self.listing.streams.iter().find(|stream| stream.stream == target.stream)
    }

    /// Chooses and sorts the rows.
    fn arrange(&mut self) {
        let is_shown = |stream: &StreamListing| self.shows_all || stream.is_shown;
        let chosen = matches(&self.listing.streams, &self.filter, is_shown);
        self.rows = ordered(&self.listing.streams, chosen, self.sort);
        if self.selected_row().is_none() {
            let near = self.first_row.min(self.rows.len().saturating_sub(1));
            self.selected = self.rows.get(near).and_then(|place| self.target(*place));
        }
    }

    /// Returns the number of the selected row.
    pub(super) fn selected_row(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.rows.iter().position(|place| self.is_at(*place, selected))
    }

    fn is_at(&self, place: RowPlace, target: &QueueTarget) -> bool {
        let Some(stream) = self.listing.streams.get(place.stream) else { return false };
        let group = place.group.and_then(|number| stream.groups.get(number)).map(|group| &group.group);
        stream.stream == target.stream && group == target.group.as_ref()
    }

    /// Takes a key; returns the work that it asks for.
    pub(super) fn press(&mut self, key: TopKey) -> Option<TopEffect> {
        // it was read
        self.status = None;
        match key {
            TopKey::Quit => return Some(TopEffect::Quit),
            TopKey::Suspend => return Some(TopEffect::Suspend),
            TopKey::Redraw => return Some(TopEffect::Redraw),
            TopKey::Refresh => return Some(TopEffect::Refresh),
            TopKey::Up => self.move_by(-1),
            TopKey::Down => self.move_by(1),
            TopKey::PageUp => self.move_by(-(self.page as isize)),
            TopKey::PageDown => self.move_by(self.page as isize),
            TopKey::First => self.move_by(isize::MIN / 2),
            TopKey::Last => self.move_by(isize::MAX / 2),
            TopKey::Sort => {
                self.sort = self.sort.next();
                self.arrange();
            }
            TopKey::All => {
                self.shows_all = !self.shows_all;
                self.arrange();
            }
            TopKey::Help => self.screen = TopScreen::Help,
            TopKey::Enter => return self.open(),
            TopKey::Messages => return self.open_messages(),
            TopKey::Back => return self.back(),
            TopKey::Filter => self.input = TopInput::Filter(self.filter.clone()),
            TopKey::Ask(action) => return self.ask(action),
            TopKey::Yes | TopKey::No => {
                self.input = TopInput::Commands;
                return Some(if key == TopKey::Yes { TopEffect::Confirm } else { TopEffect::Decline });
            }
            TopKey::Type(_) | TopKey::Erase | TopKey::EraseAll | TopKey::Submit | TopKey::Cancel => {
                self.edit_filter(key);
            }
        }
        None
    }

    fn edit_filter(&mut self, key: TopKey) {
        match key {
            TopKey::Type(c) if self.filter.chars().count() < MAX_FILTER => self.filter.push(c),
            TopKey::Erase => drop(self.filter.pop()),
            TopKey::EraseAll => self.filter.clear(),
            TopKey::Submit => self.input = TopInput::Commands,
            TopKey::Cancel => {
                if let TopInput::Filter(before) = std::mem::replace(&mut self.input, TopInput::Commands) {
                    self.filter = before;
                }
            }
            _ => {}
        }
        self.arrange();
    }

    fn move_by(&mut self, rows: isize) {
        match &mut self.screen {
            TopScreen::Help => {}
            TopScreen::Clients(ClientList { rows: all, first_row, .. }) => {
                *first_row = first_row.saturating_add_signed(rows).min(all.len().saturating_sub(self.page));
            }
            TopScreen::Messages(MessageList { rows: all, first_row, .. }) => {
                // notes above them take lines, too: the view knows the last place
                *first_row = first_row.saturating_add_signed(rows).min(all.len().saturating_sub(1));
            }
            TopScreen::Queues => {
                let row = self.selected_row().unwrap_or(0).saturating_add_signed(rows);
                let row = row.min(self.rows.len().saturating_sub(1));
                self.selected = self.rows.get(row).and_then(|place| self.target(*place));
            }
        }
    }

    fn open(&mut self) -> Option<TopEffect> {
        let (TopScreen::Queues, Some(target)) = (&self.screen, self.selected.clone()) else { return None };
        self.screen = TopScreen::Clients(ClientList::new(target.clone()));
        Some(TopEffect::OpenClients(target))
    }

    /// Shows the messages of the selected row, or those of the clients on the screen.
    fn open_messages(&mut self) -> Option<TopEffect> {
        let target = match &self.screen {
            TopScreen::Queues => self.selected.clone()?,
            TopScreen::Clients(clients) => clients.target.clone(),
            TopScreen::Messages(_) | TopScreen::Help => return None,
        };
        self.screen = TopScreen::Messages(MessageList::new(target.clone()));
        Some(TopEffect::OpenMessages(target))
    }

    /// Leaves a screen, or removes the filter.
    fn back(&mut self) -> Option<TopEffect> {
        match std::mem::replace(&mut self.screen, TopScreen::Queues) {
            TopScreen::Clients(_) | TopScreen::Messages(_) => return Some(TopEffect::CloseList),
            TopScreen::Help => {}
            TopScreen::Queues => {
                self.filter.clear();
                self.arrange();
            }
        }
        None
    }

    /// Checks whether the action makes sense for the selected row.
    fn ask(&mut self, action: AskedAction) -> Option<TopEffect> {
        let target = match &self.screen {
            TopScreen::Queues => self.selected.clone()?,
            TopScreen::Clients(clients) => clients.target.clone(),
            TopScreen::Messages(messages) => messages.target.clone(),
            TopScreen::Help => return None,
        };
        let stream = self.stream_of(&target)?;
        let group = target.group.as_ref().and_then(|name| stream.groups.iter().find(|group| group.group == *name));
        let is_paused = match group {
            Some(group) => group.state.paused_on == group.state.nsqds,
            None => stream.state.paused_on == stream.state.nsqds,
        };
        let refused = match action {
            AskedAction::Wake if group.is_none() => Some("select a group: a stream has no consumers".to_owned()),
            AskedAction::Redrive if stream.dead_letters == 0 => Some(format!("{} has no dead letters", target.stream)),
            _ => None,
        };
        if let Some(text) = refused {
            self.status = Some(TopStatus { text, is_error: true });
            return None;
        }
        let action = match action {
            AskedAction::Queue(QueueAction::Pause) if is_paused => AskedAction::Queue(QueueAction::Unpause),
            action => action,
        };
        self.status = Some(TopStatus { text: "asking the nsqds …".to_owned(), is_error: false });
        Some(TopEffect::Prepare(action, target))
    }
}

fn stream_point(stream: &StreamListing) -> HistoryPoint {
    HistoryPoint { depth: stream.state.depth, ..HistoryPoint::default() }
}

fn group_point(group: &GroupListing) -> HistoryPoint {
    let GroupListing { state, asleep, .. } = group;
    HistoryPoint { depth: state.depth, asleep: *asleep, connections: state.connections }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::snapshot_tests::{group, listing, stream};
    use super::*;

    fn cluster(depth: u64) -> Arc<ClusterListing> {
        let groups = vec![group("billing", [depth, 0, 1, 0]), group("mail", [50, 0, 1, 2])];
        listing(
            vec![stream("a", 2, vec![]), stream("b", 0, groups), stream("c", 0, vec![group("x", [1, 0, 1, 3])])],
            &[],
        )
    }

    fn begun() -> (TopState, Instant) {
        let now = Instant::now();
        (TopState::new(cluster(10), None, false, now), now)
    }

    fn shown(state: &TopState) -> Vec<String> {
        state.rows.iter().filter_map(|place| Some(state.target(*place)?.to_string())).collect()
    }

    fn selected(state: &TopState) -> String {
        state.selected.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    fn select(state: &mut TopState, target: &str) {
        state.selected = Some(target.parse().unwrap());
    }

    #[test]
    fn rows_are_sorted_within_their_stream_and_the_selection_stays() {
        let (mut state, now) = begun();
        assert_eq!(shown(&state), ["a", "b", "b/billing", "b/mail", "c", "c/x"]);
        select(&mut state, "b/mail");
        state.press(TopKey::Sort);
        assert_eq!(
            (state.sort, shown(&state)),
            (TopSort::Depth, "b b/mail b/billing c c/x a".split(' ').map(str::to_owned).collect())
        );
        assert_eq!(selected(&state), "b/mail");
        state.update(cluster(70), now + Duration::from_secs(1));
        assert_eq!(shown(&state)[..3], ["b", "b/billing", "b/mail"]);
        assert_eq!((selected(&state), state.selected_row()), ("b/mail".to_owned(), Some(2)));
        // a stream that is gone
        state.update(listing(vec![stream("a", 0, vec![])], &[]), now);
        assert_eq!((selected(&state), state.histories.len()), ("a".to_owned(), 1));
        state.update(listing(vec![], &[]), now);
        assert_eq!((selected(&state), state.selected_row()), (String::new(), None));
        for key in [TopKey::Down, TopKey::Last, TopKey::PageUp, TopKey::Enter] {
            assert_eq!(state.press(key), None, "nothing is selected");
        }
    }

    #[test]
    fn every_sort_comes_round() {
        let (mut state, _) = begun();
        let mut seen = Vec::new();
        loop {
            state.press(TopKey::Sort);
            seen.push(state.sort.word());
            assert_eq!(state.rows.len(), 6);
            if state.sort == TopSort::Name {
                break;
            }
        }
        assert_eq!(seen, ["depth", "in/s", "out/s", "oldest", "dead", "consumers", "name"]);
    }

    #[test]
    fn the_selection_moves_within_the_rows() {
        let (mut state, _) = begun();
        assert_eq!(selected(&state), "a");
        for (key, expected) in [
            (TopKey::Up, "a"),
            (TopKey::Down, "b"),
            (TopKey::Last, "c/x"),
            (TopKey::Down, "c/x"),
            (TopKey::Up, "c"),
            (TopKey::First, "a"),
        ] {
            state.press(key);
            assert_eq!(selected(&state), expected, "{key:?}");
        }
    }

    #[test]
    fn a_filter_is_typed_kept_or_given_up() {
        let (mut state, _) = begun();
        state.press(TopKey::Filter);
        for c in "B/m".chars() {
            state.press(TopKey::Type(c));
        }
        assert_eq!(shown(&state), ["b", "b/mail"]);
        state.press(TopKey::Erase);
        assert_eq!(shown(&state), ["b", "b/billing", "b/mail"]);
        state.press(TopKey::Submit);
        assert_eq!((&state.input, state.filter.as_str()), (&TopInput::Commands, "B/"));
        state.press(TopKey::Filter);
        state.press(TopKey::EraseAll);
        (0..200).for_each(|_| drop(state.press(TopKey::Type('z'))));
        assert_eq!((shown(&state).len(), state.filter.len()), (0, MAX_FILTER));
        state.press(TopKey::Cancel);
        assert_eq!(state.filter, "B/");
        state.press(TopKey::Back);
        assert_eq!((shown(&state).len(), state.filter.as_str()), (6, ""));
    }

    #[test]
    fn actions_are_for_the_selected_row_and_refused_where_they_make_no_sense() {
        let (mut state, _) = begun();
        let (pause, unpause) = (AskedAction::Queue(QueueAction::Pause), AskedAction::Queue(QueueAction::Unpause));
        for (target, asked, expected) in [
            ("b/billing", pause, Some(pause)),
            // paused on some nsqds only
            ("b/mail", pause, Some(pause)),
            ("b/mail", unpause, Some(unpause)),
            ("c/x", pause, Some(unpause)),
            ("a", AskedAction::Redrive, Some(AskedAction::Redrive)),
            ("b/mail", AskedAction::Redrive, None),
            ("b/mail", AskedAction::Wake, Some(AskedAction::Wake)),
            ("b", AskedAction::Wake, None),
        ] {
            select(&mut state, target);
            let effect = state.press(TopKey::Ask(asked));
            let wanted = expected.map(|action| TopEffect::Prepare(action, target.parse().unwrap()));
            assert_eq!(effect, wanted, "{asked:?} of {target}");
            assert_eq!(state.status.as_ref().is_some_and(|status| status.is_error), expected.is_none());
        }
        state.input = TopInput::Question("sure?".to_owned());
        assert_eq!(state.press(TopKey::Yes), Some(TopEffect::Confirm));
        assert_eq!(state.input, TopInput::Commands);
    }

    #[test]
    fn messages_are_opened_from_the_rows_and_from_the_clients() {
        let (mut state, _) = begun();
        for target in ["a", "b/mail"] {
            select(&mut state, target);
            let opened = Some(TopEffect::OpenMessages(target.parse().unwrap()));
            assert_eq!(state.press(TopKey::Messages), opened);
            assert_eq!(state.press(TopKey::Messages), None, "they are there");
            assert_eq!(state.press(TopKey::Back), Some(TopEffect::CloseList));
            state.press(TopKey::Enter);
            assert_eq!(state.press(TopKey::Messages), opened);
            let pause = AskedAction::Queue(QueueAction::Pause);
            assert_eq!(state.press(TopKey::Ask(pause)), Some(TopEffect::Prepare(pause, target.parse().unwrap())));
            state.press(TopKey::Back);
        }
        assert!(matches!(state.screen, TopScreen::Queues));
        state.press(TopKey::Help);
        assert_eq!(state.press(TopKey::Messages), None);
    }

    #[test]
    fn the_last_wakes_are_kept() {
        let (mut state, now) = begun();
        let sleeper = |asleep: bool| {
            let mut sleeper = group("sleeper", [0, 0, u64::from(!asleep), 0]);
            sleeper.asleep = asleep;
            listing(vec![stream("a", 0, vec![sleeper])], &[])
        };
        for second in 0..40 {
            state.update(sleeper(second % 2 == 0), now + Duration::from_secs(second));
        }
        assert_eq!(state.wakes.len(), MAX_WAKES);
        assert_eq!(state.wakes.front(), Some(&(now + Duration::from_secs(39), "a/sleeper".parse().unwrap())));
    }
}
