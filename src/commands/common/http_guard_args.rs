//! Names and web pages that may use an HTTP server here: the same flags in every command that
//! serves HTTP.

use mqueue::http::{BrowserGuard, Origin};

/// Requests from browsers.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Requests from browsers")]
pub(crate) struct HttpGuardArgs {
    /// Host that requests may name, besides IP addresses, localhost and the names of this machine;
    /// without a port; repeatable [default: none]
    #[arg(long, env = "MQUEUE_ALLOW_HOST", value_name = "HOST", value_delimiter = ',', value_parser = host)]
    pub allow_host: Vec<String>,

    /// Origin of web pages that may send requests and read the answers: http://HOST[:PORT] or
    /// https://HOST[:PORT]; repeatable [default: none]
    #[arg(long, env = "MQUEUE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<Origin>,
}

fn host(text: &str) -> Result<String, String> {
    let is_host = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_host.then(|| text.to_owned()).ok_or_else(|| "use a host's name, without a port".to_owned())
}

impl HttpGuardArgs {
    /// Adds the hosts and origins to those that a server allows.
    pub(crate) fn extend(&self, guard: BrowserGuard) -> BrowserGuard {
        let guard = self.allow_host.iter().fold(guard, |guard, host| guard.with_host(host));
        self.allow_origin.iter().cloned().fold(guard, BrowserGuard::with_origin)
    }
}
