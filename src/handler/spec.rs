//! The choice of a handler as typed: `--handler SPEC`.
//!
//! ```text
//!  print
//!  exec:COMMAND
//!  pipe:COMMAND
//!  http://HOST/PATH  https://HOST/PATH
//!  unix:PATH
//!  forward:STREAM
//!  file:PATH
//!  sleep:20ms..50ms  sleep:25ms
//! ```
//!
//! A [`HandlerSpec`] is well formed, and no more: whether the command or file exists is checked
//! when it is [built](HandlerSpec::build).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use crate::net::{Endpoint, InvalidEndpoint};
use crate::proto::{InvalidName, TopicName};

/// A handler as named on the command line. `Display` gives the text that [`FromStr`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerSpec {
    /// `print`: one line per message on standard output.
    Print,
    /// `exec:COMMAND`: one run of a command per message.
    Exec(String),
    /// `pipe:COMMAND`: one run of a command for many messages, one line each.
    Pipe(String),
    /// `http://…`, `https://…`: one POST per message.
    Http(HttpUrl),
    /// `file:PATH`: one line per message at the end of a file.
    File(PathBuf),
    /// `unix:PATH`: lines to a Unix socket, acknowledged with OK.
    Unix(PathBuf),
    /// `forward:STREAM`: publishes to another stream.
    Forward(TopicName),
    /// `sleep:20ms..50ms`: only waits.
    Sleep(SleepRange),
}

/// The error of text that is not a [`HandlerSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// The scheme is unknown.
    #[error(
        "unknown handler {0:?}: use print, exec:COMMAND, pipe:COMMAND, http://HOST/PATH, https://HOST/PATH, unix:PATH, forward:STREAM, file:PATH or sleep:20ms..50ms"
    )]
    Unknown(String),
    /// `exec:` or `pipe:` without a command.
    #[error("handler \"{0}:\" names no command: use {0}:COMMAND, as in {0}:./import.sh")]
    NoCommand(String),
    /// `file:` without a path.
    #[error("handler \"file:\" names no file: use file:PATH, as in file:events.jsonl")]
    NoPath,
    /// `unix:` without a valid socket path.
    #[error(transparent)]
    Socket(#[from] InvalidEndpoint),
    /// The name after `forward:` is not a valid stream.
    #[error(transparent)]
    Stream(#[from] InvalidName),
    /// Not a URL with a host.
    #[error("invalid URL {url:?} ({why}): use http://HOST[:PORT]/PATH")]
    Url {
        /// The text as given.
        url: String,
        /// The reason.
        why: String,
    },
    /// Neither a duration nor a range of durations.
    #[error("invalid time {0:?} to sleep: use sleep:25ms or sleep:20ms..50ms, the shorter first")]
    Sleep(String),
}

impl FromStr for HandlerSpec {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, InvalidSpec> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return if text == "print" { Ok(Self::Print) } else { Err(InvalidSpec::Unknown(text.to_owned())) };
        };
        match scheme {
            "exec" | "pipe" if rest.trim().is_empty() => Err(InvalidSpec::NoCommand(scheme.to_owned())),
            "exec" => Ok(Self::Exec(rest.to_owned())),
            "pipe" => Ok(Self::Pipe(rest.to_owned())),
            "http" | "https" => text.parse().map(Self::Http),
            "file" if rest.is_empty() => Err(InvalidSpec::NoPath),
            "file" => Ok(Self::File(rest.into())),
            "unix" => match text.parse()? {
                Endpoint::Unix(path) => Ok(Self::Unix(path)),
                Endpoint::Unixgram(_) | Endpoint::Tcp(_) | Endpoint::Udp(_) => {
                    Err(InvalidSpec::Unknown(text.to_owned()))
                }
            },
            "forward" => Ok(Self::Forward(TopicName::new(rest)?)),
            "sleep" => rest.parse().map(Self::Sleep),
            _ => Err(InvalidSpec::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for HandlerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Print => f.write_str("print"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Pipe(command) => write!(f, "pipe:{command}"),
            Self::Http(url) => f.write_str(&url.text),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Forward(stream) => write!(f, "forward:{stream}"),
            Self::Sleep(range) => write!(f, "sleep:{range}"),
        }
    }
}

/// A URL to POST to, with the text it was parsed from.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    text: String,
    url: Url,
}

impl HttpUrl {
    /// Returns the URL, with its user and password.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns scheme, host, port and path: user, password and query may be secret.
    pub fn shown(&self) -> String {
        shown(&self.url)
    }
}

/// Returns `url` without user, password, query and fragment, which may be secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // These fail only for a URL without a host, which has no user either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

impl FromStr for HttpUrl {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, InvalidSpec> {
        let invalid = |why: &str| InvalidSpec::Url { url: text.to_owned(), why: why.to_owned() };
        // The URL standard reads "http:foo" and "http:///foo" as "http://foo": a typing error here.
        let authority = text.split_once("://").map(|(_, rest)| rest);
        if authority.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Err(invalid("no host"));
        }
        let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("neither http nor https"));
        }
        Ok(Self { text: text.to_owned(), url })
    }
}

impl fmt::Debug for HttpUrl {
    /// Shows the URL without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

/// The range of times to sleep, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepRange {
    shortest: Duration,
    longest: Duration,
}

impl SleepRange {
    /// Creates a range; `None` if it is empty.
    pub fn new(shortest: Duration, longest: Duration) -> Option<Self> {
        (shortest <= longest).then_some(Self { shortest, longest })
    }

    /// Returns the shortest time.
    pub fn shortest(&self) -> Duration {
        self.shortest
    }

    /// Returns the longest time.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

impl FromStr for SleepRange {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, InvalidSpec> {
        let invalid = || InvalidSpec::Sleep(text.to_owned());
        let time = |text: &str| humantime::parse_duration(text.trim()).map_err(|_| invalid());
        let (shortest, longest) = match text.split_once("..") {
            Some((shortest, longest)) => (time(shortest)?, time(longest)?),
            None => (time(text)?, time(text)?),
        };
        Self::new(shortest, longest).ok_or_else(invalid)
    }
}

impl fmt::Display for SleepRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shortest, longest) = (humantime::format_duration(self.shortest), humantime::format_duration(self.longest));
        match self.shortest == self.longest {
            true => shortest.fmt(f),
            false => write!(f, "{shortest}..{longest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_they_were_typed() {
        for text in [
            "print",
            "exec:./import.sh --fast 'a b' | wc",
            "pipe:./import.sh --fast 'a b' | wc",
            "http://user:secret@localhost:8080/hook?a=b",
            "https://example.org",
            "file:/var/log/a:b.jsonl",
            "unix:/run/next",
            "forward:bar",
            "sleep:20ms..50ms",
            "sleep:25ms",
            "sleep:0s",
        ] {
            assert_eq!(text.parse::<HandlerSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_error_is_one_line_with_the_input_and_the_remedy() {
        for (text, start) in [
            ("foo", r#"unknown handler "foo": use print, exec:COMMAND, pipe:COMMAND, http"#),
            ("", r#"unknown handler "": use print"#),
            ("print:json", r#"unknown handler "print:json": use print"#),
            ("a\nb", r#"unknown handler "a\nb": use print"#),
            ("exec: ", "handler \"exec:\" names no command: use exec:COMMAND"),
            ("pipe:", "handler \"pipe:\" names no command: use pipe:COMMAND, as in pipe:./import.sh"),
            ("file:", "handler \"file:\" names no file: use file:PATH"),
            ("unix:", r#"invalid address "unix:": use unix:/PATH"#),
            ("forward:a b", r#"invalid "#),
            ("http:", r#"invalid URL "http:" (no host): use http://HOST"#),
            ("http:///path", r#"invalid URL "http:///path" (no host): use http://HOST"#),
            ("http://a:port/", r#"invalid URL "http://a:port/" (invalid port number): use http://HOST"#),
            ("sleep:", r#"invalid time "" to sleep: use sleep:25ms"#),
            ("sleep:5", r#"invalid time "5" to sleep: use sleep:25ms"#),
            (
                "sleep:50ms..20ms",
                r#"invalid time "50ms..20ms" to sleep: use sleep:25ms or sleep:20ms..50ms, the shorter"#,
            ),
            ("sleep:..20ms", r#"invalid time "..20ms" to sleep: use"#),
        ] {
            let error = text.parse::<HandlerSpec>().unwrap_err().to_string();
            assert!(error.starts_with(start), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn urls_are_displayed_without_secrets() {
        let url: HttpUrl = "http://user:secret@localhost:8080/hook?token=secret#secret".parse().unwrap();
        assert_eq!(url.shown(), "http://localhost:8080/hook");
        assert_eq!(format!("{url:?}"), r#""http://localhost:8080/hook""#);
    }
}
