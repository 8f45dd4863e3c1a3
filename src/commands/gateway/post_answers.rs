//! `POST /jobs/{token}/{verb}`, and `POST /jobs/{verb}` with a token a line: what became of jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Map, Value};

use super::Gateway;
use super::exchange::{Task, Unusable};
use super::params::{LONGEST_DELAY, Params};
use super::refusal::{Answer, Refusal, json};
use super::token::Token;
use mqueue::worker::retry_delay;

const LONGEST_REASON: usize = 1000;

/// What is said of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verb {
    Done,
    Retry {
        delay: Option<Duration>,
        reason: String,
    },
    Drop {
        reason: String,
    },
    /// The worker did not begin with it, and takes no more.
    Release,
    Touch,
}

impl Verb {
    fn parse(verb: &str, uri: &Uri) -> Result<Self, Refusal> {
        let reason = |params: &Params| {
            let reason = params.words("reason", LONGEST_REASON)?;
            Ok(reason.unwrap_or_else(|| "the worker gave no reason".to_owned()))
        };
        match verb {
            "done" => Params::parse(uri, &[]).map(|_| Self::Done),
            "release" => Params::parse(uri, &[]).map(|_| Self::Release),
            "touch" => Params::parse(uri, &[]).map(|_| Self::Touch),
            "drop" => Ok(Self::Drop { reason: reason(&Params::parse(uri, &["reason"])?)? }),
            "retry" => {
                let params = Params::parse(uri, &["delay", "reason"])?;
                Ok(Self::Retry {
                    delay: params.duration("delay", Duration::ZERO..=LONGEST_DELAY)?,
                    reason: reason(&params)?,
                })
            }
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("no answer {verb:?}: use done, retry, drop, release or touch"),
            )),
        }
    }

    /// What it is called when it has happened.
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

pub(super) async fn one(
    State(gateway): State<Arc<Gateway>>,
    Path((token, verb)): Path<(String, String)>,
    uri: Uri,
) -> Answer {
    let verb = Verb::parse(&verb, &uri)?;
    let token: Token = token
        .parse()
        .map_err(|()| Refusal::new(StatusCode::NOT_FOUND, format!("no token {token:?}: use a job's own")))?;
    match settle(&gateway, token, &verb) {
        Ok(to_bury) => {
            if let Some((task, reason)) = to_bury {
                task.bury(reason, &gateway.exchange).await.map_err(Refusal::unavailable)?;
            }
            Ok(json(&Map::from_iter([(verb.past().to_owned(), Value::from(1))])))
        }
        Err(Unusable::Elsewhere) => {
            let line = "a token of another gateway, or of this one before it was started again: the job comes again if it was not answered there";
            Err(Refusal::new(StatusCode::CONFLICT, line))
        }
        Err(Unusable::Gone) => {
            let line = "a token that was used, or whose job was taken back: the job comes again if it was not answered";
            Err(Refusal::new(StatusCode::GONE, line))
        }
    }
}

pub(super) async fn many(
    State(gateway): State<Arc<Gateway>>,
    Path(verb): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let verb = Verb::parse(&verb, &uri)?;
    let (body, _room) = gateway.read(&headers, body).await?;
    let tokens = tokens(&body)?;
    let mut settled = 0;
    let (mut gone, mut elsewhere, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut dying = Vec::new();
    for (text, token) in tokens {
        match settle(&gateway, token, &verb) {
            Ok(None) => settled += 1,
            Ok(Some((task, reason))) => dying.push(task.bury(reason, &gateway.exchange).map(move |done| (text, done))),
            Err(Unusable::Gone) => gone.push(Value::from(text)),
            Err(Unusable::Elsewhere) => elsewhere.push(Value::from(text)),
        }
    }
    // together: dead letters wait for one answer, not each for its own
    for (text, buried) in join_all(dying).await {
        match buried {
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

/// A token a line. Fails, before anything is answered, if a line is none.
fn tokens(body: &[u8]) -> Result<Vec<(&str, Token)>, Refusal> {
    let bad = |index: usize| Refusal::new(StatusCode::BAD_REQUEST, format!("line {}: no token", index + 1));
    let lines =
        body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| {
            let text = std::str::from_utf8(line).map_err(|_| bad(index))?;
            Ok((text, text.parse().map_err(|()| bad(index))?))
        })
        .collect()
}

/// Answers a job; gives it back, with the reason, if it is to go to the dead letters.
fn settle(gateway: &Gateway, token: Token, verb: &Verb) -> Result<Option<(Task, String)>, Unusable> {
    let (exchange, counters) = (&gateway.exchange, &gateway.exchange.counters);
    if *verb == Verb::Touch {
        return exchange.touch(token).map(|()| None);
    }
    if *verb == Verb::Release {
        exchange.retire_of(token)?;
    }
    let task = exchange.answer(token)?;
    let reason = match verb {
        Verb::Done | Verb::Touch => {
            counters.done.inc();
            task.delivery.finish();
            return Ok(None);
        }
        Verb::Release => {
            counters.released.inc();
            task.delivery.release();
            return Ok(None);
        }
        Verb::Retry { delay, .. } if !is_last(&task) => {
            counters.retried.inc();
            let by_default = retry_delay(gateway.settings.workers.retry_delay, &task.delivery);
            task.delivery.requeue(delay.unwrap_or(by_default));
            return Ok(None);
        }
        Verb::Retry { reason, .. } | Verb::Drop { reason } => reason.clone(),
    };
    Ok(Some((task, reason)))
}

/// True if this was a job's last attempt.
fn is_last(task: &Task) -> bool {
    task.supply.max_tries.is_last(task.delivery.tries())
}
