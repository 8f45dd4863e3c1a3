//! The gateway's HTTP API, as a worker uses it.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::job::HEARTBEAT_HEADER;
use crate::commands::worker::args::Args;
use mqueue::http::client::body;
use mqueue::proto::excerpt;
use mqueue::wake::shell_commands::in_url;

const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer to a request may take; a stream's head, too.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// A stream without a line for so many heartbeats is lost.
const SILENT_BEATS: u32 = 3;
/// The longest time between lines that a gateway is waited for.
const LONGEST_BEAT: Duration = Duration::from_secs(3600);
/// The longest answer that is read, in bytes: tokens of jobs.
const LONGEST_ANSWER: usize = 4 << 20;
/// The longest refusal.
const LONGEST_REFUSAL: usize = 64 << 10;

/// A gateway, and one group's jobs there.
#[derive(Debug)]
pub(super) struct Queue {
    client: Client,
    base: Url,
    jobs: Url,
    /// For people, without secrets.
    pub(super) shown: String,
}

/// Why a request was in vain.
#[derive(Debug)]
pub(super) enum Denied {
    /// Asking again later may help: the reason, and when if the gateway said.
    ForNow(String, Option<Duration>),
    /// It will not.
    ForGood(String),
}

/// What the gateway made of answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Settled {
    /// Tokens whose jobs come again.
    pub(super) gone: Vec<String>,
    pub(super) elsewhere: Vec<String>,
    pub(super) failed: Vec<String>,
}

impl Queue {
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
            .append_pair("n", &args.n);
        let client = mqueue::http::client::client_for(&base)
            .connect_timeout(CONNECT_TIME)
            .default_headers(headers(args.bearer_token_file.as_deref())?);
        let client = client.build().map_err(|e| Failure::new(Exit::Failure, mqueue::http::client::build_error(&e)))?;
        Ok(Self { client, base, jobs, shown: args.queue.shown() })
    }

    /// Asks for jobs: the response, and how long it may be silent.
    pub(super) async fn take(&self) -> Result<(Response, Duration), Denied> {
        let response = self.send(self.client.get(self.jobs.clone())).await?;
        let beat = response.headers().get(HEARTBEAT_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let beat = beat.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
            Denied::ForGood(format!("{} is no gateway: it answers without {HEARTBEAT_HEADER}", self.shown))
        })?;
        Ok((response, SILENT_BEATS * beat.clamp(Duration::from_secs(1), LONGEST_BEAT)))
    }

    /// Answers jobs with `verb`.
    pub(super) async fn answer(
        &self,
        verb: &str,
        params: &[(&str, &str)],
        tokens: &[String],
    ) -> Result<Settled, Denied> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/jobs/{verb}", url.path().trim_end_matches('/')));
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        let response = self.send(self.client.post(url).body(tokens.join("\n")).timeout(ANSWER_TIME)).await?;
        let body = body(response, LONGEST_ANSWER).await;
        let read = body.map_err(|e| e.to_string()).and_then(|body| {
            serde_json::from_slice(&body).map_err(|e| format!("{} answers what cannot be read: {e}", self.shown))
        });
        read.map_err(|why| Denied::ForNow(excerpt(why.as_bytes()), None))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Denied> {
        let sent = tokio::time::timeout(ANSWER_TIME, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(Denied::ForNow(
                    format!("cannot reach {}: {}", self.shown, mqueue::http::client::cause(&error)),
                    None,
                ));
            }
            Err(_) => return Err(Denied::ForNow(format!("{} does not answer", self.shown), None)),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let text = tokio::time::timeout(ANSWER_TIME, body(response, LONGEST_REFUSAL)).await.ok().and_then(Result::ok);
        let text = excerpt(text.unwrap_or_default().trim_ascii());
        let why = format!("{} answers {status}: {text}", self.shown);
        let is_for_now =
            status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        Err(if is_for_now { Denied::ForNow(why, after.map(Duration::from_secs)) } else { Denied::ForGood(why) })
    }
}

fn headers(bearer: Option<&Path>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(path) = bearer {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(Exit::Usage, format!("cannot read {path:?}: {e}")))?;
        let value = HeaderValue::try_from(format!("Bearer {}", text.trim()));
        let mut value = value.map_err(|_| {
            Failure::new(Exit::Usage, format!("no token in {path:?}: it has other characters than a header may have"))
        })?;
        value.set_sensitive(true);
        headers.insert(reqwest::header::AUTHORIZATION, value);
    }
    Ok(headers)
}
