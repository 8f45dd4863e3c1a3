//! The roff text of a manual page, with the macros of man(7).

use std::fmt::Write;

/// A page that grows.
#[derive(Debug)]
pub(super) struct RoffPage {
    text: String,
}

impl RoffPage {
    /// Begins the page `name(section)`.
    pub(super) fn new(name: &str, section: u8, date: &str, version: &str) -> Self {
        let name = name.to_uppercase();
        Self { text: format!(".TH \"{name}\" \"{section}\" \"{date}\" \"mqueue {version}\" \"mqueue\"\n") }
    }

    /// Ends the page.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn section(&mut self, title: &str) {
        let _ = writeln!(self.text, ".SH \"{}\"", escaped(&title.to_uppercase()));
    }

    pub(super) fn subsection(&mut self, title: &str) {
        let _ = writeln!(self.text, ".SS \"{}\"", escaped(title));
    }

    /// Writes a line of text.
    pub(super) fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{}", at_line_start(&escaped(text)));
    }

    /// Writes `name \- about`, as the section NAME has it.
    pub(super) fn name(&mut self, name: &str, about: &str) {
        let _ = writeln!(self.text, "{} \\- {}", escaped(name), escaped(about));
    }

    /// Begins a term of a list: words, of which some are bold and some are placeholders.
    pub(super) fn term(&mut self, words: &[Word<'_>]) {
        self.text.push_str(".TP\n");
        for word in words {
            let _ = match word {
                Word::Bold(text) => write!(self.text, "\\fB{}\\fR", escaped(text)),
                Word::Value(text) => write!(self.text, "\\fI{}\\fR", escaped(text)),
                Word::Plain(text) => write!(self.text, "{}", escaped(text)),
            };
        }
        self.text.push('\n');
    }

    /// Writes paragraphs, which an empty line separates. Indented lines, and those of a table,
    /// stay as they are. `is_item` keeps the paragraphs within the term of a list.
    pub(super) fn paragraphs(&mut self, text: &str, is_item: bool) {
        let mut is_first = true;
        for block in blocks(text) {
            if !is_first {
                self.text.push_str(if is_item { ".IP\n" } else { ".PP\n" });
            }
            is_first = false;
            if is_preformatted(&block) {
                self.verbatim(&block);
            } else {
                let joined = block.join(" ");
                let _ = writeln!(self.text, "{}", at_line_start(&with_bold(&joined)));
            }
        }
    }

    /// Writes lines as they are.
    pub(super) fn verbatim(&mut self, lines: &[&str]) {
        self.text.push_str(".nf\n");
        for line in lines {
            let _ = writeln!(self.text, "{}", at_line_start(&escaped(line)));
        }
        self.text.push_str(".fi\n");
    }

    /// Writes a command line, indented, after the text that explains it.
    pub(super) fn example(&mut self, about: &str, line: &str) {
        let is_first = self.text.lines().last().is_some_and(|line| line.starts_with(".SH"));
        if !is_first {
            self.text.push_str(".PP\n");
        }
        self.line(about);
        self.text.push_str(".PP\n.RS 4\n.nf\n");
        let _ = writeln!(self.text, "\\fB{}\\fR", escaped(line));
        self.text.push_str(".fi\n.RE\n");
    }
}

/// A word of a term.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word<'a> {
    Bold(&'a str),
    Value(&'a str),
    Plain(&'a str),
}

/// The paragraphs of a text, and each table in it.
fn blocks(text: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for paragraph in text.split("\n\n") {
        let lines = paragraph.lines().filter(|line| !line.trim().is_empty());
        let mut block: Vec<&str> = Vec::new();
        for line in lines {
            // a table begins below a sentence, as in the help of --handler
            if !block.is_empty() && is_row(line) && !block.iter().any(|line| is_row(line)) && !line.starts_with(' ') {
                blocks.push(std::mem::take(&mut block));
            }
            block.push(line);
        }
        if !block.is_empty() {
            blocks.push(block);
        }
    }
    blocks
}

/// True for a line with columns: blanks within it.
fn is_row(line: &str) -> bool {
    line.trim().contains("  ") || line.starts_with("  ")
}

fn is_preformatted(lines: &[&str]) -> bool {
    lines.iter().any(|line| is_row(line))
}

/// Escapes text for roff.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '"' => escaped.push_str("\\(dq"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            '…' => escaped.push_str("..."),
            '–' => escaped.push_str("\\(en"),
            '—' => escaped.push_str("\\(em"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Escapes text, and makes what is between backticks bold.
fn with_bold(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    // an odd number of parts has pairs of backticks
    if parts.len().is_multiple_of(2) {
        return escaped(text);
    }
    let part = |(number, part): (usize, &&str)| match number % 2 {
        0 => escaped(part),
        _ => format!("\\fB{}\\fR", escaped(part)),
    };
    parts.iter().enumerate().map(part).collect()
}

/// Keeps a line from being a request of roff.
fn at_line_start(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_request() {
        let mut page = RoffPage::new("x", 1, "2026-01-01", "1");
        page.paragraphs(".dead is\na `stream-x`\n\n'quoted' \\n", false);
        let text = page.into_text();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let expected = ["\\&.dead is a \\fBstream\\-x\\fR", ".PP", "\\(aqquoted\\(aq \\en"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn tables_stay_as_they_are() {
        let mut page = RoffPage::new("x", 1, "2026-01-01", "1");
        page.paragraphs("One of these:\nprint  to stdout\nexec   a command,\n       for each", true);
        let text = page.into_text();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let table = [".nf", "print  to stdout", "exec   a command,", "       for each", ".fi"];
        assert_eq!(lines, [&["One of these:", ".IP"][..], &table].concat());
    }
}
