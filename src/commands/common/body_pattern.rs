//! `--grep`: which bodies are shown.

use std::str::FromStr;

use memchr::memmem::Finder;
use regex_lite::Regex;

/// A regular expression for bodies. Bytes that are not UTF-8 are matched as U+FFFD.
#[derive(Debug, Clone)]
pub(crate) struct BodyPattern(Pattern);

#[derive(Debug, Clone)]
enum Pattern {
    /// Text without special characters is found many times faster.
    Text(Box<Finder<'static>>),
    Regex(Regex),
}

impl FromStr for BodyPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if regex_lite::escape(text) == text {
            return Ok(Self(Pattern::Text(Box::new(Finder::new(text.as_bytes()).into_owned()))));
        }
        Regex::new(text).map(|regex| Self(Pattern::Regex(regex))).map_err(|error| error.to_string())
    }
}

impl BodyPattern {
    pub(crate) fn matches(&self, body: &[u8]) -> bool {
        match &self.0 {
            Pattern::Text(finder) => finder.find(body).is_some(),
            Pattern::Regex(regex) => regex.is_match(&String::from_utf8_lossy(body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_expressions_find_bodies() {
        let matches = |pattern: &str, body: &[u8]| pattern.parse::<BodyPattern>().unwrap().matches(body);
        assert!(matches("grün", "es ist grün".as_bytes()) && !matches("blau", "grün".as_bytes()));
        assert!(matches("\"id\":7[0-9],", br#"{"id":75,"x":1}"#) && !matches("^x", b"ax"));
        assert!(matches("(?i)ERROR", b"an error") && matches("", b""));
        assert!(matches("ab", b"\xff\xfeab") && matches("^.ab$", b"\xffab"), "binary bodies");
        assert!(matches("a.c", b"abc") && !matches(r"a\.c", b"abc"));
        let error = "a(".parse::<BodyPattern>().unwrap_err();
        assert!(!error.contains('\n'), "{error}");
    }
}
