//! Shell commands that are printed for pasting. A peer's text is always one quoted word in them.

/// Quotes a word for a shell, if it needs quotes.
pub fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Escapes a valid NSQ name for a URL: `#` stands only in ephemeral names.
pub fn in_url(name: &str) -> String {
    name.replace('#', "%23")
}

/// Returns the shell command that calls nsqd's HTTP API.
pub fn post(http: &str, path: &str, stream: &str, group: Option<&str>) -> String {
    let group = group.map(|group| format!("&channel={}", in_url(group))).unwrap_or_default();
    let url = format!("http://{http}/{path}?topic={}{group}", in_url(stream));
    format!("curl -fsS -X POST {}", shell(&url))
}

/// Returns the command that creates these groups of a stream on an nsqd that has none of them. Each
/// group gets the whole backlog: the first group alone would get it, so the stream is paused until
/// all groups exist.
pub fn create_groups(http: &str, stream: &str, groups: &[&str], is_paused: bool) -> String {
    let create = groups.iter().map(|group| post(http, "channel/create", stream, Some(group)));
    let create = create.collect::<Vec<_>>().join(" && ");
    if groups.len() < 2 || is_paused {
        return create;
    }
    let [pause, unpause] = ["topic/pause", "topic/unpause"].map(|path| post(http, path, stream, None));
    format!("{pause} && {{ {create}; made=$?; {unpause} && test $made = 0; }}")
}

/// Returns the command that asks for the name of a stream's first group and creates it. The first
/// group gets the whole backlog, so the user has to choose it.
pub fn create_first_group(http: &str, stream: &str) -> String {
    let url = shell(&format!("http://{http}/channel/create?topic={}", in_url(stream)));
    format!(
        "printf 'its group: ' >&2 && read -r group && curl -fsS -X POST -G --data-urlencode \"channel=$group\" {url}"
    )
}

/// Returns the command that creates a group by the consumer's own way; `brokers` are its flags.
pub fn create_by_consumer(stream: &str, group: &str, brokers: &str) -> String {
    format!("mqueue consumer --create --stream={} --group={}{brokers}", shell(stream), shell(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_if_necessary() {
        assert_eq!(shell("/run/mqueue/a@1.sock"), "/run/mqueue/a@1.sock");
        assert_eq!(shell(r"a\x2db it's"), r"'a\x2db it'\''s'");
        assert_eq!(shell("$(rm)"), "'$(rm)'");
        assert_eq!(shell(""), "''");
    }

    #[test]
    fn streams_are_paused_while_several_groups_are_created() {
        let one = create_groups("a:1", "foo", &["x#ephemeral"], false);
        assert_eq!(one, "curl -fsS -X POST 'http://a:1/channel/create?topic=foo&channel=x%23ephemeral'");
        let two = create_groups("a:1", "foo", &["x", "y"], false);
        assert!(two.starts_with("curl -fsS -X POST 'http://a:1/topic/pause?topic=foo' && { curl "), "{two}");
        assert!(two.ends_with("curl -fsS -X POST 'http://a:1/topic/unpause?topic=foo' && test $made = 0; }"), "{two}");
        assert!(!create_groups("a:1", "foo", &["x", "y"], true).contains("pause"), "who paused it goes on with it");
    }
}
