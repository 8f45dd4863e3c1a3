//! Dead letters on the page: `POST /api/letters/list`, `/redrive` and `/drop`, of one stream, with a
//! text to search for.
//!
//! nsqd has no way to look at a message without its delivery, so that a list takes letters and gives
//! them back, as `mqueue errors` does: it needs a token, too. One request at a time works on
//! letters: of two at once each would see a part of them.

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
use crate::commands::common::dead_letters::{LetterAction, LetterSelection};
use crate::commands::common::exit::Failure;
use crate::commands::common::http_server::RequestConnection;
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::run_broker::BrokerAddresses;
use crate::commands::common::worker_flags::dead_letters;
use mqueue::proto::{TopicName, excerpt};
use mqueue::worker::DeadLetter;

/// The maximum of letters in a list.
pub(super) const MAX_LISTED: usize = 100;
/// The maximum in flight for a list: bodies may be long, and parts of one letter come together.
const LISTED_IN_FLIGHT: u32 = 16;
/// The length of bodies after which a list ends, in bytes.
const MAX_LISTED_BYTES: usize = 16 << 20;
/// The time that a request waits for another one.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest text to search for, in bytes.
pub(super) const MAX_SEARCH: usize = 1000;
/// The longest reason that is shown, in characters.
const MAX_REASON: usize = 1000;
/// The group that keeps letters for this program; that of `mqueue errors`, too.
const GROUP: &str = "errors";

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LettersRequest {
    stream: String,
    #[serde(default)]
    search: String,
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

/// Lists, redrives or drops the letters that match.
pub(super) async fn letters(
    State(page): State<Arc<WebPage>>,
    Extension(connection): Extension<RequestConnection>,
    Path(verb): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> RequestResult {
    let action = match verb.as_str() {
        "list" => None,
        "redrive" => Some(LetterAction::Redrive),
        "drop" => Some(LetterAction::Drop),
        _ => return Err(RequestError::new(StatusCode::NOT_FOUND, "use list, redrive or drop")),
    };
    let request: LettersRequest = read_json(&headers, body).await?;
    let target = target(&request.stream)?;
    if target.group.is_some() || request.search.len() > MAX_SEARCH {
        return Err(RequestError::unprocessable("name a stream, and a text of at most 1000 bytes"));
    }
    let scopes = page.access.may_act(&headers, connection.peer.ip(), &target).await?;
    // the client may go away: what has begun is finished, and logged
    let done = tokio::spawn(async move {
        let busy = |_| RequestError::unavailable("another request works on dead letters: try again");
        let _turn = timeout(TURN_TIMEOUT, page.letters_turn.lock()).await.map_err(busy)?;
        let answer = match action {
            None => page.list_letters(target.stream, request.search).await,
            Some(action) => page.act_on_letters(action, target.stream, request.search, scopes.name()).await,
        };
        answer.map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) => RequestError::unavailable(failure.line),
            Err(error) => RequestError::unavailable(error),
        })
    });
    done.await.map_err(RequestError::unavailable)?.map(|answer| json(&answer))
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
        max_in_flight: u32,
    ) -> anyhow::Result<Option<(BrokerAddresses, LetterSelection, Letters, u64)>> {
        let selection = LetterSelection {
            stream: stream.clone(),
            dead_letters: dead_letters(stream, None)?,
            group: GROUP.parse()?,
            filter: (!search.is_empty()).then_some(search),
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
        let Some((_, _, mut letters, total)) = self.open_letters(&stream, search, LISTED_IN_FLIGHT).await? else {
            return Ok(json!({ "letters": [], "total": 0, "complete": true }));
        };
        let (mut held, mut bytes, mut is_complete) = (Vec::<Letter>::new(), 0, false);
        while held.len() < MAX_LISTED && bytes < MAX_LISTED_BYTES {
            let more = tokio::select! {
                more = letters.next() => more,
                () = self.shutdown.draining.cancelled() => break,
            };
            if more.is_empty() {
                is_complete = true;
                break;
            }
            bytes += more.iter().map(|letter| letter.body().len()).sum::<usize>();
            held.extend(more);
        }
        if is_complete {
            held.extend(letters.incomplete());
        }
        let shown: Vec<ShownLetter> = held.iter().take(MAX_LISTED).map(ShownLetter::new).collect();
        held.into_iter().for_each(Letter::give_back);
        letters.end().await;
        Ok(json!({ "letters": shown, "total": total, "complete": is_complete }))
    }

    /// Redrives or drops the letters, and logs it.
    async fn act_on_letters(
        &self,
        action: LetterAction,
        stream: TopicName,
        search: String,
        name: &str,
    ) -> anyhow::Result<serde_json::Value> {
        let with =
            if search.is_empty() { String::new() } else { format!(" with {:?} in them", excerpt(search.as_bytes())) };
        let what = format!("{} the dead letters of {stream}{with}", action.verb());
        let Some((brokers, selection, mut letters, _)) = self.open_letters(&stream, search, MAX_IN_FLIGHT).await?
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
