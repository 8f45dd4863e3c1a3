//! Commands that are printed to be pasted, and their words: whatever a peer says is one word of them, and harmless.

/// A word of a shell command.
pub fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A name that NSQ allows, in a URL: `#` stands only in those of ephemeral streams and groups.
pub fn in_url(name: &str) -> String {
    name.replace('#', "%23")
}

/// A call of nsqd's HTTP API, for a shell.
pub fn post(http: &str, path: &str, stream: &str, group: Option<&str>) -> String {
    let group = group.map(|group| format!("&channel={}", in_url(group))).unwrap_or_default();
    let url = format!("http://{http}/{path}?topic={}{group}", in_url(stream));
    format!("curl -fsS -X POST {}", shell(&url))
}

/// The command that creates these groups of a stream on one nsqd, which has none of them yet. Each gets all that waits: a stream's first group
/// would get it alone, so the stream is paused until all are there.
pub fn create_groups(http: &str, stream: &str, groups: &[&str], is_paused: bool) -> String {
    let create = groups.iter().map(|group| post(http, "channel/create", stream, Some(group)));
    let create = create.collect::<Vec<_>>().join(" && ");
    if groups.len() < 2 || is_paused {
        return create;
    }
    let [pause, unpause] = ["topic/pause", "topic/unpause"].map(|path| post(http, path, stream, None));
    format!("{pause} && {{ {create}; made=$?; {unpause} && test $made = 0; }}")
}

/// The command that asks for the name of a stream's first group, and creates it: it gets all that waits, so which one it is only people know.
pub fn create_first_group(http: &str, stream: &str) -> String {
    let url = shell(&format!("http://{http}/channel/create?topic={}", in_url(stream)));
    format!(
        "printf 'its group: ' >&2 && read -r group && curl -fsS -X POST -G --data-urlencode \"channel=$group\" {url}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_where_they_need_it() {
        assert_eq!(shell("/run/mqueue/a@1.sock"), "/run/mqueue/a@1.sock");
        assert_eq!(shell(r"a\x2db it's"), r"'a\x2db it'\''s'");
        assert_eq!(shell("$(rm)"), "'$(rm)'");
        assert_eq!(shell(""), "''");
    }

    #[test]
    fn a_stream_is_paused_while_it_gets_several_groups() {
        let one = create_groups("a:1", "foo", &["x#ephemeral"], false);
        assert_eq!(one, "curl -fsS -X POST 'http://a:1/channel/create?topic=foo&channel=x%23ephemeral'");
        let two = create_groups("a:1", "foo", &["x", "y"], false);
        assert!(two.starts_with("curl -fsS -X POST 'http://a:1/topic/pause?topic=foo' && { curl "), "{two}");
        assert!(two.ends_with("curl -fsS -X POST 'http://a:1/topic/unpause?topic=foo' && test $made = 0; }"), "{two}");
        assert!(!create_groups("a:1", "foo", &["x", "y"], true).contains("pause"), "who paused it goes on with it");
    }
}
