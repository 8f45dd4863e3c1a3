//! Quoting of a peer's bytes in log lines and errors; `quote` shows names as nsqd does (Go's `%q`).

use std::fmt::Write;

/// The longest excerpt, in characters.
const EXCERPT: usize = 200;

/// The beginning of a peer's text for a log line or an error: one line of at most 200 characters,
/// with unprintable characters escaped.
pub fn excerpt(bytes: &[u8]) -> String {
    // a character has at most 4 bytes
    let beginning = &bytes[..bytes.len().min(4 * EXCERPT)];
    let mut out = String::new();
    let mut count = 0;
    for chunk in beginning.utf8_chunks() {
        for c in chunk.valid().chars().take(EXCERPT - count) {
            count += 1;
            if c == '"' || c == '\\' { out.push(c) } else { put(&mut out, c) }
        }
        for byte in chunk.invalid().iter().take(EXCERPT - count) {
            count += 1;
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    if count == EXCERPT && bytes.len() > EXCERPT {
        out.push('…');
    }
    out
}

/// Appends a peer's text to a line of a terminal, with unprintable characters escaped, as long as
/// `fits` accepts each character or escape. False if something was left out.
pub fn escape_while(bytes: &[u8], out: &mut String, mut fits: impl FnMut(&str) -> bool) -> bool {
    let mut add = |write: &dyn Fn(&mut String) -> std::fmt::Result| {
        let begin = out.len();
        let written = write(out);
        debug_assert!(written.is_ok(), "a String takes all");
        let is_added = fits(&out[begin..]);
        if !is_added {
            out.truncate(begin);
        }
        is_added
    };
    bytes.utf8_chunks().all(|chunk| {
        let mut characters = chunk.valid().chars();
        let is_plain = |c: char| c == '"' || c == '\\';
        let add_character = |c: char| match is_plain(c) {
            true => add(&|out| out.write_char(c)),
            false => add(&|out| {
                put(out, c);
                Ok(())
            }),
        };
        characters.all(add_character) && chunk.invalid().iter().all(|byte| add(&|out| write!(out, "\\x{byte:02x}")))
    })
}

/// `bytes` in double quotes: printable characters unchanged, others as Go's escapes.
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut out = String::from('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| put(&mut out, c));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn put(out: &mut String, c: char) {
    let written = match c {
        '"' | '\\' => write!(out, "\\{c}"),
        '\x07' => out.write_str("\\a"),
        '\x08' => out.write_str("\\b"),
        '\x0c' => out.write_str("\\f"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\x0b' => out.write_str("\\v"),
        ' '..='~' => out.write_char(c),
        '\0'..='\x7f' => write!(out, "\\x{:02x}", c as u32),
        _ if is_printable(c) => out.write_char(c),
        ..='\u{ffff}' => write!(out, "\\u{:04x}", c as u32),
        _ => write!(out, "\\U{:08x}", c as u32),
    };
    debug_assert!(written.is_ok(), "a String takes all");
}

/// True for the characters that Rust's `Debug` shows unescaped: letters, marks, numbers,
/// punctuation and symbols. A letter goes before `c`, since a mark is escaped only if nothing
/// precedes it.
fn is_printable(c: char) -> bool {
    ['a', c].iter().collect::<String>().escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line_without_control_characters() {
        for (bytes, expected) in [
            (&b"E_INVALID \"a\" \\"[..], r#"E_INVALID "a" \"#),
            (b"a\nb\x1b[31m\xff", r"a\nb\x1b[31m\xff"),
            ("grün\u{202e}".as_bytes(), r"grün\u202e"),
            (b"", ""),
        ] {
            assert_eq!(excerpt(bytes), expected);
        }
        for (endless, length) in [(vec![b'x'; 1 << 20], 1), (vec![0xff; 1 << 20], 4), ("ü".repeat(1000).into(), 1)] {
            let text = excerpt(&endless);
            assert!(text.ends_with('…') && text.chars().count() == length * EXCERPT + 1, "{text}");
        }
        assert_eq!(excerpt(&[b'x'; EXCERPT]), "x".repeat(EXCERPT));
    }

    #[test]
    fn text_is_escaped_as_far_as_it_fits() {
        let escaped = |bytes: &[u8], most: usize| {
            let (mut out, mut left) = ("> ".to_owned(), most);
            let is_whole = escape_while(bytes, &mut out, |piece| {
                let fits = piece.chars().count() <= left;
                left = if fits { left - piece.chars().count() } else { 0 };
                fits
            });
            (out, is_whole)
        };
        let text = b"\x1b[31m\"a\\\xff\xc3\xbc";
        for (most, expected, is_whole) in [
            (99, "> \\x1b[31m\"a\\\\xffü", true),
            (16, "> \\x1b[31m\"a\\\\xffü", true),
            (15, "> \\x1b[31m\"a\\\\xff", false),
            (5, "> \\x1b[", false),
            (3, "> ", false),
        ] {
            assert_eq!(escaped(text, most), (expected.to_owned(), is_whole), "{most}");
        }
        assert_eq!(escaped(b"", 0), ("> ".to_owned(), true));
    }

    /// The answers of nsqd 1.3.0 to PUB with these names.
    #[test]
    fn quotes_as_go_does() {
        for (bytes, expected) in [
            (&b"a\"b\\c'"[..], r#""a\"b\\c'""#),
            ("a\u{2028}b\x01\x7f\x07\x08\x0c\x0b\r\t\0'".as_bytes(), r#""a\u2028b\x01\x7f\a\b\f\v\r\t\x00'""#),
            (
                "\u{a0}\u{ad}\u{feff}\u{1f600}\u{e000}\u{fffd}".as_bytes(),
                "\"\\u00a0\\u00ad\\ufeff\u{1f600}\\ue000\u{fffd}\"",
            ),
            ("e\u{301}\u{301}".as_bytes(), "\"e\u{301}\u{301}\""),
            ("\u{e0100}\u{10ffff}".as_bytes(), "\"\u{e0100}\\U0010ffff\""),
            (b"\xff\xed\xa0\x80\xf0\x9f", r#""\xff\xed\xa0\x80\xf0\x9f""#),
        ] {
            assert_eq!(quote(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
