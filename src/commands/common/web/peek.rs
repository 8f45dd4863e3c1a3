//! Messages of a queue, and dead letters, as mqueue's broker shows them without their delivery. nsqd
//! cannot.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;

use super::WebPage;
use super::actions::target;
use super::letters::{MAX_LISTED, MAX_SEARCH, OpenedLetter, ShownLetter, gone};
use super::shown_body::ShownBody;
use crate::commands::common::dead_letters::LetterName;
use crate::commands::common::dead_letters::letters::matches;
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::query_params::QueryParams;
use crate::commands::common::queue_peek::{QueuePlaces, first_messages};
use crate::commands::common::worker_flags::dead_letters;
use mqueue::client::{HttpError, Nsqd, StatsFilter};
use mqueue::cluster::QueueTarget;
use mqueue::proto::{PeekState, PeekedMessage, TopicName};
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
/// The maximum of messages that are taken for the parts of one letter.
const MAX_PARTS: usize = 16;

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
    let mut search = LetterSearch { text: search, ..LetterSearch::default() };
    search.look_everywhere(&page, &stream).await?;
    let LetterSearch { letters, total, is_cut, .. } = search;
    Ok(json(&json!({ "letters": letters, "total": total, "complete": !is_cut })))
}

/// Answers with a dead letter, whole.
pub(super) async fn letter(State(page): State<Arc<WebPage>>, uri: Uri) -> RequestResult {
    let params = QueryParams::parse(&uri, &["stream", "id", "group", "died"])?;
    let stream = target(params.get("stream").unwrap_or_default())?.stream;
    let id = params.get("id").ok_or_else(|| RequestError::unprocessable("name the letter: id, group and died"))?;
    let died = params.get("died").unwrap_or("0");
    let died = died.parse().map_err(|_| RequestError::unprocessable(format!("invalid died {died:?}: a number")))?;
    let name = LetterName { id: id.to_owned(), group: params.get("group").map(str::to_owned), died };
    let mut search = LetterSearch { only: Some(name), ..LetterSearch::default() };
    search.look_everywhere(&page, &stream).await?;
    search.opened().map(|letter| json(&letter)).ok_or_else(gone)
}

/// A search in dead letters.
#[derive(Default)]
struct LetterSearch<'a> {
    text: &'a str,
    letters: Vec<ShownLetter>,
    /// The name of the letter to open.
    only: Option<LetterName>,
    /// The messages of that name: several if the letter is in parts.
    found: Vec<PeekedMessage>,
    /// The number of letters looked at, and the length of their bodies.
    total: usize,
    bytes: usize,
    is_cut: bool,
}

impl LetterSearch<'_> {
    /// Looks at all brokers that have letters of the stream, if each can show them.
    async fn look_everywhere(&mut self, page: &WebPage, stream: &TopicName) -> Result<(), RequestError> {
        let dead = dead_letters(stream, None).map_err(|failure| RequestError::unprocessable(failure.line))?;
        let dead = QueueTarget::new(dead, None);
        let QueuePlaces { brokers, nsqds, .. } = QueuePlaces::find(&page.cluster, &dead).await;
        if !nsqds.is_empty() {
            let line = format!("nsqd at {} shows no message without delivering it", nsqds.join(", "));
            return Err(RequestError::new(StatusCode::CONFLICT, line));
        }
        for broker in &brokers {
            self.look(broker, &dead).await.map_err(RequestError::unavailable)?;
        }
        Ok(())
    }

    /// Returns the letter that was to be opened: all parts of it, or the first that is there.
    fn opened(&self) -> Option<OpenedLetter> {
        let letters = self.found.iter().filter_map(|message| DeadLetter::decode(&message.body));
        let mut parts: BTreeMap<u32, DeadLetter> = BTreeMap::new();
        for letter in letters {
            parts.entry(letter.part.map_or(0, |part| part.number)).or_insert(letter);
        }
        let Some(mut letter) = parts.values().next().cloned() else {
            let message = self.found.first()?;
            return Some(OpenedLetter::new(None, &message.id, &message.body));
        };
        if letter.part.is_some_and(|part| part.of as usize == parts.len()) {
            letter.part = None;
            letter.body = parts.values().flat_map(|part| &part.body[..]).copied().collect();
        }
        Some(OpenedLetter::new(Some(&letter), "", &letter.body))
    }

    fn is_full(&self) -> bool {
        self.letters.len() >= MAX_LISTED || self.total >= MAX_SEARCHED || self.bytes >= MAX_SEARCHED_BYTES
    }

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
                self.is_cut |= self.is_full() && found.next.is_some();
                match found.next.filter(|_| !self.is_full()) {
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
        if let Some(name) = &self.only {
            if LetterName::of(letter.as_ref(), &message.id) == *name && self.found.len() < MAX_PARTS {
                self.found.push(message);
            }
            return;
        }
        if self.letters.len() < MAX_LISTED && matches(letter.as_ref(), body, self.text) {
            self.letters.push(ShownLetter::of(letter.as_ref(), &message.id, body));
        }
    }
}
