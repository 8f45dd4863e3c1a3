//! Request bodies: limits on the size, on the time, and on the memory of all bodies together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Gateway;
use crate::commands::common::json_response::RequestError;

/// Timeout of receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit on the bodies of all requests together, in bytes.
pub(super) const MAX_BODY_MEMORY: usize = 64 << 20;

impl Gateway {
    /// Reads the whole body; returns it with the permit for its memory.
    pub(super) async fn read_body(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, OwnedSemaphorePermit), RequestError> {
        let max_bytes = self.settings.limits.max_body_size as usize;
        let too_large = || {
            let line = format!("a body of more than {max_bytes} bytes (--max-body-size): send less per request");
            RequestError::new(StatusCode::PAYLOAD_TOO_LARGE, line)
        };
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let line = format!("Content-Encoding {encoding:?} is not supported: send the body unencoded");
            return Err(RequestError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, line));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > max_bytes) {
            return Err(too_large());
        }
        match timeout(BODY_TIMEOUT, self.collect_body(body, max_bytes, too_large)).await {
            Ok(read) => read,
            Err(_) => {
                let line = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                Err(RequestError::new(StatusCode::REQUEST_TIMEOUT, line))
            }
        }
    }

    async fn collect_body(
        &self,
        mut body: Body,
        max_bytes: usize,
        too_large: impl Fn() -> RequestError,
    ) -> Result<(Bytes, OwnedSemaphorePermit), RequestError> {
        let take = |bytes: usize| {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let full = |_| RequestError::unavailable("too many request bodies at once: try again");
            Arc::clone(&self.body_memory).try_acquire_many_owned(bytes).map_err(full)
        };
        let (mut gathered, mut room) = (BytesMut::new(), take(0)?);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| RequestError::new(StatusCode::BAD_REQUEST, format!("the body was cut off: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if gathered.len() + data.len() > max_bytes {
                return Err(too_large());
            }
            room.merge(take(data.len())?);
            gathered.extend_from_slice(&data);
        }
        Ok((gathered.freeze(), room))
    }
}
