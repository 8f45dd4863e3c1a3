//! Drawing of a view into a buffer of cells.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::view::{RowTone, TopView, ViewColumn, ViewRow};

/// The look of each tone. Without colours, brightness and reversed rows remain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    pub(super) has_colours: bool,
    pub(super) is_ascii: bool,
}

impl Palette {
    fn style(self, tone: RowTone) -> Style {
        let colour = |colour: Color| if self.has_colours { Style::new().fg(colour) } else { Style::new() };
        match tone {
            RowTone::Plain => Style::new(),
            RowTone::Stream => Style::new().add_modifier(Modifier::BOLD),
            RowTone::Asleep => Style::new().add_modifier(Modifier::DIM),
            RowTone::Paused => colour(Color::Yellow),
            RowTone::Alert => colour(Color::Red).add_modifier(Modifier::BOLD),
            RowTone::Question => colour(Color::Cyan).add_modifier(Modifier::BOLD),
        }
    }

    /// Shortens a text to a width; a mark shows that it goes on.
    fn shortened(self, text: &str, width: usize) -> String {
        if text.chars().count() <= width {
            return text.to_owned();
        }
        let mark = if self.is_ascii { '~' } else { '…' };
        text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some(mark)).collect()
    }
}

/// Draws the view: the title, problems, the table, wakes, and at the bottom keys or a question. What
/// does not fit is left out; the bottom lines come first.
pub(super) fn draw(view: &TopView, palette: Palette, area: Rect, buffer: &mut Buffer) {
    let mut lines = Lines { palette, area, buffer, next: area.top() };
    let bottom = u16::try_from(view.bottom.len()).unwrap_or(u16::MAX).min(area.height);
    let end = area.bottom() - bottom;
    let wakes = u16::from(view.wakes.is_some());
    lines.put(&view.title, Style::new().add_modifier(Modifier::BOLD), end);
    if let Some(problem) = &view.problem {
        lines.put(problem, palette.style(RowTone::Alert), end);
    }
    let head = ViewRow {
        cells: view.columns.iter().map(|column| column.title.to_owned()).collect(),
        tone: RowTone::Plain,
        is_selected: false,
    };
    lines.row(&head, &view.columns, Style::new().add_modifier(Modifier::UNDERLINED), end);
    for row in &view.rows {
        let style = palette.style(row.tone);
        let style = if row.is_selected { style.add_modifier(Modifier::REVERSED) } else { style };
        lines.row(row, &view.columns, style, end.saturating_sub(wakes));
    }
    lines.next = lines.next.max(end.saturating_sub(wakes));
    if let Some(wakes) = &view.wakes {
        lines.put(wakes, palette.style(RowTone::Asleep), end);
    }
    lines.next = end;
    for line in &view.bottom {
        lines.put(line, palette.style(view.bottom_tone), area.bottom());
    }
}

/// Lines from top to bottom.
struct Lines<'a> {
    palette: Palette,
    area: Rect,
    buffer: &'a mut Buffer,
    next: u16,
}

impl Lines<'_> {
    /// Puts a line, if it is above `end`.
    fn put(&mut self, text: &str, style: Style, end: u16) {
        if self.next >= end {
            return;
        }
        let width = usize::from(self.area.width);
        let text = self.palette.shortened(text, width);
        self.buffer.set_stringn(self.area.left(), self.next, &text, width, style);
        self.next += 1;
    }

    /// Puts a row of the table, over the whole width.
    fn row(&mut self, row: &ViewRow, columns: &[ViewColumn], style: Style, end: u16) {
        if self.next >= end {
            return;
        }
        let cells = match &row.cells[..] {
            // a row that is one text
            [text] if columns.len() != 1 => vec![text.clone()],
            cells => cells.iter().zip(columns).map(|(cell, column)| self.cell(cell, *column)).collect(),
        };
        let width = usize::from(self.area.width);
        let line = self.palette.shortened(&cells.join(" "), width);
        self.put(&format!("{line:<width$}"), style, end);
    }

    fn cell(&self, text: &str, column: ViewColumn) -> String {
        let width = column.width;
        let text = self.palette.shortened(text, width);
        if column.is_text { format!("{text:<width$}") } else { format!("{text:>width$}") }
    }
}

/// Returns the buffer's contents as lines without blanks at their ends.
pub(super) fn as_text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let line: String = (buffer.area.left()..buffer.area.right()).map(|x| buffer[(x, y)].symbol()).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}
