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

/// Commands that call HTTP APIs, with the options for those with TLS. An address is `HOST:PORT` or
/// `https://HOST:PORT`.
#[derive(Debug, Clone, Default)]
pub struct ApiCommands {
    /// curl's options for addresses with TLS, each a quoted word.
    curl_options: String,
    /// The name in the server's certificate, if it is not the host that is connected to.
    server_name: Option<String>,
    /// The flags of `mqueue` for addresses with TLS, each a quoted word.
    flags: String,
}

impl ApiCommands {
    /// Returns the commands with these options of curl and flags of `mqueue` for addresses with
    /// TLS, and this name in certificates.
    pub fn with_tls(curl_options: &[String], server_name: Option<&str>, flags: String) -> Self {
        let curl_options = curl_options.iter().map(|option| format!(" {}", shell(option))).collect();
        Self { curl_options, server_name: server_name.map(str::to_owned), flags }
    }

    /// Returns the curl command that reads `path` of the API at this address.
    pub fn get(&self, http: &str, path: &str) -> String {
        let Some(address) = http.strip_prefix("https://") else {
            return format!("curl -fsS {}", shell(&format!("http://{http}/{path}")));
        };
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        let (connect, host) = match &self.server_name {
            Some(name) => (format!(" --connect-to {}", shell(&format!("::{address}"))), format!("{name}:{port}")),
            None => (String::new(), address.to_owned()),
        };
        format!("curl -fsS{}{connect} {}", self.curl_options, shell(&format!("https://{host}/{path}")))
    }

    /// Returns the command that lists a stream of an nsqd, or all.
    pub fn list(&self, http: &str, stream: Option<&str>) -> String {
        match stream {
            Some(stream) => self.mqueue("ls --watch=0s", http, &[shell(stream)]),
            None => self.mqueue("ls --all --watch=0s", http, &[]),
        }
    }

    /// Returns the command that unpauses a stream or a group on an nsqd.
    pub fn unpause(&self, http: &str, stream: &str, group: Option<&str>) -> String {
        let target = group.map_or_else(|| stream.to_owned(), |group| format!("{stream}/{group}"));
        self.mqueue("unpause", http, &[shell(&target)])
    }

    /// Returns the command that creates these groups of a stream on an nsqd that has none of them:
    /// each gets the whole backlog.
    pub fn create_groups(&self, http: &str, stream: &str, groups: &[&str]) -> String {
        let targets: Vec<String> = groups.iter().map(|group| shell(&format!("{stream}/{group}"))).collect();
        self.mqueue("create", http, &targets)
    }

    /// Returns the command that asks for the name of a stream's first group and creates it. The
    /// first group gets the whole backlog, so the user has to choose it.
    pub fn create_first_group(&self, http: &str, stream: &str) -> String {
        let create = self.mqueue("create", http, &[format!("{}/\"$group\"", shell(stream))]);
        format!("printf 'its group: ' >&2 && read -r group && {create}")
    }

    /// Returns a command of `mqueue` that acts on one nsqd. `words` are quoted already.
    fn mqueue(&self, command: &str, http: &str, words: &[String]) -> String {
        let flags = if http.starts_with("https://") { &self.flags } else { "" };
        let end_of_flags = if words.iter().any(|word| word.starts_with('-')) { " --" } else { "" };
        let words: String = words.iter().map(|word| format!(" {word}")).collect();
        format!("mqueue {command} --nsqd-http-address={}{flags}{end_of_flags}{words}", shell(http))
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
    fn commands_of_mqueue_name_the_nsqd_and_quote_names() {
        let api = ApiCommands::default();
        assert_eq!(
            api.create_groups("a:1", "foo", &["x#ephemeral", "y"]),
            "mqueue create --nsqd-http-address=a:1 'foo/x#ephemeral' foo/y"
        );
        assert_eq!(api.unpause("a:1", "-x", None), "mqueue unpause --nsqd-http-address=a:1 -- -x");
        assert_eq!(api.unpause("a:1", "foo", Some("-g")), "mqueue unpause --nsqd-http-address=a:1 foo/-g");
        assert_eq!(api.list("a:1", None), "mqueue ls --all --watch=0s --nsqd-http-address=a:1");
        let first = api.create_first_group("a:1", "-foo");
        assert!(first.ends_with(r#"mqueue create --nsqd-http-address=a:1 -- -foo/"$group""#), "{first}");
    }

    #[test]
    fn addresses_with_tls_are_called_with_the_files() {
        let options = ["--cacert".to_owned(), "/it's $(a)/ca.pem".to_owned()];
        let api = ApiCommands::with_tls(&options, None, r" '--tls-ca-file=/it'\''s $(a)/ca.pem'".to_owned());
        assert_eq!(api.get("https://a:1", "info"), r"curl -fsS --cacert '/it'\''s $(a)/ca.pem' https://a:1/info");
        assert_eq!(
            api.list("https://a:1", Some("x")),
            r"mqueue ls --watch=0s --nsqd-http-address=https://a:1 '--tls-ca-file=/it'\''s $(a)/ca.pem' x"
        );
        assert_eq!(api.get("a:1", "info"), "curl -fsS http://a:1/info", "without TLS");
        assert_eq!(api.list("a:1", None), "mqueue ls --all --watch=0s --nsqd-http-address=a:1", "without TLS");
        let api = ApiCommands::with_tls(&[], Some("nsq.example"), String::new());
        let nodes = api.get("https://10.0.0.1:2", "nodes");
        assert_eq!(nodes, "curl -fsS --connect-to ::10.0.0.1:2 https://nsq.example:2/nodes");
    }
}
