//! AUTH: asks HTTP servers what a client may do (`internal/auth/authorizations.go`).

use std::time::Duration;

use regex_lite::Regex;
use reqwest::Client;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::http::client;
use crate::net::tls::TlsClient;

/// Maximum length of an answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The servers of `--auth-http-address`.
#[derive(Debug, Clone)]
pub struct AuthServers {
    /// The addresses as they were given.
    addresses: Vec<String>,
    urls: Vec<String>,
    method: AuthMethod,
    client: Client,
}

/// The method of requests to AUTH servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMethod {
    /// GET, with the parameters in the query.
    #[default]
    Get,
    /// POST, with the parameters in a JSON body, each of them a list: the secret is in no log of
    /// URLs.
    Post,
}

/// Facts about a client that AUTH servers get.
#[derive(Debug, Clone, Default)]
pub(super) struct AuthRequest {
    /// IP address of a TCP client; empty for a Unix socket.
    pub(super) remote_ip: String,
    pub(super) tls: bool,
    /// Common name in the client's certificate; may be empty.
    pub(super) common_name: String,
    pub(super) secret: String,
}

/// Permissions of a client, valid for a time.
#[derive(Debug)]
pub(super) struct Grants {
    pub(super) identity: String,
    pub(super) identity_url: String,
    expires: Instant,
    authorizations: Vec<Authorization>,
}

#[derive(Debug)]
struct Authorization {
    topic: Regex,
    channels: Vec<Regex>,
    subscribe: bool,
    publish: bool,
}

/// An AUTH server's answer.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    ttl: i64,
    #[serde(default)]
    identity: String,
    #[serde(default)]
    identity_url: String,
    #[serde(default)]
    authorizations: Option<Vec<AnswerItem>>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct AnswerItem {
    topic: String,
    channels: Option<Vec<String>>,
    permissions: Option<Vec<String>>,
}

impl AuthServers {
    /// `addresses` are `HOST:PORT` or URLs; one of them is asked, and the others in turn if it
    /// fails.
    pub fn new(
        addresses: &[String],
        method: AuthMethod,
        connect_timeout: Duration,
        request_timeout: Duration,
        tls: Option<&TlsClient>,
    ) -> Result<Self, String> {
        let url = |address: &String| match address.contains("://") {
            true => address.clone(),
            false => format!("http://{address}/auth"),
        };
        let urls: Vec<String> = addresses.iter().map(url).collect();
        for url in &urls {
            reqwest::Url::parse(url).map_err(|e| format!("invalid URL of an AUTH server: {e}"))?;
        }
        let builder = match tls {
            Some(tls) => client::plain_client().tls_backend_preconfigured(tls.http_config()),
            None => client::plain_client(),
        };
        let builder = builder.connect_timeout(connect_timeout).timeout(request_timeout).no_proxy();
        let client =
            builder.redirect(reqwest::redirect::Policy::none()).build().map_err(|e| client::build_error(&e))?;
        Ok(Self { addresses: addresses.to_vec(), urls, method, client })
    }

    /// The addresses as they were given.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Asks for a client's permissions. Fails if no server gives a valid answer.
    pub(super) async fn query(&self, request: &AuthRequest) -> Result<Grants, String> {
        let first = fastrand::usize(..self.urls.len());
        let mut errors = Vec::new();
        for url in self.urls[first..].iter().chain(&self.urls[..first]) {
            match self.ask(url, request).await {
                Ok(grants) => return Ok(grants),
                Err(error) => errors.push(format!("{}: {error}", shown(url))),
            }
        }
        Err(errors.join("; "))
    }

    async fn ask(&self, url: &str, request: &AuthRequest) -> Result<Grants, String> {
        let tls = if request.tls { "true" } else { "false" };
        let AuthRequest { remote_ip, common_name, secret, .. } = request;
        let parameters =
            [("remote_ip", remote_ip.as_str()), ("tls", tls), ("secret", secret), ("common_name", common_name)];
        let sending = match self.method {
            AuthMethod::Get => self.client.get(url).query(&parameters),
            AuthMethod::Post => {
                let body: serde_json::Map<_, _> =
                    parameters.iter().map(|(name, value)| ((*name).to_owned(), json!([value]))).collect();
                self.client.post(url).json(&body)
            }
        };
        let sending = sending.header("Accept", "application/vnd.nsq; version=1.0");
        let response = sending.send().await.map_err(|e| client::cause(&e))?;
        let status = response.status();
        let body = client::body(response, MAX_ANSWER).await.map_err(|e| e.to_string())?;
        match status.as_u16() {
            200 => Grants::parse(&body, Instant::now()),
            other => Err(format!("it answered {other}")),
        }
    }
}

/// Shows a URL without its user and password.
fn shown(url: &str) -> String {
    let bare = reqwest::Url::parse(url)
        .ok()
        .and_then(|mut url| (url.set_username("").is_ok() && url.set_password(None).is_ok()).then(|| url.to_string()));
    bare.unwrap_or_else(|| "AUTH server".to_owned())
}

impl Grants {
    /// Reads and validates an answer; `now` is when its time to live begins.
    fn parse(json: &[u8], now: Instant) -> Result<Self, String> {
        let answer: Answer = serde_json::from_slice(json).map_err(|e| format!("its answer cannot be read: {e}"))?;
        let items = answer.authorizations.unwrap_or_default();
        let authorizations = items.into_iter().map(Authorization::parse).collect::<Result<_, _>>()?;
        let ttl = u64::try_from(answer.ttl).ok().filter(|ttl| *ttl > 0);
        let ttl = ttl.ok_or_else(|| format!("invalid ttl {}: it must be positive", answer.ttl))?;
        // a time to live beyond a year is as good as one
        let expires = now + Duration::from_secs(ttl.min(365 * 86_400));
        Ok(Self { identity: answer.identity, identity_url: answer.identity_url, expires, authorizations })
    }

    /// True if the client may do nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.authorizations.is_empty()
    }

    /// The number of authorizations.
    pub(super) fn count(&self) -> usize {
        self.authorizations.len()
    }

    /// True from the end of the time to live on: then the servers are asked again.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now > self.expires
    }

    /// True if the client may subscribe to the channel, or, without one, publish to the topic. As
    /// in nsqd, publishing needs a channel expression that matches the empty text.
    pub(super) fn allow(&self, topic: &str, channel: Option<&str>) -> bool {
        self.authorizations.iter().any(|authorization| {
            let permitted = if channel.is_some() { authorization.subscribe } else { authorization.publish };
            permitted
                && authorization.topic.is_match(topic)
                && authorization.channels.iter().any(|regex| regex.is_match(channel.unwrap_or_default()))
        })
    }
}

impl Authorization {
    fn parse(item: AnswerItem) -> Result<Self, String> {
        let regex = |text: &String| {
            let built = regex_lite::RegexBuilder::new(text).size_limit(1 << 20).build();
            built.map_err(|_| format!("invalid regular expression {:?}", crate::proto::excerpt(text.as_bytes())))
        };
        let permissions = item.permissions.unwrap_or_default();
        if let Some(unknown) = permissions.iter().find(|name| !matches!(name.as_str(), "subscribe" | "publish")) {
            return Err(format!("unknown permission {:?}", crate::proto::excerpt(unknown.as_bytes())));
        }
        let has = |name: &str| permissions.iter().any(|permission| permission == name);
        Ok(Self {
            topic: regex(&item.topic)?,
            channels: item.channels.unwrap_or_default().iter().map(regex).collect::<Result<_, _>>()?,
            subscribe: has("subscribe"),
            publish: has("publish"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(json: &str) -> Result<Grants, String> {
        Grants::parse(json.as_bytes(), Instant::now())
    }

    #[test]
    fn permissions_are_by_topic_and_channel_and_expressions_are_not_anchored() {
        let grants = grants(
            r#"{"ttl":1,"identity":"me","authorizations":[
                {"topic":"^orders$","channels":["^bill"],"permissions":["subscribe"]},
                {"topic":"log","channels":[".*"],"permissions":["publish"]},
                {"topic":"only","channels":["^x$"],"permissions":["publish"]}]}"#,
        )
        .unwrap();
        assert!(grants.allow("orders", Some("billing")) && !grants.allow("orders", Some("ship")));
        assert!(!grants.allow("orders", None), "subscribe is no publish");
        assert!(grants.allow("the-logs", None) && !grants.allow("the-logs", Some("x")));
        assert!(!grants.allow("only", None), "publishing needs an expression for the empty channel");
        assert_eq!(grants.count(), 3);
    }

    #[test]
    fn grants_end_with_their_time_to_live() {
        let now = Instant::now();
        let grants = Grants::parse(br#"{"ttl":5,"authorizations":[]}"#, now).unwrap();
        assert!(grants.is_empty());
        assert!(!grants.is_expired(now + Duration::from_secs(5)));
        assert!(grants.is_expired(now + Duration::from_millis(5001)));
        let long = format!(r#"{{"ttl":{}}}"#, i64::MAX);
        assert!(!Grants::parse(long.as_bytes(), now).unwrap().is_expired(now + Duration::from_secs(86_400)));
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(shown("http://me:pass@auth:80/x"), "http://auth/x");
        assert_eq!(shown("no URL"), "AUTH server");
    }

    #[test]
    fn invalid_answers_grant_nothing() {
        for (json, error) in [
            (r#"{"ttl":0}"#, "invalid ttl 0: it must be positive"),
            (r#"{"ttl":-1}"#, "invalid ttl -1: it must be positive"),
            (r#"{"ttl":1,"authorizations":[{"permissions":["admin"]}]}"#, "unknown permission \"admin\""),
            (r#"{"ttl":1,"authorizations":[{"topic":"("}]}"#, "invalid regular expression \"(\""),
            (r#"{"ttl":1,"authorizations":[{"channels":["[a"]}]}"#, "invalid regular expression \"[a\""),
        ] {
            assert_eq!(grants(json).unwrap_err(), error);
        }
        assert!(grants("no").is_err());
    }
}
