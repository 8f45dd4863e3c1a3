//! Protection from web pages: a page in a browser on this machine, or in its network, must not use
//! a server here.
//!
//! A page can send requests to any address. Its own name may be made to resolve to this machine
//! (DNS rebinding), which the `Host` header shows; otherwise the browser adds `Origin` and
//! `Sec-Fetch-Site`. Other clients send neither, and a `Host` that is an address or a name of this
//! machine.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use nix::unistd::gethostname;

use crate::proto::excerpt;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The hosts that requests may name, and the origins of pages that may send requests.
#[derive(Debug, Clone)]
pub struct BrowserGuard {
    /// In lower case, without ports.
    hosts: Vec<String>,
    origins: Vec<Origin>,
    any_host: bool,
}

/// The origin of a web page: `https://HOST[:PORT]`, in lower case and without the scheme's own
/// port; or `null`, that of a page without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// The reason why a request is refused, with the flag that allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ForeignRequest {
    Host(String),
    Origin(String),
    Site(String),
}

impl Default for BrowserGuard {
    /// Allows the names of this machine, and no other site's pages.
    fn default() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let host_name = gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let hosts = names_of(&host_name, &read("/etc/hosts"), &read("/etc/resolv.conf"));
        Self { hosts, origins: Vec::new(), any_host: false }
    }
}

impl BrowserGuard {
    /// Allows a host, named without a port.
    #[must_use]
    pub fn with_host(mut self, host: &str) -> Self {
        let host = plain_host(host);
        if !host.is_empty() {
            self.hosts.push(host);
        }
        self
    }

    /// Allows any host, for a server that no browser can connect to.
    #[must_use]
    pub fn with_any_host(mut self) -> Self {
        self.any_host = true;
        self
    }

    /// Allows the pages of an origin.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origins.push(origin);
        self
    }

    /// Returns true if there are origins whose pages are allowed.
    pub(super) fn has_origins(&self) -> bool {
        !self.origins.is_empty()
    }

    /// Checks a request; returns its `Origin` if that is an allowed one of another site.
    pub(super) fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        is_tls: bool,
    ) -> Result<Option<HeaderValue>, ForeignRequest> {
        let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        if !self.allows_host(host) {
            return Err(ForeignRequest::Host(excerpt(host)));
        }
        // the absolute form, as for a proxy
        if let Some(authority) = uri.authority()
            && !self.allows_host(authority.as_str().as_bytes())
        {
            return Err(ForeignRequest::Host(excerpt(authority.as_str().as_bytes())));
        }
        let mut allowed = None;
        for value in headers.get_all(header::ORIGIN) {
            let origin = value.to_str().ok().and_then(|text| text.parse::<Origin>().ok());
            match origin {
                Some(origin) if self.origins.contains(&origin) => allowed = Some(value.clone()),
                Some(origin) if origin.is_of(host, is_tls) => {}
                Some(_) | None => return Err(ForeignRequest::Origin(excerpt(value.as_bytes()))),
            }
        }
        match headers.get(SEC_FETCH_SITE) {
            Some(site) if allowed.is_none() && site != "same-origin" && site != "none" => {
                Err(ForeignRequest::Site(excerpt(site.as_bytes())))
            }
            Some(_) | None => Ok(allowed),
        }
    }

    fn allows_host(&self, header: &[u8]) -> bool {
        if header.is_empty() || self.any_host {
            return true;
        }
        let Ok(text) = std::str::from_utf8(header) else { return false };
        let (host, _) = split_port(text);
        if is_ip_address(host) || is_localhost(host) {
            return true;
        }
        let host = plain_host(host);
        self.hosts.contains(&host)
    }
}

impl fmt::Display for ForeignRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => {
                write!(f, "Host {host:?} is not a name of this server: --allow-host NAME allows another")
            }
            Self::Origin(origin) => {
                write!(f, "Origin {origin:?} is that of another site: --allow-origin ORIGIN allows its pages")
            }
            Self::Site(site) => write!(
                f,
                "Sec-Fetch-Site {site:?} is a request of another site's page: --allow-origin ORIGIN allows those with an Origin"
            ),
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("invalid origin {text:?}: use http://HOST[:PORT], https://HOST[:PORT] or null");
        if text == "null" {
            return Ok(Self(text.to_owned()));
        }
        let lower = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let (scheme, authority) = lower.split_once("://").ok_or_else(invalid)?;
        let (host, port) = split_port(authority);
        let is_plain = |text: &str, others: &[u8]| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
        };
        let has_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
        if !is_plain(scheme, b"+-.") || !is_plain(host, b"-._:[]") || !has_port {
            return Err(invalid());
        }
        match (scheme, port) {
            ("http", Some("80")) | ("https", Some("443")) | (_, None) => Ok(Self(format!("{scheme}://{host}"))),
            (_, Some(port)) => Ok(Self(format!("{scheme}://{host}:{port}"))),
        }
    }
}

impl Origin {
    /// Returns true if this is the origin of the pages of a server with this `Host`. A server
    /// without TLS may be behind a proxy with TLS.
    fn is_of(&self, host: &[u8], is_tls: bool) -> bool {
        let Some((scheme, authority)) = self.0.split_once("://") else { return false };
        if !(scheme == "https" || scheme == "http" && !is_tls) {
            return false;
        }
        let Ok(host) = std::str::from_utf8(host) else { return false };
        let (name, port) = split_port(host);
        let host = match (scheme, port) {
            ("http", Some("80")) | ("https", Some("443")) => name,
            (_, _) => host,
        };
        authority.eq_ignore_ascii_case(host)
    }
}

/// Splits `HOST[:PORT]`. The brackets of an IPv6 address stay.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    }
}

fn is_ip_address(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Returns true for `localhost` and the names below it, which browsers never ask DNS for.
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    let (rest, last) = host.split_at(host.len().saturating_sub("localhost".len()));
    last.eq_ignore_ascii_case(b"localhost") && (rest.is_empty() || rest.ends_with(b"."))
}

/// The form in which hosts are compared.
fn plain_host(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Returns the names of a machine: its host name, its other names in `/etc/hosts`, and its name in
/// the domains that `/etc/resolv.conf` searches.
fn names_of(host_name: &str, hosts: &str, resolver: &str) -> Vec<String> {
    let name = plain_host(host_name);
    if name.is_empty() {
        return Vec::new();
    }
    let short = name.split('.').next().unwrap_or_default().to_owned();
    let words = |line: &str| -> Vec<String> {
        line.split('#').next().unwrap_or_default().split_whitespace().map(plain_host).collect()
    };
    let mut names = vec![name.clone(), short.clone()];
    for line in hosts.lines().map(words).filter(|line| line.contains(&name) || line.contains(&short)) {
        names.extend(line.into_iter().skip(1));
    }
    for line in resolver.lines().map(words) {
        if line.first().is_some_and(|word| word == "search" || word == "domain") {
            names
                .extend(line[1..].iter().filter(|domain| !domain.is_empty()).map(|domain| format!("{short}.{domain}")));
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> BrowserGuard {
        let hosts = names_of("Box", "10.0.0.1 box.lan box alias # other\n10.0.0.2 far\n", "search example.org corp\n");
        BrowserGuard { hosts, origins: Vec::new(), any_host: false }
            .with_host("nsqd-1")
            .with_origin("http://pages.example:8080".parse().unwrap())
    }

    /// The answer to a request with these headers: the allowed origin, or the kind of refusal.
    fn check(headers: &[(&'static str, &str)], is_tls: bool) -> Result<Option<String>, &'static str> {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let checked = guard().check(&Uri::from_static("/x"), &map, is_tls);
        checked.map(|origin| origin.map(|it| it.to_str().unwrap().to_owned())).map_err(|refusal| match refusal {
            ForeignRequest::Host(_) => "host",
            ForeignRequest::Origin(_) => "origin",
            ForeignRequest::Site(_) => "site",
        })
    }

    #[test]
    fn addresses_and_the_names_of_this_machine_are_allowed_as_hosts() {
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:4151",
            "[::1]",
            "[::1]:80",
            "10.1.2.3:1",
            "localhost",
            "LocalHost:5000",
            "localhost.",
            "a.localhost:1",
            "box",
            "BOX:4151",
            "box.lan",
            "box.lan.:1",
            "alias",
            "box.example.org",
            "box.corp",
            "nsqd-1:4151",
        ] {
            assert_eq!(check(&[("host", host)], false), Ok(None), "{host:?}");
        }
        for host in [
            "evil.example",
            "evil.example:4151",
            "box.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "x",
            "127.0.0.1.evil.example",
            "other",
            "far",
            "nsqd-1.evil.example",
            "[evil]",
            "1.2.3",
            ":4151x",
            "nsqd-1@evil.example",
        ] {
            assert_eq!(check(&[("host", host)], false), Err("host"), "{host:?}");
        }
        assert_eq!(check(&[], false), Ok(None), "HTTP/1.0");
        let rebound = guard().check(&Uri::from_static("http://evil.example/x"), &HeaderMap::new(), false);
        assert_eq!(rebound, Err(ForeignRequest::Host("evil.example".to_owned())));
        let any = guard().with_any_host();
        let hosts = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("evil.example"))]);
        assert_eq!(any.check(&Uri::from_static("/"), &hosts, false), Ok(None));
    }

    #[test]
    fn pages_of_this_server_and_of_allowed_origins_may_send_requests() {
        let page = "http://pages.example:8080";
        for (host, origin, is_tls, expected) in [
            ("127.0.0.1:80", "http://127.0.0.1", false, Ok(None)),
            ("localhost:5000", "http://localhost:5000", false, Ok(None)),
            ("Box", "https://box", false, Ok(None)),
            ("box", "https://box", true, Ok(None)),
            ("box", "http://box", true, Err("origin")),
            ("localhost:5000", "http://localhost:5001", false, Err("origin")),
            ("localhost:5000", "http://localhost", false, Err("origin")),
            ("localhost:5000", "null", false, Err("origin")),
            ("localhost:5000", "", false, Err("origin")),
            ("", "http://", false, Err("origin")),
            ("localhost", "ftp://localhost", false, Err("origin")),
            ("localhost", page, false, Ok(Some(page.to_owned()))),
            ("localhost", "http://pages.example", false, Err("origin")),
            ("evil.example", page, false, Err("host")),
        ] {
            assert_eq!(check(&[("host", host), ("origin", origin)], is_tls), expected, "{host} {origin}");
        }
        let two = check(&[("host", "localhost"), ("origin", page), ("origin", "http://evil.example")], false);
        assert_eq!(two, Err("origin"), "each Origin counts");
    }

    #[test]
    fn requests_of_other_sites_need_an_allowed_origin() {
        let site = |site, origin: &[(&'static str, &str)]| {
            check(&[&[("host", "localhost"), ("sec-fetch-site", site)], origin].concat(), false)
        };
        for (value, allowed) in [("none", true), ("same-origin", true), ("same-site", false), ("cross-site", false)] {
            assert_eq!(site(value, &[]).is_ok(), allowed, "{value}");
        }
        assert_eq!(site("cross-site", &[("origin", "http://localhost")]), Err("site"));
        assert!(site("cross-site", &[("origin", "http://pages.example:8080")]).is_ok());
        assert_eq!(site("same-origin", &[("origin", "http://evil.example")]), Err("origin"));
    }

    #[test]
    fn origins_are_compared_in_one_form() {
        for (text, form) in [
            ("HTTP://Pages.Example:80/", Some("http://pages.example")),
            ("https://pages.example:443", Some("https://pages.example")),
            ("https://[::1]:8443", Some("https://[::1]:8443")),
            ("null", Some("null")),
            ("*", None),
            ("pages.example", None),
            ("http://pages.example/x", None),
            ("http://pages.example:x", None),
            ("http://user@pages.example", None),
        ] {
            assert_eq!(text.parse::<Origin>().ok().map(|origin| origin.0).as_deref(), form, "{text}");
        }
    }

    #[test]
    fn refusals_are_one_line_with_the_flag() {
        let refusal = ForeignRequest::Host(excerpt(b"evil.example\r\nx")).to_string();
        assert!(refusal.contains("--allow-host") && !refusal.contains('\n'), "{refusal}");
    }
}
