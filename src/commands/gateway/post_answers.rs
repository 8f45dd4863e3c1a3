//! `POST /jobs/{token}/{verb}`, and `POST /jobs/{verb}` with one token per line: workers' answers
//! to jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Map, Value};

use super::Gateway;
use super::access::Caller;
use super::exchange::{GatewayJob, InvalidToken};
use super::token::JobToken;
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::query_params::{MAX_DELAY, QueryParams};
use mqueue::worker::{WorkerStats, retry_delay};

const MAX_REASON_CHARS: usize = 1000;

/// A worker's answer to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum JobAnswer {
    Done,
    Retry {
        delay: Option<Duration>,
        reason: String,
    },
    Drop {
        reason: String,
    },
    /// The worker did not begin with the job, and takes no more jobs.
    Release,
    Touch,
}

impl JobAnswer {
    fn parse(verb: &str, uri: &Uri) -> Result<Self, RequestError> {
        let reason = |params: &QueryParams| {
            let reason = params.text("reason", MAX_REASON_CHARS)?;
            Ok(reason.unwrap_or_else(|| "the worker gave no reason".to_owned()))
        };
        match verb {
            "done" => QueryParams::parse(uri, &[]).map(|_| Self::Done),
            "release" => QueryParams::parse(uri, &[]).map(|_| Self::Release),
            "touch" => QueryParams::parse(uri, &[]).map(|_| Self::Touch),
            "drop" => Ok(Self::Drop { reason: reason(&QueryParams::parse(uri, &["reason"])?)? }),
            "retry" => {
                let params = QueryParams::parse(uri, &["delay", "reason"])?;
                Ok(Self::Retry {
                    delay: params.duration("delay", Duration::ZERO..=MAX_DELAY)?,
                    reason: reason(&params)?,
                })
            }
            _ => Err(RequestError::new(
                StatusCode::NOT_FOUND,
                format!("unknown answer {verb:?}: use done, retry, drop, release or touch"),
            )),
        }
    }

    /// The JSON key of the number of jobs answered so.
    fn past(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry { .. } => "retried",
            Self::Drop { .. } => "dropped",
            Self::Release => "released",
            Self::Touch => "touched",
        }
    }
}

pub(super) async fn answer_one(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path((token, verb)): Path<(String, String)>,
    uri: Uri,
) -> RequestResult {
    caller.may_answer()?;
    let verb = JobAnswer::parse(&verb, &uri)?;
    let token: JobToken = token.parse().map_err(|()| {
        RequestError::new(StatusCode::NOT_FOUND, format!("invalid token {token:?}: use the job's token"))
    })?;
    check_group(&gateway, &caller, token)?;
    match apply(&gateway, token, &verb) {
        Ok(dead) => {
            if let Some((job, reason)) = dead {
                job.dead_letter(reason, &gateway.exchange).await.map_err(RequestError::unavailable)?;
            }
            Ok(json(&Map::from_iter([(verb.past().to_owned(), Value::from(1))])))
        }
        Err(InvalidToken::Elsewhere) => {
            let line = "a token of another gateway, or of this one before a restart: nsqd delivers the job again unless it was answered there";
            Err(RequestError::new(StatusCode::CONFLICT, line))
        }
        Err(InvalidToken::Gone) => {
            let line =
                "a token that was used, or whose job was requeued: nsqd delivers the job again unless it was answered";
            Err(RequestError::new(StatusCode::GONE, line))
        }
    }
}

pub(super) async fn answer_many(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(verb): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> RequestResult {
    caller.may_answer()?;
    let verb = JobAnswer::parse(&verb, &uri)?;
    let (body, _room) = gateway.read_body(&headers, body).await?;
    let tokens = tokens(&body)?;
    tokens.iter().try_for_each(|(_, token)| check_group(&gateway, &caller, *token))?;
    let mut settled = 0;
    let (mut gone, mut elsewhere, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut dead_lettering = Vec::new();
    for (text, token) in tokens {
        match apply(&gateway, token, &verb) {
            Ok(None) => settled += 1,
            Ok(Some((job, reason))) => {
                dead_lettering.push(job.dead_letter(reason, &gateway.exchange).map(move |done| (text, done)))
            }
            Err(InvalidToken::Gone) => gone.push(Value::from(text)),
            Err(InvalidToken::Elsewhere) => elsewhere.push(Value::from(text)),
        }
    }
    // concurrently, so that dead letters are published in batches
    for (text, published) in join_all(dead_lettering).await {
        match published {
            Ok(()) => settled += 1,
            Err(_) => failed.push(Value::from(text)),
        }
    }
    let mut answer = Map::from_iter([(verb.past().to_owned(), Value::from(settled))]);
    let rest = [("gone", gone), ("elsewhere", elsewhere), ("failed", failed)];
    answer.extend(
        rest.into_iter()
            .filter(|(_, tokens)| !tokens.is_empty())
            .map(|(name, tokens)| (name.to_owned(), tokens.into())),
    );
    Ok(json(&answer))
}

/// Fails if the caller may not take jobs of the job's group.
fn check_group(gateway: &Gateway, caller: &Caller, token: JobToken) -> Result<(), RequestError> {
    if !gateway.access.needs_token() {
        return Ok(());
    }
    gateway.exchange.group_of(token).map_or(Ok(()), |key| caller.may_take(&key))
}

/// Parses one token per line. Fails at the first invalid line, before any job is answered.
fn tokens(body: &[u8]) -> Result<Vec<(&str, JobToken)>, RequestError> {
    let bad = |index: usize| RequestError::new(StatusCode::BAD_REQUEST, format!("line {}: not a token", index + 1));
    let lines =
        body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| {
            let text = std::str::from_utf8(line).map_err(|_| bad(index))?;
            Ok((text, text.parse().map_err(|()| bad(index))?))
        })
        .collect()
}

/// Answers a job. Returns the job and the reason if it must become a dead letter.
fn apply(gateway: &Gateway, token: JobToken, verb: &JobAnswer) -> Result<Option<(GatewayJob, String)>, InvalidToken> {
    let (exchange, counters) = (&gateway.exchange, &gateway.exchange.counters);
    if *verb == JobAnswer::Touch {
        return exchange.touch(token).map(|()| None);
    }
    if *verb == JobAnswer::Release {
        exchange.retire_of(token)?;
    }
    let job = exchange.answer(token)?;
    let work = &job.group_consumer.work;
    if *verb != JobAnswer::Release {
        job.handed_out.iter().for_each(|since| work.handler_took(since.elapsed()));
    }
    let reason = match verb {
        JobAnswer::Done | JobAnswer::Touch => {
            counters.done.inc();
            work.count(WorkerStats { done: 1, ..WorkerStats::default() });
            work.finished([job.delivery.message().timestamp]);
            job.delivery.finish();
            return Ok(None);
        }
        JobAnswer::Release => {
            counters.released.inc();
            work.count(WorkerStats { released: 1, ..WorkerStats::default() });
            job.delivery.release();
            return Ok(None);
        }
        JobAnswer::Retry { delay, .. } if !is_last(&job) => {
            counters.retried.inc();
            work.count(WorkerStats { retried: 1, ..WorkerStats::default() });
            let by_default = retry_delay(gateway.settings.workers.retry_delay, &job.delivery);
            job.delivery.requeue(delay.unwrap_or(by_default));
            return Ok(None);
        }
        JobAnswer::Retry { reason, .. } | JobAnswer::Drop { reason } => reason.clone(),
    };
    Ok(Some((job, reason)))
}

/// Returns true if this was the job's last try.
fn is_last(job: &GatewayJob) -> bool {
    job.group_consumer.max_tries.is_last(job.delivery.tries())
}
