//! A client for the gateway's HTTP API.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::commands::common::bearer_tokens::BearerTokens;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::job::HEARTBEAT_HEADER;
use crate::commands::common::tls_client_args::TlsClientArgs;
use crate::commands::worker::args::Args;
use mqueue::http::client::{body, client_for, client_with_tls};
use mqueue::net::tls::TlsClient;
use mqueue::proto::excerpt;
use mqueue::wake::shell_commands::in_url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a response; for a stream of jobs, of its head.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// Heartbeat intervals without a line after which a stream is lost.
const MAX_MISSED_HEARTBEATS: u32 = 3;
/// The longest heartbeat interval accepted from a gateway.
const MAX_HEARTBEAT: Duration = Duration::from_secs(3600);
/// Limit on a response that lists tokens, in bytes.
const MAX_REPLY_BYTES: usize = 4 << 20;
/// Limit on an error response, in bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A client for one group's jobs at a gateway.
#[derive(Debug)]
pub(super) struct GatewayClient {
    client: Client,
    base: Url,
    jobs: Url,
    /// The URL for log lines, without secrets.
    pub(super) shown: String,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum GatewayRefusal {
    /// A retry may help: the reason, and the gateway's `Retry-After`.
    Temporary(String, Option<Duration>),
    /// A retry will not help: the reason.
    Permanent(String),
}

/// The gateway's response to answers: the tokens that it did not accept.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AnswerOutcome {
    /// Tokens whose jobs were requeued.
    pub(super) gone: Vec<String>,
    pub(super) elsewhere: Vec<String>,
    pub(super) failed: Vec<String>,
}

impl GatewayClient {
    pub(super) fn new(args: &Args, in_flight: u32) -> Result<Self, Failure> {
        let mut base = args.queue.url().clone();
        base.set_query(None);
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        let mut jobs = base.clone();
        jobs.set_path(&format!(
            "{path}/streams/{}/groups/{}/jobs",
            in_url(args.stream.as_str()),
            in_url(args.group.as_str())
        ));
        let deadline = humantime::format_duration(args.deadline).to_string().replace(' ', "");
        jobs.query_pairs_mut()
            .append_pair("in_flight", &in_flight.to_string())
            .append_pair("deadline", &deadline)
            .append_pair("n", &args.n)
            .append_pair("create", "true");
        let client = client_builder(&base, &args.certificates)?
            .connect_timeout(CONNECT_TIMEOUT)
            .default_headers(headers(args.bearer_token_file.as_deref())?);
        let client = client.build().map_err(|e| Failure::new(Exit::Failure, mqueue::http::client::build_error(&e)))?;
        Ok(Self { client, base, jobs, shown: args.queue.shown() })
    }

    /// Requests jobs; returns the response, and how long it may be silent.
    pub(super) async fn take(&self) -> Result<(Response, Duration), GatewayRefusal> {
        let response = self.send(self.client.get(self.jobs.clone())).await?;
        let beat = response.headers().get(HEARTBEAT_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let beat = beat.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
            GatewayRefusal::Permanent(format!(
                "{} is not a gateway: its response has no header {HEARTBEAT_HEADER}",
                self.shown
            ))
        })?;
        Ok((response, MAX_MISSED_HEARTBEATS * beat.clamp(Duration::from_secs(1), MAX_HEARTBEAT)))
    }

    /// Answers jobs with `verb`.
    pub(super) async fn answer(
        &self,
        verb: &str,
        params: &[(&str, &str)],
        tokens: &[String],
    ) -> Result<AnswerOutcome, GatewayRefusal> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/jobs/{verb}", url.path().trim_end_matches('/')));
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        let response = self.send(self.client.post(url).body(tokens.join("\n")).timeout(REPLY_TIMEOUT)).await?;
        let body = body(response, MAX_REPLY_BYTES).await;
        let read = body.map_err(|e| e.to_string()).and_then(|body| {
            serde_json::from_slice(&body).map_err(|e| format!("{} sent an invalid response: {e}", self.shown))
        });
        read.map_err(|why| GatewayRefusal::Temporary(excerpt(why.as_bytes()), None))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, GatewayRefusal> {
        let sent = tokio::time::timeout(REPLY_TIMEOUT, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(GatewayRefusal::Temporary(
                    format!("cannot reach {}: {}", self.shown, mqueue::http::client::cause(&error)),
                    None,
                ));
            }
            Err(_) => return Err(GatewayRefusal::Temporary(format!("{} does not answer", self.shown), None)),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let text = tokio::time::timeout(REPLY_TIMEOUT, body(response, MAX_ERROR_BYTES)).await.ok().and_then(Result::ok);
        let text = excerpt(text.unwrap_or_default().trim_ascii());
        let why = format!("{} answers {status}: {text}", self.shown);
        let is_for_now =
            status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        Err(if is_for_now {
            GatewayRefusal::Temporary(why, after.map(Duration::from_secs))
        } else {
            GatewayRefusal::Permanent(why)
        })
    }
}

/// Returns the builder of a client, with TLS if the URL begins with `https://`.
fn client_builder(url: &Url, certificates: &TlsClientArgs) -> Result<ClientBuilder, Failure> {
    let flags = certificates.flags();
    match (url.scheme(), flags.first()) {
        (_, None) => Ok(client_for(url)),
        ("https", Some(_)) => {
            let tls = TlsClient::new(&certificates.settings()).map_err(|e| Failure::new(Exit::Usage, e))?;
            Ok(client_with_tls(url, &tls))
        }
        (_, Some(flag)) => {
            let flag = flag.split('=').next().unwrap_or_default();
            let line = format!("{flag} is for TLS: name a --queue that begins with https://");
            Err(Failure::new(Exit::Usage, line))
        }
    }
}

fn headers(bearer: Option<&Path>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(path) = bearer {
        let tokens = BearerTokens::read(path).map_err(|why| Failure::new(Exit::Usage, why))?;
        let value = HeaderValue::try_from(format!("Bearer {}", tokens.first()));
        let mut value = value.expect("tokens are printable ASCII");
        value.set_sensitive(true);
        headers.insert(reqwest::header::AUTHORIZATION, value);
    }
    Ok(headers)
}
