//! Frames on ratatui's test backend, compared with those in `snapshots/`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::clients::ClientList;
use super::draw::{Palette, as_text, draw};
use super::keys::TopKey;
use super::messages::{MessageList, MessageRow};
use super::plain_text;
use super::state::{TopInput, TopScreen, TopState, TopStatus};
use super::view::ScreenSize;
use crate::commands::common::cluster_listing::{ClusterListing, NsqdListing};
use crate::commands::common::message_ages::MessageAge;
use crate::commands::common::queue_clients::ClientRow;
use crate::commands::common::stream_listing::{GroupListing, StreamListing};
use mqueue::cluster::{ClusterGroup, ClusterStream};
use mqueue::proto::PeekState;

const COLOURS: Palette = Palette { has_colours: true, is_ascii: false };
const PLAIN: Palette = Palette { has_colours: false, is_ascii: true };

/// Makes a group with these numbers: waiting, in flight, consumers, nsqds that pause it.
pub(super) fn group(name: &str, [depth, in_flight, connections, paused_on]: [u64; 4]) -> GroupListing {
    let mut state = ClusterGroup::default();
    (state.depth, state.in_flight, state.connections) = (depth, in_flight, connections);
    (state.nsqds, state.paused_on, state.message_count) = (3, paused_on, 1000 + depth + in_flight);
    let oldest = (depth > 0).then_some(MessageAge::Seen(Duration::from_secs(depth)));
    GroupListing { group: name.parse().unwrap(), state, finished_per_second: Some(118.2), oldest, asleep: false }
}

pub(super) fn stream(name: &str, dead_letters: u64, groups: Vec<GroupListing>) -> StreamListing {
    let mut state = ClusterStream::default();
    (state.nsqds, state.message_count) = (3, 5000);
    let is_shown = !name.ends_with(".dead");
    let stream = name.parse().unwrap();
    StreamListing { stream, state, published_per_second: Some(120.0), oldest: None, dead_letters, groups, is_shown }
}

pub(super) fn listing(streams: Vec<StreamListing>, errors: &[&str]) -> Arc<ClusterListing> {
    let nsqd = |number: usize| NsqdListing {
        http: format!("nsqd{number}:4151"),
        version: Some("1.3.0".to_owned()),
        error: errors.get(number).map(|error| (*error).to_owned()),
    };
    let nsqds = (0..3).map(nsqd).collect();
    Arc::new(ClusterListing { streams, nsqds, lookupd_errors: Vec::new(), at: SystemTime::UNIX_EPOCH })
}

/// Streams with everything that a row can show; `depth` is that of one group.
fn orders(depth: u64, is_awake: bool) -> Arc<ClusterListing> {
    let mut archive = group("archive", [7, 0, u64::from(is_awake), 0]);
    archive.asleep = !is_awake;
    archive.oldest = Some(MessageAge::Over(Duration::from_secs(9)));
    let invoices = stream("invoices", 0, vec![archive, group("export#ephemeral", [123_456_789, 0, 0, 0])]);
    let orders = stream("orders", 3, vec![group("billing", [depth, 30, 2, 0]), group("mail", [100, 0, 12, 1])]);
    let mut halted = stream("shipping", 0, vec![group("labels", [0, 0, 600, 3])]);
    halted.state.paused_on = 3;
    let dead = stream("orders.dead", 0, vec![group("errors", [3, 0, 0, 0])]);
    let longest = stream(&"x".repeat(64), 12_345, vec![group(&"y".repeat(64), [1, 1, 1, 0])]);
    listing(vec![invoices, orders, dead, halted, longest], &[])
}

/// A state after several listings a second apart, and the time of the last.
fn watched() -> (TopState, Instant) {
    let begin = Instant::now();
    let at = |second| begin + Duration::from_secs(second);
    let mut state = TopState::new(orders(0, false), None, false, at(0));
    for second in 1..=9 {
        state.update(orders(second * second, second > 4), at(second));
    }
    (state, at(9))
}

fn frame(state: &mut TopState, (width, height): (u16, u16), palette: Palette, now: Instant) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let size = ScreenSize { width: width.into(), height: height.into(), is_ascii: palette.is_ascii };
    let view = state.view(size, now, 1_000_000);
    terminal.draw(|frame| draw(&view, palette, frame.area(), frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

/// Compares a frame with the one in `snapshots/`; with MQUEUE_TEST_SNAPSHOTS=write it is written.
#[track_caller]
fn assert_snapshot(name: &str, text: &str) {
    let path = format!("{}/src/commands/top/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("MQUEUE_TEST_SNAPSHOTS").as_deref() == Ok("write") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name}.txt differs; this frame is\n{text}\nand the file has\n{expected}");
}

#[test]
fn frames_are_as_in_the_snapshots() {
    for (name, size) in [("80x24", (80, 24)), ("20x5", (20, 5)), ("200x60", (200, 60)), ("40x10", (40, 10))] {
        let (mut state, now) = watched();
        assert_snapshot(name, &as_text(&frame(&mut state, size, COLOURS, now)));
    }
    let (mut state, now) = watched();
    assert_snapshot("ascii", &as_text(&frame(&mut state, (80, 24), PLAIN, now)));
    state.press(TopKey::Help);
    assert_snapshot("help", &as_text(&frame(&mut state, (80, 24), COLOURS, now)));
    let (mut state, _) = watched();
    assert_snapshot("once", &plain_text(&mut state, 136, false));
}

#[test]
fn a_question_shows_its_target_and_its_end_on_every_screen() {
    let target = format!("{}/{}", "x".repeat(64), "y".repeat(64));
    let question = format!("empty {target} with 12 messages on 3 nsqds? [y/N]");
    let (mut state, now) = watched();
    state.input = TopInput::Question(question.clone());
    assert_snapshot("question", &as_text(&frame(&mut state, (80, 24), COLOURS, now)));
    let joined = |text: String| text.split_whitespace().collect::<String>();
    let small = joined(as_text(&frame(&mut state, (40, 10), COLOURS, now)));
    assert!(small.ends_with(&joined(question)), "{small}");
    let tiny = as_text(&frame(&mut state, (20, 5), COLOURS, now));
    assert!(tiny.trim_end().ends_with("[y/N]"), "{tiny}");
}

#[test]
fn colours_are_an_addition_only() {
    let (mut state, now) = watched();
    let with = frame(&mut state, (80, 24), COLOURS, now);
    let without = frame(&mut state, (80, 24), Palette { has_colours: false, ..COLOURS }, now);
    assert_eq!(as_text(&with), as_text(&without));
    let is_coloured =
        |buffer: &Buffer| buffer.content.iter().any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset));
    assert!(is_coloured(&with) && !is_coloured(&without));
    let reversed = |buffer: &Buffer| {
        let rows = buffer.content.chunks(80);
        rows.filter(|row| row.iter().all(|cell| cell.modifier.contains(Modifier::REVERSED))).count()
    };
    assert_eq!((reversed(&with), reversed(&without)), (1, 1), "the selected row");
}

#[test]
fn hostile_texts_are_shown_and_not_run() {
    let (mut state, now) = watched();
    let hostile = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\u{202e}evil";
    state.update(listing(vec![stream("orders", 0, vec![])], &[hostile]), now);
    state.status = Some(TopStatus { text: hostile.to_owned(), is_error: true });
    let mut list = ClientList::new("orders/billing".parse().unwrap());
    let client = ClientRow { name: hostile.to_owned(), agent: hostile.to_owned(), ..ClientRow::default() };
    (list.rows, list.total) = (vec![client; 30], Some(50_000));
    for is_clients in [false, true] {
        if is_clients {
            state.screen = TopScreen::Clients(std::mem::replace(&mut list, ClientList::new("a".parse().unwrap())));
        }
        let buffer = frame(&mut state, (80, 24), COLOURS, now);
        let is_inert = |symbol: &str| !symbol.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        assert!(buffer.content.iter().all(|cell| is_inert(cell.symbol())), "{buffer:?}");
        assert!(as_text(&buffer).contains("evil"), "{buffer:?}");
    }
}

#[test]
fn clients_are_listed() {
    let (mut state, now) = watched();
    let client = |number: i64| ClientRow {
        name: format!("worker-{number}.example.org"),
        group: "billing".to_owned(),
        nsqd: "nsqd1:4151".to_owned(),
        address: format!("10.0.0.{number}:50123"),
        agent: "mqueue/0.1.0".to_owned(),
        ready: 100,
        in_flight: 30 - number,
        messages: 123_456,
        finished: 123_400,
        requeued: 5,
        connected: 1_000_000 - 3600 * number,
    };
    let mut list = ClientList::new("orders/billing".parse().unwrap());
    (list.rows, list.total) = ((0..31).map(client).collect(), Some(48_600));
    state.screen = TopScreen::Clients(list);
    assert_snapshot("clients", &as_text(&frame(&mut state, (80, 24), COLOURS, now)));
    assert_snapshot("clients-wide", &as_text(&frame(&mut state, (140, 10), COLOURS, now)));
    state.press(TopKey::Last);
    let last = as_text(&frame(&mut state, (80, 24), COLOURS, now));
    assert!(last.contains("worker-30.") && !last.contains("worker-0."), "{last}");
}

#[test]
fn messages_are_listed() {
    let (mut state, now) = watched();
    let message = |number: u64, state: PeekState, attempts: u16| MessageRow {
        state,
        age: Duration::from_millis(number * 1_700),
        attempts,
        body: format!(r#"{{"order":{number},"text":"{}\\x1b[31m"}}"#, "ab ".repeat(number as usize)),
    };
    let mut list = MessageList::new("orders/billing".parse().unwrap());
    state.screen = TopScreen::Messages(MessageList::new(list.target.clone()));
    let asking = as_text(&frame(&mut state, (80, 24), COLOURS, now));
    assert!(asking.starts_with("messages of orders/billing: asking the nsqds\n"), "{asking}");
    list.rows = (0..30).map(|number| message(number, PeekState::Waiting, 0)).collect();
    list.rows.extend([message(300, PeekState::InFlight, 2), message(4, PeekState::Deferred, 12)]);
    list.notes =
        vec!["nsqd at nsqd1:4151 shows no message without delivering it: mqueue tail orders shows new ones".to_owned()];
    list.is_known = true;
    state.screen = TopScreen::Messages(list);
    assert_snapshot("messages", &as_text(&frame(&mut state, (80, 24), COLOURS, now)));
    state.press(TopKey::Last);
    assert_snapshot("messages-last", &as_text(&frame(&mut state, (40, 10), COLOURS, now)));
    let tiny = as_text(&frame(&mut state, (20, 5), COLOURS, now));
    assert!(tiny.contains("\nnsqd at nsqd1:4151\nwaiting"), "{tiny}");
}

#[test]
fn every_size_can_be_drawn() {
    let (mut state, now) = watched();
    let (mut clients, _) = watched();
    clients.screen = TopScreen::Clients(ClientList::new("orders".parse().unwrap()));
    let (mut messages, _) = watched();
    let mut list = MessageList::new("orders".parse().unwrap());
    let body = "a body \u{4e00}\u{1f600}".repeat(40);
    list.rows = vec![MessageRow { state: PeekState::Held, age: Duration::MAX, attempts: u16::MAX, body }; 20];
    list.notes = vec!["a note that is longer than many lines are wide".to_owned(); 3];
    messages.screen = TopScreen::Messages(list);
    let (mut help, _) = watched();
    help.press(TopKey::Help);
    let (mut asked, _) = watched();
    asked.input = TopInput::Question("empty orders/billing with 12 messages on 1 nsqd? [y/N]".to_owned());
    let (mut troubled, _) = watched();
    troubled.update(listing(Vec::new(), &["cannot reach nsqd"; 3]), now);
    for state in [&mut state, &mut clients, &mut messages, &mut help, &mut asked, &mut troubled] {
        for (width, height) in (0..=90).flat_map(|width| (0..=14).map(move |height| (width, height))) {
            frame(state, (width, height), COLOURS, now);
        }
    }
}

#[test]
fn ten_thousand_streams_are_drawn() {
    let begin = Instant::now();
    let of = |number: u64| {
        let groups = (0..2).map(|group_number| group(&format!("g{group_number}"), [number % 977, 1, 1, 0])).collect();
        stream(&format!("stream-{number}"), 0, groups)
    };
    let many = listing((0..10_000).map(of).collect(), &[]);
    let mut state = TopState::new(Arc::clone(&many), None, false, begin);
    state.press(TopKey::Sort);
    state.press(TopKey::Last);
    let took = Instant::now();
    state.update(many, begin + Duration::from_secs(1));
    let text = as_text(&frame(&mut state, (80, 24), COLOURS, begin + Duration::from_secs(1)));
    let took = took.elapsed();
    assert_eq!(state.rows.len(), 30_000);
    assert!(text.contains("10000 streams") && text.lines().count() == 24, "{text}");
    // the smallest depths are last
    assert!(text.lines().rev().nth(1).is_some_and(|line| line.starts_with(" g1               0")), "{text}");
    if !cfg!(debug_assertions) {
        assert!(took < Duration::from_millis(150), "{took:?}");
    }
}
