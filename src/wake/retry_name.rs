//! The names of retry streams, which carry the messages redriven to one group of a stream.
//!
//! A retry stream belongs to the group that it is for: the consumers of that group read both
//! streams.

use crate::proto::{ChannelName, TopicName};

const END: &str = ".retry";
const HASH_DIGITS: usize = 16;
const MAX_NAME: usize = 64;
pub(super) const EPHEMERAL: &str = "#ephemeral";

/// Returns the name of the retry stream of `group` of `stream`: both names, as far as there is
/// room, and a hash that tells `a.b` and `c` from `a` and `b.c`.
pub fn stream_of(stream: &TopicName, group: &ChannelName) -> TopicName {
    let hash = fnv(stream.as_str().bytes().chain([0]).chain(group.as_str().bytes()));
    let end = format!(".{hash:0HASH_DIGITS$x}{END}");
    let bare = |name: &str| name.trim_end_matches(EPHEMERAL).to_owned();
    let mut names = format!("{}.{}", bare(stream.as_str()), bare(group.as_str()));
    names.truncate(MAX_NAME - end.len());
    TopicName::new(&(names + &end)).expect("parts of names, and hexadecimal digits")
}

/// FNV-1a, a hash that is the same on every machine and in every version.
pub(super) fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns the part of a retry stream's name before its hash; `None` for a name of another form.
fn names_in(retry: &str) -> Option<&str> {
    let (names, hash) = retry.strip_suffix(END)?.rsplit_once('.')?;
    (hash.len() == HASH_DIGITS && hash.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(names)
}

/// True for a name of the form of a retry stream's.
pub fn is_retry_stream(name: &str) -> bool {
    names_in(name).is_some()
}

/// True for the retry stream of this group.
pub fn is_retry_stream_of(retry: &str, stream: &str, group: &str) -> bool {
    let names = TopicName::new(stream).ok().zip(ChannelName::new(group).ok());
    names.is_some_and(|(stream, group)| stream_of(&stream, &group).as_str() == retry)
}

/// Returns the stream whose group `group` the stream `retry` is for; `None` if it is no retry
/// stream of this group. `streams` are all streams that exist: a long name is cut off in that of
/// its retry stream.
pub fn origin_of<'a>(retry: &str, group: &str, streams: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let names = names_in(retry)?;
    let is_origin = |stream: &String| {
        let bare = stream.trim_end_matches(EPHEMERAL);
        let may_be = names.starts_with(bare) || bare.starts_with(names);
        may_be && is_retry_stream_of(retry, stream, group)
    };
    // the stream may be gone
    let bare = names.strip_suffix(group.trim_end_matches(EPHEMERAL)).and_then(|rest| rest.strip_suffix('.'));
    let written = bare.into_iter().flat_map(|bare| [bare.to_owned(), format!("{bare}{EPHEMERAL}")]);
    written.into_iter().find(is_origin).or_else(|| streams.into_iter().find(|stream| is_origin(stream)).cloned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn of(stream: &str, group: &str) -> String {
        let (stream, group) = (TopicName::new(stream).unwrap(), ChannelName::new(group).unwrap());
        stream_of(&stream, &group).as_str().to_owned()
    }

    #[test]
    fn each_group_of_each_stream_has_a_stream_of_its_own_with_a_valid_name() {
        let long = "x".repeat(64);
        let pairs = [("a.b", "c"), ("a", "b.c"), (&long, "a"), (&long, "b"), (&long[1..], "a"), ("a#ephemeral", "b.c")];
        let names: HashSet<String> = pairs.iter().map(|(stream, group)| of(stream, group)).collect();
        assert_eq!(names.len(), pairs.len(), "{names:?}");
        // the name must not change: later versions look for existing streams by it
        assert_eq!(of("foo", "mail"), "foo.mail.5da61d505f6a517e.retry");
    }

    #[test]
    fn the_origin_of_a_retry_stream_is_found_by_both_names() {
        let long = "x".repeat(64);
        let streams = ["other".to_owned(), long.clone()];
        for (stream, group) in [("a.b", "c"), ("a", "b.c"), (&long, "a"), ("a#ephemeral", "b.c"), ("ord", "g2")] {
            let retry = of(stream, group);
            assert!(is_retry_stream(&retry));
            assert_eq!(origin_of(&retry, group, &streams).as_deref(), Some(stream), "{retry}");
            assert_eq!(origin_of(&retry, "another", &streams), None, "{retry}");
        }
        assert_eq!(origin_of(&of(&long, "a"), "a", &[]), None, "its name is cut off");
        for name in ["foo.retry", "foo.mail.5da61d505f6a517.retry", "foo.mail.5da61d505f6a517e", "foo"] {
            assert!(!is_retry_stream(name) && origin_of(name, "mail", &streams).is_none(), "{name}");
        }
        // somebody made up the hash
        assert_eq!(origin_of("foo.mail.0123456789abcdef.retry", "mail", &streams), None);
    }
}
