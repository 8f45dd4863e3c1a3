//! The meaning of each key.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::TopInput;
use mqueue::cluster::QueueAction;

/// An action that is asked about before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedAction {
    /// An action on the queue, on every nsqd that has it.
    Queue(QueueAction),
    /// Pokes the group's sockets on this machine.
    Wake,
    /// Publishes the stream's dead letters again.
    Redrive,
}

/// A key by its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopKey {
    Quit,
    Suspend,
    Redraw,
    Refresh,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Sort,
    All,
    Help,
    Enter,
    Messages,
    Back,
    Filter,
    Ask(AskedAction),
    Yes,
    No,
    /// A character of the filter.
    Type(char),
    Erase,
    EraseAll,
    Submit,
    Cancel,
}

/// The list of keys, for the help screen and the manual.
pub(super) const HELP: [(&str, &str); 17] = [
    ("j k, arrows", "select a row"),
    ("g G, Home End, PgUp PgDn", "move far"),
    ("Enter", "show the clients of the group or stream"),
    ("v", "view its messages, without taking them"),
    ("Esc", "back; without a way back, remove the filter"),
    ("/", "filter by a text in STREAM/GROUP"),
    ("s", "sort by the next column"),
    ("a", "show the streams of dead and of redriven messages, too"),
    ("p", "pause, or unpause if it is paused on every nsqd"),
    ("u", "unpause"),
    ("e", "empty: discard its messages"),
    ("w", "wake the group: poke its sockets on this machine"),
    ("r", "redrive the stream's dead letters"),
    ("Space", "ask the nsqds now"),
    ("Ctrl-L", "draw the screen again"),
    ("Ctrl-Z", "suspend"),
    ("q, Ctrl-C", "quit"),
];

/// Returns the meaning of a key; `None` if it has none.
pub(super) fn meaning(key: KeyEvent, input: &TopInput) -> Option<TopKey> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return with_control(key.code, input);
    }
    match input {
        TopInput::Commands => command(key.code),
        TopInput::Filter(_) => match key.code {
            KeyCode::Char(c) if !c.is_control() => Some(TopKey::Type(c)),
            KeyCode::Backspace => Some(TopKey::Erase),
            KeyCode::Enter => Some(TopKey::Submit),
            KeyCode::Esc => Some(TopKey::Cancel),
            KeyCode::Up => Some(TopKey::Up),
            KeyCode::Down => Some(TopKey::Down),
            _ => None,
        },
        // an Enter that was meant for something else is no yes
        TopInput::Question(_) => match key.code {
            KeyCode::Char('y' | 'Y') => Some(TopKey::Yes),
            KeyCode::Char(_) | KeyCode::Esc | KeyCode::Enter => Some(TopKey::No),
            _ => None,
        },
    }
}

fn with_control(code: KeyCode, input: &TopInput) -> Option<TopKey> {
    match code {
        KeyCode::Char('c') => Some(TopKey::Quit),
        KeyCode::Char('z') => Some(TopKey::Suspend),
        KeyCode::Char('l') => Some(TopKey::Redraw),
        KeyCode::Char('u') if matches!(input, TopInput::Filter(_)) => Some(TopKey::EraseAll),
        KeyCode::Char('h') if matches!(input, TopInput::Filter(_)) => Some(TopKey::Erase),
        _ => None,
    }
}

fn command(code: KeyCode) -> Option<TopKey> {
    let queue = |action| Some(TopKey::Ask(AskedAction::Queue(action)));
    match code {
        KeyCode::Char('q') => Some(TopKey::Quit),
        KeyCode::Char('k') | KeyCode::Up => Some(TopKey::Up),
        KeyCode::Char('j') | KeyCode::Down => Some(TopKey::Down),
        KeyCode::PageUp => Some(TopKey::PageUp),
        KeyCode::PageDown => Some(TopKey::PageDown),
        KeyCode::Char('g') | KeyCode::Home => Some(TopKey::First),
        KeyCode::Char('G') | KeyCode::End => Some(TopKey::Last),
        KeyCode::Char('s') => Some(TopKey::Sort),
        KeyCode::Char('a') => Some(TopKey::All),
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Some(TopKey::Help),
        KeyCode::Enter => Some(TopKey::Enter),
        KeyCode::Char('v') => Some(TopKey::Messages),
        KeyCode::Esc | KeyCode::Backspace => Some(TopKey::Back),
        KeyCode::Char('/') => Some(TopKey::Filter),
        KeyCode::Char(' ') => Some(TopKey::Refresh),
        KeyCode::Char('p') => queue(QueueAction::Pause),
        KeyCode::Char('u') => queue(QueueAction::Unpause),
        KeyCode::Char('e') => queue(QueueAction::Empty),
        KeyCode::Char('w') => Some(TopKey::Ask(AskedAction::Wake)),
        KeyCode::Char('r') => Some(TopKey::Ask(AskedAction::Redrive)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(code: KeyCode, input: &TopInput) -> Option<TopKey> {
        meaning(KeyEvent::new(code, KeyModifiers::NONE), input)
    }

    #[test]
    fn only_y_is_a_yes() {
        let question = TopInput::Question("empty a?".to_owned());
        assert_eq!(pressed(KeyCode::Char('y'), &question), Some(TopKey::Yes));
        for no in [KeyCode::Enter, KeyCode::Esc, KeyCode::Char('n'), KeyCode::Char('q'), KeyCode::Char(' ')] {
            assert_eq!(pressed(no, &question), Some(TopKey::No), "{no}");
        }
        assert_eq!(pressed(KeyCode::Down, &question), None);
    }

    #[test]
    fn letters_are_text_while_a_filter_is_typed() {
        let filter = TopInput::Filter(String::new());
        assert_eq!(pressed(KeyCode::Char('q'), &filter), Some(TopKey::Type('q')));
        assert_eq!(pressed(KeyCode::Char('q'), &TopInput::Commands), Some(TopKey::Quit));
        for input in [filter, TopInput::Commands, TopInput::Question(String::new())] {
            let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
            assert_eq!(meaning(ctrl_c, &input), Some(TopKey::Quit), "{input:?}");
        }
    }

    #[test]
    fn the_help_lists_every_command() {
        let listed: String = HELP.iter().map(|(keys, _)| format!("{keys} ")).collect();
        for c in (' '..='~').filter(|c| command(KeyCode::Char(*c)).is_some()) {
            let is_listed = match c {
                ' ' => listed.contains("Space"),
                // both open the list
                '?' | 'h' => true,
                c => listed.split([' ', ',']).any(|word| word == c.to_string()),
            };
            assert!(is_listed, "{c:?}");
        }
    }
}
