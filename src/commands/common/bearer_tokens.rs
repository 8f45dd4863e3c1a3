//! The file of bearer tokens: one token a line, with its scopes.
//!
//! ```text
//!  # a comment
//!  TOKEN                                          all scopes
//!  TOKEN publish streams=orders                   publishes to the stream orders
//!  TOKEN take streams=orders groups=mail,billing  takes jobs for two groups of it
//!  TOKEN act name=alice                           does actions on the web page, logged as alice's
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use mqueue::cluster::QueueTarget;
use mqueue::io_error::describe;
use mqueue::plural::count;
use mqueue::proto::{ChannelName, TopicName};
use subtle::ConstantTimeEq;

/// The longest file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The longest name of a token.
const MAX_NAME: usize = 64;

/// A file of tokens that can be read again.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    tokens: RwLock<Arc<BearerTokens>>,
}

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Fails if the file cannot be read or has no valid tokens.
    pub(crate) fn read(path: PathBuf) -> Result<Self, String> {
        let tokens = RwLock::new(Arc::new(BearerTokens::read(&path)?));
        Ok(Self { path, tokens })
    }

    /// Reads the file again. A file that cannot be used is logged, and the tokens before stay
    /// valid.
    pub(crate) fn reload(&self) {
        match BearerTokens::read(&self.path) {
            Ok(tokens) => {
                tracing::info!("{} read again", count(tokens.count(), "bearer token"));
                *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
            }
            Err(error) => tracing::error!(%error, "bearer tokens not read again; the ones before stay in use"),
        }
    }

    /// Returns the scopes that a token has now; `None` if it is unknown.
    pub(crate) fn scopes(&self, sent: &[u8]) -> Option<Arc<TokenScopes>> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner).clone();
        tokens.scopes(sent).cloned().map(Arc::new)
    }
}

/// Returns the token that a request sends; empty if it sends none.
pub(crate) fn sent_token(headers: &HeaderMap) -> &[u8] {
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let is_bearer = given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer "));
    if is_bearer { given[7..].trim_ascii() } else { b"" }
}

/// The tokens of a file; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BearerTokens(Vec<BearerToken>);

/// A token and its scopes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BearerToken {
    secret: String,
    scopes: TokenScopes,
}

/// The requests that a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenScopes {
    /// The token's name in logs.
    name: String,
    publish: bool,
    take: bool,
    act: bool,
    /// The streams to publish to, to take from and to act on; `None`: all.
    streams: Option<BTreeSet<TopicName>>,
    /// The groups to take for and to act on; `None`: all.
    groups: Option<BTreeSet<ChannelName>>,
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl BearerTokens {
    /// Reads a file; warns if every user can read it. An error names the line, and no token.
    ///
    /// # Errors
    /// Fails if the file cannot be read, has an invalid line, or no token.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let unreadable = |e: std::io::Error| format!("cannot read {path:?}: {}", describe(&e));
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode();
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!("{path:?} is longer than 1 MiB: it is no file of tokens"));
        }
        let text = String::from_utf8(bytes).map_err(|_| format!("{path:?} is not text: write one token a line"))?;
        let tokens = Self::parse(&text).map_err(|why| format!("{path:?}: {why}"))?;
        if mode & 0o004 != 0 {
            tracing::warn!("every user of this machine can read the tokens in {path:?}: chmod o-r makes them secret");
        }
        if tokens.0.is_empty() {
            return Err(format!("no token in {path:?}: write the token into the file"));
        }
        Ok(tokens)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens: Vec<BearerToken> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
            let Some(secret) = words.next() else { continue };
            let wrong = |why: String| format!("line {}: {why}", index + 1);
            if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(wrong(
                    "invalid token: use letters, digits and other printable ASCII characters".to_owned(),
                ));
            }
            if tokens.iter().any(|token| token.secret == secret) {
                return Err(wrong(
                    "this token is in an earlier line, too: write all its scopes in one line".to_owned(),
                ));
            }
            let scopes = TokenScopes::parse(format!("the token of line {}", index + 1), words).map_err(wrong)?;
            tokens.push(BearerToken { secret: secret.to_owned(), scopes });
        }
        Ok(Self(tokens))
    }

    /// The number of tokens.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the token to send: the first.
    pub(crate) fn first(&self) -> &str {
        &self.0[0].secret
    }

    /// Returns the scopes of a token that was sent. Takes the same time for every token.
    pub(crate) fn scopes(&self, sent: &[u8]) -> Option<&TokenScopes> {
        let same = |token: &BearerToken| bool::from(token.secret.as_bytes().ct_eq(sent));
        self.0.iter().fold(None, |found, token| if same(token) { Some(&token.scopes) } else { found })
    }
}

impl TokenScopes {
    /// Parses the words after a token. `unnamed` is its name if they have none.
    fn parse<'a>(unnamed: String, words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut scopes = Self { name: unnamed, publish: false, take: false, act: false, streams: None, groups: None };
        for word in words {
            match word.split_once('=') {
                None if word == "publish" => scopes.publish = true,
                None if word == "take" => scopes.take = true,
                None if word == "act" => scopes.act = true,
                Some(("name", name)) => scopes.name = token_name(name)?,
                Some(("streams", list)) if scopes.streams.is_none() => scopes.streams = Some(names(list)?),
                Some(("groups", list)) if scopes.groups.is_none() => scopes.groups = Some(names(list)?),
                Some(("streams" | "groups", _)) => {
                    return Err("streams= or groups= twice: separate names by commas".into());
                }
                None | Some(_) => {
                    let known = "use publish, take, act, name=NAME, streams=NAME,NAME and groups=NAME,NAME";
                    return Err(format!("unknown scope: {known}"));
                }
            }
        }
        if !scopes.publish && !scopes.take && !scopes.act {
            (scopes.publish, scopes.take, scopes.act) = (true, true, true);
        }
        match scopes.groups.is_some() && !scopes.take && !scopes.act {
            true => Err("groups= is for take and act: add one of them".into()),
            false => Ok(scopes),
        }
    }

    /// Returns the token's name in logs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the scope that an action on the stream or group needs and this token lacks; `Ok` if
    /// none. A token of some groups may not act on whole streams.
    pub(crate) fn may_act(&self, target: &QueueTarget) -> Result<(), String> {
        if !self.act {
            return Err("the scope act".to_owned());
        }
        self.has_stream(&target.stream)?;
        let Some(groups) = &self.groups else { return Ok(()) };
        match &target.group {
            Some(group) if groups.contains(group) => Ok(()),
            Some(group) => Err(format!("group {group} in groups=")),
            None => Err("whole streams: it has groups=".to_owned()),
        }
    }

    /// Returns the scope that publishing to the stream needs and this token lacks; `Ok` if none.
    pub(crate) fn may_publish(&self, stream: &TopicName) -> Result<(), String> {
        match self.publish {
            true => self.has_stream(stream),
            false => Err("the scope publish".to_owned()),
        }
    }

    /// Returns the scope that taking the group's jobs needs and this token lacks; `Ok` if none.
    pub(crate) fn may_take(&self, stream: &TopicName, group: &ChannelName) -> Result<(), String> {
        if !self.take {
            return Err("the scope take".to_owned());
        }
        self.has_stream(stream)?;
        match self.groups.as_ref().is_none_or(|groups| groups.contains(group)) {
            true => Ok(()),
            false => Err(format!("group {group} in groups=")),
        }
    }

    /// Returns the scope that answering any job needs and this token lacks; `Ok` if none.
    pub(crate) fn may_answer(&self) -> Result<(), String> {
        if self.take { Ok(()) } else { Err("the scope take".to_owned()) }
    }

    fn has_stream(&self, stream: &TopicName) -> Result<(), String> {
        match self.streams.as_ref().is_none_or(|streams| streams.contains(stream)) {
            true => Ok(()),
            false => Err(format!("stream {stream} in streams=")),
        }
    }
}

/// Reads the name of a token: the log shows it as it is.
fn token_name(name: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_alphanumeric() || "._-@+".contains(c);
    match !name.is_empty() && name.chars().count() <= MAX_NAME && name.chars().all(is_allowed) {
        true => Ok(name.to_owned()),
        false => Err(format!("invalid name=: use letters, digits, '.', '_', '-', '@' and '+', at most {MAX_NAME}")),
    }
}

/// Parses names that are separated by commas.
fn names<T: FromStr<Err: fmt::Display> + Ord>(list: &str) -> Result<BTreeSet<T>, String> {
    list.split(',').map(|name| name.parse().map_err(|e| format!("{e}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BearerTokens, String> {
        BearerTokens::parse(text)
    }

    #[test]
    fn a_line_is_a_token_with_its_scopes() {
        let tokens = parse(
            "# who: what\nall\n\n  pub publish streams=a,b # the producer\r\ntake take groups=mail\nboth streams=a take publish\nlimited streams=a\n",
        )
        .unwrap();
        assert_eq!((tokens.count(), tokens.first()), (5, "all"));
        let (a, c): (TopicName, TopicName) = ("a".parse().unwrap(), "c".parse().unwrap());
        let (mail, other): (ChannelName, ChannelName) = ("mail".parse().unwrap(), "other".parse().unwrap());
        let may = |token: &str| {
            let scopes = tokens.scopes(token.as_bytes()).unwrap();
            let publish = [&a, &c].map(|stream| scopes.may_publish(stream).is_ok());
            let take = [(&a, &mail), (&a, &other), (&c, &mail)].map(|(s, g)| scopes.may_take(s, g).is_ok());
            (publish, take, scopes.may_answer().is_ok())
        };
        assert_eq!(may("all"), ([true; 2], [true; 3], true));
        assert_eq!(may("pub"), ([true, false], [false; 3], false));
        assert_eq!(may("take"), ([false; 2], [true, false, true], true));
        for token in ["both", "limited"] {
            assert_eq!(may(token), ([true, false], [true, true, false], true), "{token}");
        }
        for unknown in ["", "al", "all ", "publish", "#", "alll"] {
            assert_eq!(tokens.scopes(unknown.as_bytes()), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_token_that_acts_has_a_name_and_its_streams_and_groups() {
        let tokens = parse("all\nalice act name=alice\npub publish\nmail act streams=a groups=mail name=m\n").unwrap();
        let may = |token: &str, target: &str| {
            tokens.scopes(token.as_bytes()).unwrap().may_act(&target.parse().unwrap()).is_ok()
        };
        for (token, allowed) in [("all", [true; 4]), ("alice", [true; 4]), ("pub", [false; 4])] {
            assert_eq!(["a", "b", "a/mail", "a/x"].map(|target| may(token, target)), allowed, "{token}");
        }
        assert_eq!(["a", "b/mail", "a/mail", "a/x"].map(|it| may("mail", it)), [false, false, true, false]);
        let name = |token: &str| tokens.scopes(token.as_bytes()).unwrap().name().to_owned();
        assert_eq!([name("all"), name("alice"), name("mail")], ["the token of line 1", "alice", "m"]);
        assert!(tokens.scopes(b"alice").unwrap().may_answer().is_err(), "it takes no jobs");
    }

    #[test]
    fn invalid_lines_are_refused_and_no_token_is_shown() {
        for (text, words) in [
            ("secret\nsecret2 publsh", "line 2: unknown scope"),
            ("secret publish,take", "line 1: unknown scope"),
            ("secret publish groups=a", "line 1: groups= is for take and act"),
            ("secret name=", "line 1: invalid name="),
            ("secret name=a\u{1b}[2Jb", "line 1: invalid name="),
            ("secret streams=a/b", "line 1: invalid"),
            ("secret streams=", "line 1: invalid"),
            ("secret streams=a streams=b", "line 1: streams= or groups= twice"),
            ("secret\nsecret take", "line 2: this token is in an earlier line"),
            ("secrét", "line 1: invalid token"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.starts_with(words) && !refused.contains("secr"), "{text:?}: {refused}");
        }
        assert!(!format!("{:?}", parse("secret").unwrap()).contains("secret"));
    }

    #[test]
    fn a_missing_or_empty_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(BearerTokens::read(&path).unwrap_err().starts_with("cannot read"));
        std::fs::write(&path, "# none\n").unwrap();
        assert!(BearerTokens::read(&path).unwrap_err().starts_with("no token in"));
        std::fs::write(&path, "x".repeat(MAX_FILE as usize + 1)).unwrap();
        assert!(BearerTokens::read(&path).unwrap_err().contains("longer than 1 MiB"));
    }
}
