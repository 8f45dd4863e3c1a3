//! bash's command line: its words, and choices quoted for it.
//!
//! bash replaces its own idea of the current word, which begins after the last `:`, `=` or open
//! quote, and inserts choices as they are:
//!
//! ```text
//!  mqueue consumer --handler "fi█           line
//!                            ^^^            the word of the command: fi
//!                             ^^            bash's word, within a quote
//! ```

use super::choices::{Choice, Choices, Completion};

/// A command line up to the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShellLine {
    /// The words before the current one, without the program.
    pub(super) words: Vec<String>,
    /// The current word without its quotes.
    pub(super) current: String,
    /// The beginning of `current` that is not part of bash's word.
    before: String,
    /// The quote that is open where bash's word begins.
    quote: Option<char>,
}

/// The state of the text that was read.
#[derive(Debug, Default)]
struct Lexer {
    words: Vec<String>,
    /// The word that is read, and the position where it began.
    word: Option<(String, usize)>,
    quote: Option<char>,
    escaped: bool,
}

impl Lexer {
    fn read(text: &str) -> Self {
        let mut lexer = Self::default();
        text.char_indices().for_each(|(at, character)| lexer.character(at, character));
        lexer
    }

    fn character(&mut self, at: usize, character: char) {
        let is_blank = character == ' ' || character == '\t' || character == '\n';
        if self.quote.is_none() && !self.escaped && is_blank {
            self.words.extend(self.word.take().map(|(word, _)| word));
            return;
        }
        let (word, _) = self.word.get_or_insert_with(|| (String::new(), at));
        match (self.quote, character) {
            _ if self.escaped => {
                if self.quote.is_some() && !"$`\"\\".contains(character) {
                    word.push('\\');
                }
                word.push(character);
                self.escaped = false;
            }
            (None | Some('"'), '\\') => self.escaped = true,
            (None, '\'' | '"') => self.quote = Some(character),
            (Some(quote), _) if quote == character => self.quote = None,
            (None | Some(_), _) => word.push(character),
        }
    }
}

impl ShellLine {
    /// Reads a line up to the cursor, of which `bash_word`, as typed, is the end.
    pub(super) fn read(line: &str, bash_word: &str) -> Self {
        let mut all = Lexer::read(line);
        let (current, begin) = all.word.take().unwrap_or((String::new(), line.len()));
        let at = line.strip_suffix(bash_word).map_or(begin, |before| before.len().max(begin));
        let before = Lexer::read(&line[begin..at]);
        let assigned = all.words.iter().take_while(|word| is_assignment(word)).count();
        Self {
            words: all.words.into_iter().skip(assigned + 1).collect(),
            current,
            before: before.word.map(|(word, _)| word).unwrap_or_default(),
            quote: before.quote,
        }
    }

    /// Formats choices: the kind, and for files the part of bash's word that stays; then what bash
    /// inserts in place of its word, a line each.
    pub(super) fn reply(&self, completion: &Completion) -> String {
        let Completion { kept, choices } = completion;
        match choices {
            Choices::Files => format!("files\t{}\n", kept.strip_prefix(&self.before).unwrap_or_default()),
            Choices::Folders => format!("folders\t{}\n", kept.strip_prefix(&self.before).unwrap_or_default()),
            Choices::Words(words) => {
                let fitting = words.iter().filter(|choice| format!("{kept}{}", choice.word).starts_with(&self.current));
                let fitting: Vec<&Choice> = fitting.collect();
                let is_open = matches!(fitting[..], [choice] if choice.is_open);
                let insert = |choice: &&Choice| {
                    let whole = format!("{kept}{}", choice.word);
                    whole.strip_prefix(&self.before).and_then(|rest| self.quoted(rest)).map(|quoted| quoted + "\n")
                };
                let first = if is_open { "open\t\n" } else { "words\t\n" };
                first.to_owned() + &fitting.iter().filter_map(insert).collect::<String>()
            }
        }
    }

    /// Quotes text for where bash inserts it; `None` for what cannot be quoted there.
    fn quoted(&self, text: &str) -> Option<String> {
        match self.quote {
            Some('\'') => Some(text.replace('\'', r"'\''")),
            // an exclamation mark within " is the history's, also after a backslash
            Some(_) if text.contains('!') => None,
            Some(_) => Some(escaped(text, |character| "$`\"\\".contains(character))),
            None => Some(escaped(text, |character| {
                !(character.is_ascii_alphanumeric() || "_@%+=:,./-".contains(character) || !character.is_ascii())
            })),
        }
    }
}

fn escaped(text: &str, is_special: impl Fn(char) -> bool) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if is_special(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// True for `NAME=value`, which precedes a command.
fn is_assignment(word: &str) -> bool {
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a line, its current word, and what bash inserts for these choices.
    #[track_caller]
    fn check(line: &str, bash_word: &str, kept: &str, choices: &[&str], expected: (&[&str], &str, &str)) {
        let read = ShellLine::read(line, bash_word);
        let words = choices.iter().map(|word| Choice::new(*word, "")).collect();
        let reply = read.reply(&Completion { kept: kept.to_owned(), choices: Choices::Words(words) });
        let words: Vec<&str> = read.words.iter().map(String::as_str).collect();
        assert_eq!((&words[..], &read.current[..], &reply[..]), expected, "{line}");
    }

    #[test]
    fn words_are_split_and_unquoted_as_bash_does() {
        check("mqueue con", "con", "", &["consumer", "ls"], (&[], "con", "words\t\nconsumer\n"));
        check("mqueue ", "", "", &["ls"], (&[], "", "words\t\nls\n"));
        check(
            "A=1 B='x y' mqueue ls a\\ b \"c d\" e'f g'h ",
            "",
            "",
            &[],
            (&["ls", "a b", "c d", "ef gh"], "", "words\t\n"),
        );
        check(r#"mqueue "a\"b\c$" 'a\' x"#, "x", "", &["x"], (&[r#"a"b\c$"#, r"a\"], "x", "words\t\nx\n"));
    }

    #[test]
    fn only_the_rest_after_a_break_is_inserted() {
        check(
            "mqueue consumer --stream=fo",
            "fo",
            "--stream=",
            &["foo", "bar"],
            (&["consumer"], "--stream=fo", "words\t\nfoo\n"),
        );
        // ':' and '=' are removed from COMP_WORDBREAKS
        check(
            "mqueue consumer --stream=fo",
            "--stream=fo",
            "--stream=",
            &["foo"],
            (&["consumer"], "--stream=fo", "words\t\n--stream=foo\n"),
        );
        let open = ShellLine::read("mqueue consumer --handler fil", "fil");
        let words = vec![Choice::open("file:", ""), Choice::open("unix:", "")];
        let two = Completion { kept: String::new(), choices: Choices::Words(words) };
        assert_eq!(open.reply(&two), "open\t\nfile:\n");
        assert_eq!(ShellLine::read("mqueue x ", "").reply(&two), "words\t\nfile:\nunix:\n");
        let files = Completion { kept: "file:".to_owned(), choices: Choices::Files };
        assert_eq!(ShellLine::read("mqueue x file:/tm", "/tm").reply(&files), "files\t\n");
        assert_eq!(ShellLine::read("mqueue x file:/tm", "file:/tm").reply(&files), "files\tfile:\n");
    }

    #[test]
    fn choices_are_quoted_for_where_they_are_inserted() {
        let hostile = ["x$(touch pwned)`id`;'\"&|<>*?[~!#\\ y"];
        let bare = r#"x\$\(touch\ pwned\)\`id\`\;\'\"\&\|\<\>\*\?\[\~\!\#\\\ y"#;
        check("mqueue x", "x", "", &hostile, (&[], "x", &format!("words\t\n{bare}\n")));
        check("mqueue 'x", "x", "", &["x$(id)'y"], (&[], "x", "words\t\nx$(id)'\\''y\n"));
        check("mqueue \"x", "x", "", &["x$(id)`\"y", "x!y"], (&[], "x", "words\t\nx\\$(id)\\`\\\"y\n"));
    }

    #[test]
    fn any_text_is_read() {
        for line in ["", "\\", "mqueue \"", "mqueue '\\", "ü ö'ä", "=", "mqueue é"] {
            for bash_word in ["", "x", "ä", "é", line] {
                let read = ShellLine::read(line, bash_word);
                read.reply(&Completion { kept: "é".to_owned(), choices: Choices::Files });
            }
        }
    }
}
