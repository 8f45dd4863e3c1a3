//! `--listen`: `/healthz`, `/state` and `/metrics` over HTTP.
//!
//! A request becomes a question to the main loop, which answers it between other events.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{mpsc, oneshot};

use crate::commands::common::metrics::CONTENT_TYPE;

/// The maximum of waiting questions.
const MAX_WAITING_QUESTIONS: usize = 16;

/// The requested page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusPage {
    Health,
    State,
    Metrics,
}

/// A question with the channel for its answer: the text, or the reason for 503.
#[derive(Debug)]
pub(super) struct StatusQuestion {
    pub(super) page: StatusPage,
    pub(super) answer: oneshot::Sender<Result<String, String>>,
}

type Asking = mpsc::Sender<StatusQuestion>;

/// Returns the routes and the receiver of their questions.
pub(super) fn router() -> (Router, mpsc::Receiver<StatusQuestion>) {
    let (asking, questions) = mpsc::channel(MAX_WAITING_QUESTIONS);
    let router = Router::new()
        .route("/healthz", get(|State(asking): State<Asking>| ask(asking, StatusPage::Health, "text/plain")))
        .route("/state", get(|State(asking): State<Asking>| ask(asking, StatusPage::State, "application/json")))
        .route("/metrics", get(|State(asking): State<Asking>| ask(asking, StatusPage::Metrics, CONTENT_TYPE)))
        .with_state(asking);
    (router, questions)
}

async fn ask(asking: Asking, page: StatusPage, content_type: &'static str) -> Response {
    let (answer, answered) = oneshot::channel();
    // the connection's deadline bounds this wait
    let told = match asking.send(StatusQuestion { page, answer }).await {
        Ok(()) => answered.await.unwrap_or_else(|_| Err("ending".to_owned())),
        Err(_) => Err("ending".to_owned()),
    };
    match told {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}
