//! Responses of HTTP servers here: always JSON. Errors are `{"error":"…"}`, and say what to do.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use mqueue::io_error::without_numbers;

/// The `Retry-After` of a 503 or 429.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The response to a request, or its refusal.
pub(crate) type RequestResult = Result<Response, RequestError>;

/// The refusal of a request: its status, the reason, and what to do.
#[derive(Debug, Clone)]
pub(crate) struct RequestError {
    status: StatusCode,
    error: String,
}

impl RequestError {
    pub(crate) fn new(status: StatusCode, error: impl ToString) -> Self {
        Self { status, error: without_numbers(&error.to_string()) }
    }

    /// 422: a parameter or a name is invalid.
    pub(crate) fn unprocessable(error: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    /// Replaces the message.
    pub(crate) fn with_message(self, error: impl ToString) -> Self {
        Self { error: error.to_string(), ..self }
    }

    /// The reason, and what to do.
    pub(crate) fn message(&self) -> &str {
        &self.error
    }

    /// 503: the request can be repeated after `Retry-After`.
    pub(crate) fn unavailable(error: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let mut response = json(&json!({ "error": self.error }));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
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

/// Returns a response with the value as a line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Response {
    let mut body = serde_json::to_vec(value).expect("what is answered has only string keys");
    body.push(b'\n');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
