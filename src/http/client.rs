//! The builder of every HTTP client here, and reading of bounded bodies.

use reqwest::{ClientBuilder, Response, Url};

use crate::io_error::describe;

/// Returns a client builder, and installs a cryptography provider: without one reqwest panics, even
/// for plain HTTP. A provider that is already installed is kept.
fn default_client() -> ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientBuilder::new().user_agent(concat!("mqueue/", env!("CARGO_PKG_VERSION")))
}

/// Returns a client builder for plain HTTP. It loads no certificates, which a minimal system lacks,
/// so building always succeeds.
pub fn plain_client() -> ClientBuilder {
    default_client().tls_certs_only([])
}

/// Returns a client builder for this URL. Loopback addresses bypass any proxy. HTTPS needs the
/// system's certificates.
pub fn client_for(url: &Url) -> ClientBuilder {
    let client = if url.scheme() == "https" { default_client() } else { plain_client() };
    if is_this_machine(url) { client.no_proxy() } else { client }
}

/// Returns a client builder for this URL with these settings of TLS. Loopback addresses bypass any
/// proxy.
#[cfg(feature = "tls")]
pub fn client_with_tls(url: &Url, tls: &crate::net::tls::TlsClient) -> ClientBuilder {
    let client = default_client().tls_backend_preconfigured(tls.http_config());
    if is_this_machine(url) { client.no_proxy() } else { client }
}

/// Describes why a client could not be built, with the remedy.
pub fn build_error(error: &reqwest::Error) -> String {
    format!(
        "cannot use https: {}: install the package ca-certificates, or name a file of them in SSL_CERT_FILE",
        cause(error)
    )
}

/// True for `localhost` and loopback addresses.
fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Describes the root cause of an error: reqwest's own text repeats the URL with its secrets.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    #[cfg(feature = "tls")]
    if let Some(reason) = crate::net::tls::explain_cause(error) {
        return reason;
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(error) => describe(error),
        // hyper's words for an answer of another protocol
        None if cause.to_string().starts_with("invalid HTTP ") => {
            "the answer is not HTTP: is this its HTTP port?".to_owned()
        }
        None if cause.is::<reqwest::Error>() => "the request could not be sent".to_owned(),
        None => cause.to_string().to_lowercase(),
    }
}

/// The reason why a response body could not be read.
#[derive(Debug)]
pub enum BodyError {
    /// The body is longer than this limit, in bytes.
    TooLong(usize),
    /// The connection failed, or took too long.
    Broken(reqwest::Error),
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(limit) => write!(f, "it is longer than {limit} bytes"),
            Self::Broken(error) => f.write_str(&cause(error)),
        }
    }
}

/// Reads a response body of at most `limit` bytes; nothing else reads a server's bytes into memory
/// unbounded. The deadline is the request's timeout or the caller's.
pub async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLong(limit));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLong(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_bypass_proxies() {
        for (url, here) in [
            ("http://localhost:1/", true),
            ("http://127.0.0.1/", true),
            ("http://[::1]:8080/", true),
            ("http://10.0.0.1/", false),
            ("http://localhost.example.org/", false),
        ] {
            assert_eq!(is_this_machine(&url.parse().unwrap()), here, "{url}");
        }
    }
}
