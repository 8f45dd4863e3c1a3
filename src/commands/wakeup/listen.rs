//! `--listen`: `/healthz`, `/state` and `/metrics` over HTTP.
//!
//! A request becomes a question to the main loop, which answers it between other events.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{mpsc, oneshot};

use crate::commands::common::metrics;
use crate::commands::common::metrics::status_server::healthz;

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
        .route(
            "/healthz",
            get(async |State(asking): State<Asking>| healthz(ask(asking, StatusPage::Health).await.map(drop))),
        )
        .route(
            "/state",
            get(async |State(asking): State<Asking>| {
                respond(ask(asking, StatusPage::State).await, |text| {
                    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
                })
            }),
        )
        .route(
            "/metrics",
            get(async |State(asking): State<Asking>, headers: HeaderMap| {
                respond(ask(asking, StatusPage::Metrics).await, |text| metrics::response(text, &headers))
            }),
        )
        .with_state(asking);
    (router, questions)
}

async fn ask(asking: Asking, page: StatusPage) -> Result<String, String> {
    let (answer, answered) = oneshot::channel();
    // the connection's deadline bounds this wait
    match asking.send(StatusQuestion { page, answer }).await {
        Ok(()) => answered.await.unwrap_or_else(|_| Err("ending".to_owned())),
        Err(_) => Err("ending".to_owned()),
    }
}

fn respond(answer: Result<String, String>, page: impl FnOnce(String) -> Response) -> Response {
    answer.map_or_else(|why| healthz(Err(why)), page)
}
