//! Answers: JSON always, and errors as `{"error":"…"}` with what to do.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// When a client should come again if no nsqd can be had, in seconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a request is answered with.
pub(super) type Answer = Result<Response, Refusal>;

/// A request that was refused: why, and what to do.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl ToString) -> Self {
        Self { status, error: error.to_string() }
    }

    /// A parameter or a name that cannot be used.
    pub(super) fn unusable(error: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    /// The same, in other words.
    pub(super) fn saying(self, error: impl ToString) -> Self {
        Self { error: error.to_string(), ..self }
    }

    /// Why.
    pub(super) fn error(&self) -> &str {
        &self.error
    }

    /// Not now; says when to come again.
    pub(super) fn unavailable(error: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(&json!({ "error": self.error }));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER.as_secs().into());
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

/// A value as a line of JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    let mut body = serde_json::to_vec(value).expect("what is answered has only string keys");
    body.push(b'\n');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
