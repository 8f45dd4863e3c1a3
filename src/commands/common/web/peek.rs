//! Messages of a queue, and dead letters, as mqueue's broker shows them without their delivery. nsqd
//! cannot.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;

use super::WebPage;
use super::actions::target;
use super::letters::{MAX_LISTED, MAX_SEARCH, ShownLetter};
use super::shown_body::ShownBody;
use crate::commands::common::dead_letters::letters::matches;
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::query_params::QueryParams;
use crate::commands::common::queue_peek::{QueuePlaces, first_messages};
use crate::commands::common::worker_flags::dead_letters;
use mqueue::client::{HttpError, Nsqd, StatsFilter};
use mqueue::cluster::QueueTarget;
use mqueue::proto::{PeekState, PeekedMessage};
use mqueue::worker::DeadLetter;

/// The maximum of messages of each broker.
const MAX_MESSAGES: u32 = 200;
/// The number of messages without a limit in the request.
const MESSAGES: u32 = 20;
/// The beginning of each body, in bytes.
const MAX_BODY: usize = 4097;
/// The maximum of letters that one search looks at, and their length in bytes.
const MAX_SEARCHED: usize = 10_000;
const MAX_SEARCHED_BYTES: usize = 64 << 20;

/// A message.
#[derive(Debug, Serialize)]
struct ShownMessage {
    id: String,
    state: &'static str,
    attempts: u16,
    age_ms: u64,
    due_in_ms: Option<u64>,
    /// The host of the client that has it.
    client: Option<String>,
    nsqd: String,
    error: Option<String>,
    #[serde(flatten)]
    body: ShownBody,
}

impl ShownMessage {
    fn new(message: PeekedMessage, nsqd: &Nsqd) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            state: message.state.as_str(),
            attempts: message.attempts,
            age_ms: millis(message.age),
            due_in_ms: message.due_in.map(millis),
            client: message.client.map(|client| client.hostname),
            nsqd: nsqd.to_string(),
            error: message.error,
            body: ShownBody::beginning(&message.body, message.size),
            id: message.id,
        }
    }
}

/// Answers with the first messages of a stream or group, in one state.
pub(super) async fn messages(State(page): State<Arc<WebPage>>, uri: Uri) -> RequestResult {
    let params = QueryParams::parse(&uri, &["target", "state", "limit"])?;
    let target = target(params.get("target").unwrap_or_default())?;
    let limit = params.number("limit", 1..=MAX_MESSAGES)?.unwrap_or(MESSAGES);
    let state = params.get("state").map(str::parse::<PeekState>).transpose();
    let state = state.map_err(RequestError::unprocessable)?.unwrap_or(PeekState::Waiting);
    let query = first_messages(&target, state, limit as usize).with_max_body(MAX_BODY);
    let QueuePlaces { brokers, nsqds, mut errors } = QueuePlaces::find(&page.cluster, &target).await;
    let answers = join_all(brokers.iter().map(|nsqd| nsqd.peek(&query))).await;
    let mut messages = Vec::new();
    for (nsqd, answer) in brokers.iter().zip(answers) {
        match answer {
            Ok(found) => messages.extend(found.messages.into_iter().map(|it| ShownMessage::new(it, nsqd))),
            Err(error) => errors.push(error.to_string()),
        }
    }
    Ok(json(&json!({ "messages": messages, "nsqds": nsqds, "errors": errors })))
}

/// Answers with the dead letters of a stream that match, if every nsqd that has some can show them.
pub(super) async fn letters(State(page): State<Arc<WebPage>>, uri: Uri) -> RequestResult {
    let params = QueryParams::parse(&uri, &["stream", "search"])?;
    let stream = target(params.get("stream").unwrap_or_default())?.stream;
    let search = params.get("search").unwrap_or_default();
    if search.len() > MAX_SEARCH {
        return Err(RequestError::unprocessable("a text of at most 1000 bytes"));
    }
    let dead = dead_letters(&stream, None).map_err(|failure| RequestError::unprocessable(failure.line))?;
    let dead = QueueTarget::new(dead, None);
    let QueuePlaces { brokers, nsqds, .. } = QueuePlaces::find(&page.cluster, &dead).await;
    if !nsqds.is_empty() {
        let line = format!("nsqd at {} shows no message without delivering it", nsqds.join(", "));
        return Err(RequestError::new(StatusCode::CONFLICT, line));
    }
    let mut search = LetterSearch { text: search, letters: Vec::new(), total: 0, bytes: 0, is_complete: true };
    for broker in &brokers {
        search.look(broker, &dead).await.map_err(RequestError::unavailable)?;
    }
    let LetterSearch { letters, total, is_complete, .. } = search;
    Ok(json(&json!({ "letters": letters, "total": total, "complete": is_complete })))
}

/// A search in dead letters.
struct LetterSearch<'a> {
    text: &'a str,
    letters: Vec<ShownLetter>,
    /// The number of letters looked at, and the length of their bodies.
    total: usize,
    bytes: usize,
    is_complete: bool,
}

impl LetterSearch<'_> {
    /// Looks at the letters of a broker: those of one group, as every group has all of them, or
    /// those that no group has.
    async fn look(&mut self, broker: &Nsqd, dead: &QueueTarget) -> Result<(), HttpError> {
        let stats = broker.stats(&StatsFilter::default().with_topic(&dead.stream)).await?;
        let channels = stats.topics.iter().flat_map(|topic| topic.channels.iter());
        let most = channels.max_by_key(|channel| channel.depth + channel.in_flight_count + channel.deferred_count);
        let group = most.and_then(|channel| channel.channel_name.parse().ok());
        let states: &[PeekState] = match &group {
            Some(_) => &[PeekState::Waiting, PeekState::Deferred, PeekState::InFlight],
            None => &[PeekState::Held],
        };
        let place = QueueTarget::new(dead.stream.clone(), group);
        for state in states {
            let mut query = first_messages(&place, *state, MAX_LISTED);
            loop {
                let found = broker.peek(&query).await?;
                found.messages.into_iter().for_each(|message| self.take(message));
                let is_full =
                    self.letters.len() >= MAX_LISTED || self.total >= MAX_SEARCHED || self.bytes >= MAX_SEARCHED_BYTES;
                self.is_complete &= !(is_full && found.next.is_some());
                match found.next.filter(|_| !is_full) {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, message: PeekedMessage) {
        self.total += 1;
        self.bytes += message.body.len();
        let letter = DeadLetter::decode(&message.body);
        let body = letter.as_ref().map_or(&message.body, |letter| &letter.body);
        if self.letters.len() < MAX_LISTED && matches(letter.as_ref(), body, self.text) {
            self.letters.push(ShownLetter::of(letter.as_ref(), &message.id, body));
        }
    }
}
