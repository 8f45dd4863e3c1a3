//! Responses in nsqd's format: each has the API's version in a header, and errors are
//! `{"message":"CODE"}`.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::ext::ReasonPhrase;
use serde::Serialize;

use crate::broker::state::{BrokerPublishError, Missing};
use crate::proto::stats::ErrorBody;

pub(super) const API_HEADER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-nsq-content-type"), HeaderValue::from_static("nsq; version=1.0"));
const JSON_TYPE: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
const TEXT_TYPE: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));

/// Result of a request.
pub(super) type ApiResult = Result<Response, ApiError>;

/// Error response with nsqd's error code.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).expect("a status of HTTP");
        Self { status, message: message.into() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { message: self.message };
        let mut response = (self.status, json(&body)).into_response();
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // Go's name of the status, from before RFC 9110
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Request Entity Too Large"));
        }
        response
    }
}

impl From<Missing> for ApiError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Topic => Self::new(404, "TOPIC_NOT_FOUND"),
            Missing::Channel => Self::new(404, "CHANNEL_NOT_FOUND"),
        }
    }
}

impl From<std::io::Error> for ApiError {
    /// Converts the error of a change that could not be written to the log.
    fn from(error: std::io::Error) -> Self {
        Self::from(BrokerPublishError::from(error))
    }
}

impl From<BrokerPublishError> for ApiError {
    /// nsqd answers EXITING to a failed publish; here the reason follows.
    fn from(error: BrokerPublishError) -> Self {
        Self::new(503, format!("EXITING: {error}"))
    }
}

/// Success with an empty body.
pub(super) fn nothing() -> Response {
    [API_HEADER].into_response()
}

/// Response with plain text.
pub(super) fn text(text: impl Into<String>) -> Response {
    ([API_HEADER, TEXT_TYPE], text.into()).into_response()
}

/// Response with a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("what is answered has only string keys");
    ([API_HEADER, JSON_TYPE], body).into_response()
}
