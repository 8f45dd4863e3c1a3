//! Dead letters on the page: `POST /api/letters/list`, `/redrive` and `/drop`, of one stream, with a
//! text to search for, or the name of a single letter; `/open` shows that one whole.
//!
//! nsqd has no way to look at a message without its delivery, so that a list takes letters and gives
//! them back, as `mqueue errors` does: it needs a token, too. One request at a time works on
//! letters: of two at once each would see a part of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::WebPage;
use super::actions::{read_json, target};
use super::shown_body::ShownBody;
use crate::commands::common::dead_letters::act::{self, ActionOutcome};
use crate::commands::common::dead_letters::letters::{Letter, Letters, MAX_IN_FLIGHT, count};
use crate::commands::common::dead_letters::routes::RedriveTarget;
use crate::commands::common::dead_letters::{LetterAction, LetterName, LetterSelection};
use crate::commands::common::exit::Failure;
use crate::commands::common::http_server::RequestConnection;
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::run_broker::BrokerAddresses;
use crate::commands::common::worker_flags::dead_letters;
use mqueue::proto::{TopicName, excerpt};
use mqueue::worker::DeadLetter;

/// The maximum of letters in a list.
pub(super) const MAX_LISTED: usize = 100;
/// The maximum in flight at first: bodies may be long, and parts of one letter come together. If they
/// are short, as many as a list has are taken.
const LISTED_IN_FLIGHT: u32 = 16;
/// The letters before the one to open that are kept until it is found. Further ones are deferred.
const MAX_PASSED: usize = 8;
/// The length of bodies after which a list ends, in bytes.
const MAX_LISTED_BYTES: usize = 16 << 20;
/// The time that a request waits for another one.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest text to search for, in bytes.
pub(super) const MAX_SEARCH: usize = 1000;
/// The longest reason that is shown, in characters: in a list, and of a letter that is opened.
const MAX_REASON: usize = 1000;
const MAX_OPENED_REASON: usize = 100_000;
/// The group that keeps letters for this program; that of `mqueue errors`, too.
const GROUP: &str = "errors";

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LettersRequest {
    stream: String,
    #[serde(default)]
    search: String,
    /// A single letter.
    letter: Option<LetterName>,
}

/// A letter in a list.
#[derive(Debug, Serialize)]
pub(super) struct ShownLetter {
    id: String,
    group: Option<String>,
    attempts: u16,
    reason: String,
    /// The time of its death, in milliseconds since 1970.
    died: i64,
    #[serde(flatten)]
    body: ShownBody,
}

impl ShownLetter {
    fn new(letter: &Letter) -> Self {
        Self::of(letter.letter.as_ref(), &letter.id(), letter.body())
    }

    /// Shows a letter; `None` for a message that is none, with this id.
    pub(super) fn of(letter: Option<&DeadLetter>, id: &str, body: &[u8]) -> Self {
        let body = ShownBody::new(body);
        match letter {
            Some(dead) => Self {
                id: excerpt(dead.id.as_bytes()),
                group: Some(dead.group.to_string()),
                attempts: dead.attempts,
                reason: dead.reason.chars().take(MAX_REASON).collect(),
                died: dead.died / 1_000_000,
                body,
            },
            None => {
                let reason = "not a dead letter".to_owned();
                Self { id: id.to_owned(), group: None, attempts: 0, reason, died: 0, body }
            }
        }
    }
}

/// A letter that is opened, with all that is known of it.
#[derive(Debug, Serialize)]
pub(super) struct OpenedLetter {
    id: String,
    stream: Option<String>,
    group: Option<String>,
    attempts: u16,
    reason: String,
    /// The times of its publication and its death, in milliseconds since 1970.
    published: i64,
    died: i64,
    /// The number of this part, and of all, of a letter whose other parts are not there.
    part: Option<(u32, u32)>,
    #[serde(flatten)]
    body: ShownBody,
}

impl OpenedLetter {
    /// Shows a letter; `None` for a message that is none, with this id.
    pub(super) fn new(letter: Option<&DeadLetter>, id: &str, body: &[u8]) -> Self {
        let LetterName { id, group, died } = LetterName::of(letter, id);
        Self {
            id,
            stream: letter.map(|letter| letter.stream.to_string()),
            group,
            attempts: letter.map_or(0, |letter| letter.attempts),
            reason: letter.map_or_else(
                || "not a dead letter".to_owned(),
                |letter| letter.reason.chars().take(MAX_OPENED_REASON).collect(),
            ),
            published: letter.map_or(0, |letter| letter.timestamp / 1_000_000),
            died,
            part: letter.and_then(|letter| letter.part).map(|part| (part.number, part.of)),
            body: ShownBody::opened(body),
        }
    }
}

/// The refusal to open a letter that was not found.
pub(super) fn gone() -> RequestError {
    let line = "this letter is not there: it was retried or dropped, or another request has it for some seconds";
    RequestError::new(StatusCode::NOT_FOUND, line)
}

/// Lists, opens, redrives or drops the letters that match.
pub(super) async fn letters(
    State(page): State<Arc<WebPage>>,
    Extension(connection): Extension<RequestConnection>,
    Path(verb): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> RequestResult {
    let action = match verb.as_str() {
        "list" | "open" => None,
        "redrive" => Some(LetterAction::Redrive),
        "drop" => Some(LetterAction::Drop),
        _ => return Err(RequestError::new(StatusCode::NOT_FOUND, "use list, open, redrive or drop")),
    };
    let request: LettersRequest = read_json(&headers, body).await?;
    let opened = match (verb.as_str(), &request.letter) {
        ("open", None) => return Err(RequestError::unprocessable("name the letter to open")),
        ("open", Some(letter)) => Some(letter.clone()),
        _ => None,
    };
    let target = target(&request.stream)?;
    if target.group.is_some() || request.search.len() > MAX_SEARCH {
        return Err(RequestError::unprocessable("name a stream, and a text of at most 1000 bytes"));
    }
    let scopes = page.access.may_act(&headers, connection.peer.ip(), &target).await?;
    // the client may go away: what has begun is finished, and logged
    let done = tokio::spawn(async move {
        let busy = |_| RequestError::unavailable("another request works on dead letters: try again");
        let _turn = timeout(TURN_TIMEOUT, page.letters_turn.lock()).await.map_err(busy)?;
        let answer = match (action, opened) {
            (None, None) => page.list_letters(target.stream, request.search).await,
            (None, Some(letter)) => match page.open_letter(target.stream, letter).await {
                Ok(None) => return Err(gone()),
                Ok(Some(opened)) => Ok(json!(opened)),
                Err(error) => Err(error),
            },
            (Some(action), _) => page.act_on_letters(action, target.stream, request, scopes.name()).await,
        };
        answer.map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) => RequestError::unavailable(failure.line),
            Err(error) => RequestError::unavailable(error),
        })
    });
    done.await.map_err(RequestError::unavailable)?.map(|answer| json(&answer))
}

/// The letters that are taken for a list.
#[derive(Default)]
struct HeldLetters {
    letters: Vec<Letter>,
    /// The length of their bodies.
    bytes: usize,
    /// The number of their messages, none of which is answered yet.
    in_flight: usize,
    /// True if there are no others.
    is_complete: bool,
}

impl HeldLetters {
    /// Returns true if more are wanted, and may come.
    fn has_room(&self, max_in_flight: u32) -> bool {
        self.letters.len() < MAX_LISTED && self.bytes < MAX_LISTED_BYTES && self.in_flight < max_in_flight as usize
    }

    fn take(&mut self, more: Vec<Letter>) {
        self.bytes += more.iter().map(|letter| letter.body().len()).sum::<usize>();
        self.in_flight += more.iter().map(|letter| letter.deliveries.len()).sum::<usize>();
        self.letters.extend(more);
    }

    /// Returns true if as many as a list has may be in flight at once.
    fn are_short(&self) -> bool {
        self.bytes.saturating_mul(MAX_LISTED) <= MAX_LISTED_BYTES.saturating_mul(self.letters.len())
    }
}

impl WebPage {
    /// Returns the nsqds as they are now.
    async fn addresses(&self) -> anyhow::Result<BrokerAddresses> {
        let mut brokers = self.brokers.clone();
        brokers.complete().await?;
        Ok(BrokerAddresses::find(&brokers).await?)
    }

    /// Connects to the letters; `None` if there are none.
    async fn open_letters(
        &self,
        stream: &TopicName,
        search: String,
        only: Option<LetterName>,
        max_in_flight: u32,
    ) -> anyhow::Result<Option<(BrokerAddresses, LetterSelection, Letters, u64)>> {
        let selection = LetterSelection {
            stream: stream.clone(),
            dead_letters: dead_letters(stream, None)?,
            group: GROUP.parse()?,
            filter: (!search.is_empty()).then_some(search),
            only,
            rate: None,
            max_in_flight,
        };
        let brokers = self.addresses().await?;
        let counted = count(&brokers.http, &selection.dead_letters, &selection.group).await?;
        if counted.letters == 0 {
            return Ok(None);
        }
        let letters = Letters::connect(&brokers, &selection, counted.letters).await?;
        Ok(Some((brokers, selection, letters, counted.letters)))
    }

    /// Lists the letters, and gives them back.
    async fn list_letters(&self, stream: TopicName, search: String) -> anyhow::Result<serde_json::Value> {
        let mut list = json!({ "letters": [], "total": 0, "complete": true });
        for max_in_flight in [LISTED_IN_FLIGHT, MAX_LISTED as u32] {
            let opened = self.open_letters(&stream, search.clone(), None, max_in_flight).await?;
            let Some((_, _, mut letters, total)) = opened else { break };
            let mut held = HeldLetters::default();
            while held.has_room(max_in_flight) {
                let more = tokio::select! {
                    more = letters.next() => more,
                    () = self.shutdown.draining.cancelled() => break,
                };
                held.is_complete = more.is_empty();
                if held.is_complete {
                    held.letters.extend(letters.incomplete());
                    break;
                }
                held.take(more);
            }
            held.is_complete |= held.letters.len() as u64 + letters.passed >= total;
            let shown: Vec<ShownLetter> = held.letters.iter().take(MAX_LISTED).map(ShownLetter::new).collect();
            // those that were passed over are not counted the second time
            let total = total.max(list["total"].as_u64().unwrap_or(0));
            list = json!({ "letters": shown, "total": total, "complete": held.is_complete });
            let is_last = held.is_complete || !held.are_short() || self.shutdown.draining.is_cancelled();
            held.letters.into_iter().for_each(Letter::give_back);
            letters.end().await;
            if is_last {
                break;
            }
        }
        Ok(list)
    }

    /// Shows a letter whole; `None` if it is not there. The letters before it are given back, too.
    async fn open_letter(&self, stream: TopicName, name: LetterName) -> anyhow::Result<Option<OpenedLetter>> {
        let opened = self.open_letters(&stream, String::new(), None, LISTED_IN_FLIGHT).await?;
        let Some((_, _, mut letters, _)) = opened else { return Ok(None) };
        let (mut passed, mut opened) = (VecDeque::<Letter>::new(), None);
        while opened.is_none() {
            let more = tokio::select! {
                more = letters.next() => more,
                () = self.shutdown.draining.cancelled() => break,
            };
            let is_last = more.is_empty();
            passed.extend(if is_last { letters.incomplete() } else { more });
            let found = passed.iter().find(|letter| letter.is(&name));
            opened = found.map(|it| OpenedLetter::new(it.letter.as_ref(), &it.id(), it.body()));
            // more of them come only if these are answered
            while passed.len() > MAX_PASSED
                && opened.is_none()
                && let Some(letter) = passed.pop_front()
            {
                letters.leave(letter);
            }
            if is_last {
                break;
            }
        }
        passed.into_iter().for_each(Letter::give_back);
        letters.end().await;
        Ok(opened)
    }

    /// Redrives or drops the letters, and logs it.
    async fn act_on_letters(
        &self,
        action: LetterAction,
        stream: TopicName,
        LettersRequest { search, letter, .. }: LettersRequest,
        name: &str,
    ) -> anyhow::Result<serde_json::Value> {
        let which = match &letter {
            None => format!("the dead letters of {stream}"),
            Some(letter) => format!("the dead letter {} of {stream}", excerpt(letter.id.as_bytes())),
        };
        let with =
            if search.is_empty() { String::new() } else { format!(" with {:?} in them", excerpt(search.as_bytes())) };
        let what = format!("{} {which}{with}", action.verb());
        let Some((brokers, selection, mut letters, _)) =
            self.open_letters(&stream, search, letter, MAX_IN_FLIGHT).await?
        else {
            return Ok(json!({ "done": 0, "text": "there are none" }));
        };
        tracing::info!("web: {name} begins to {what}");
        let target = RedriveTarget::OwnGroup;
        let outcome = act::run(&mut letters, action, &selection, target, &brokers, &self.shutdown).await;
        self.watch.refresh();
        let outcome: ActionOutcome =
            outcome.inspect_err(|error| tracing::warn!("web: {name} cannot {what}: {error}"))?;
        let text = outcome.describe(action);
        match &outcome.failure {
            Some(failure) => tracing::warn!("web: {name}, to {what}: {text}; stopped: {failure}"),
            None => tracing::info!("web: {name}, to {what}: {text}"),
        }
        Ok(json!({ "done": outcome.done, "text": text, "error": outcome.failure }))
    }
}
