//! Responses: always JSON. Errors are `{"error":"…"}`, and say what to do.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// The `Retry-After` of a 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The response to a request, or its refusal.
pub(super) type GatewayResult = Result<Response, GatewayError>;

/// The refusal of a request: its status, the reason, and what to do.
#[derive(Debug, Clone)]
pub(super) struct GatewayError {
    status: StatusCode,
    error: String,
}

impl GatewayError {
    pub(super) fn new(status: StatusCode, error: impl ToString) -> Self {
        Self { status, error: error.to_string() }
    }

    /// 422: a parameter or a name is invalid.
    pub(super) fn unprocessable(error: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    /// Replaces the message.
    pub(super) fn with_message(self, error: impl ToString) -> Self {
        Self { error: error.to_string(), ..self }
    }

    /// The reason, and what to do.
    pub(super) fn message(&self) -> &str {
        &self.error
    }

    /// 503: the request can be repeated after `Retry-After`.
    pub(super) fn unavailable(error: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

impl IntoResponse for GatewayError {
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

/// Returns a response with the value as a line of JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    let mut body = serde_json::to_vec(value).expect("what is answered has only string keys");
    body.push(b'\n');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
