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

/// The curl commands for HTTP APIs, with the options for those with TLS. An address is `HOST:PORT`
/// or `https://HOST:PORT`.
#[derive(Debug, Clone, Default)]
pub struct Curl {
    /// The options for addresses with TLS, each a quoted word.
    options: String,
    /// The name in the server's certificate, if it is not the host that is connected to.
    server_name: Option<String>,
}

impl Curl {
    /// Returns the commands with these options for addresses with TLS, and this name in
    /// certificates.
    pub fn with_tls(options: &[String], server_name: Option<&str>) -> Self {
        let options = options.iter().map(|option| format!(" {}", shell(option))).collect();
        Self { options, server_name: server_name.map(str::to_owned) }
    }

    /// Returns the command that reads `path` of the API at this address.
    pub fn get(&self, http: &str, path: &str) -> String {
        self.call("", http, path)
    }

    /// Returns the command that calls nsqd's HTTP API.
    pub fn post(&self, http: &str, path: &str, stream: &str, group: Option<&str>) -> String {
        let group = group.map(|group| format!("&channel={}", in_url(group))).unwrap_or_default();
        self.call(" -X POST", http, &format!("{path}?topic={}{group}", in_url(stream)))
    }

    /// Returns the command that creates these groups of a stream on an nsqd that has none of them.
    /// Each group gets the whole backlog: the first group alone would get it, so the stream is
    /// paused until all groups exist.
    pub fn create_groups(&self, http: &str, stream: &str, groups: &[&str], is_paused: bool) -> String {
        let create = groups.iter().map(|group| self.post(http, "channel/create", stream, Some(group)));
        let create = create.collect::<Vec<_>>().join(" && ");
        if groups.len() < 2 || is_paused {
            return create;
        }
        let [pause, unpause] = ["topic/pause", "topic/unpause"].map(|path| self.post(http, path, stream, None));
        format!("{pause} && {{ {create}; made=$?; {unpause} && test $made = 0; }}")
    }

    /// Returns the command that asks for the name of a stream's first group and creates it. The
    /// first group gets the whole backlog, so the user has to choose it.
    pub fn create_first_group(&self, http: &str, stream: &str) -> String {
        let path = format!("channel/create?topic={}", in_url(stream));
        let create = self.call(" -X POST -G --data-urlencode \"channel=$group\"", http, &path);
        format!("printf 'its group: ' >&2 && read -r group && {create}")
    }

    fn call(&self, method: &str, http: &str, path: &str) -> String {
        let Some(address) = http.strip_prefix("https://") else {
            return format!("curl -fsS{method} {}", shell(&format!("http://{http}/{path}")));
        };
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        let (connect, host) = match &self.server_name {
            Some(name) => (format!(" --connect-to {}", shell(&format!("::{address}"))), format!("{name}:{port}")),
            None => (String::new(), address.to_owned()),
        };
        format!("curl -fsS{}{connect}{method} {}", self.options, shell(&format!("https://{host}/{path}")))
    }
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
        let curl = Curl::default();
        let one = curl.create_groups("a:1", "foo", &["x#ephemeral"], false);
        assert_eq!(one, "curl -fsS -X POST 'http://a:1/channel/create?topic=foo&channel=x%23ephemeral'");
        let two = curl.create_groups("a:1", "foo", &["x", "y"], false);
        assert!(two.starts_with("curl -fsS -X POST 'http://a:1/topic/pause?topic=foo' && { curl "), "{two}");
        assert!(two.ends_with("curl -fsS -X POST 'http://a:1/topic/unpause?topic=foo' && test $made = 0; }"), "{two}");
        assert!(
            !curl.create_groups("a:1", "foo", &["x", "y"], true).contains("pause"),
            "who paused it goes on with it"
        );
    }

    #[test]
    fn addresses_with_tls_are_called_with_the_files() {
        let options = ["--cacert".to_owned(), "/it's $(a)/ca.pem".to_owned()];
        let curl = Curl::with_tls(&options, None);
        assert_eq!(
            curl.get("https://a:1", "stats?topic=x"),
            r"curl -fsS --cacert '/it'\''s $(a)/ca.pem' 'https://a:1/stats?topic=x'"
        );
        assert_eq!(curl.get("a:1", "info"), "curl -fsS http://a:1/info", "without TLS");
        let curl = Curl::with_tls(&[], Some("nsq.example"));
        let post = curl.post("https://10.0.0.1:2", "topic/unpause", "foo", None);
        assert_eq!(post, "curl -fsS --connect-to ::10.0.0.1:2 -X POST 'https://nsq.example:2/topic/unpause?topic=foo'");
    }
}
