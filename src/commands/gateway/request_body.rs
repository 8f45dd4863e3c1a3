//! A request's body: not larger than allowed, not slower, and all of them together within bounds.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Gateway;
use super::refusal::Refusal;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Bytes of bodies of all requests together.
pub(super) const ROOM: usize = 64 << 20;

impl Gateway {
    /// The whole body, and the room that it takes for as long as it is needed.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        let most = self.settings.limits.max_body_size as usize;
        let too_large = || {
            let line = format!("a body of more than {most} bytes: send less at once (--max-body-size)");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, line)
        };
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let line = format!("a body in {encoding:?}: send it as it is, without Content-Encoding");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, line));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        match timeout(BODY_TIME, self.gather(body, most, too_large)).await {
            Ok(read) => read,
            Err(_) => {
                let line = format!("the body did not come within {} s", BODY_TIME.as_secs());
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, line))
            }
        }
    }

    async fn gather(
        &self,
        mut body: Body,
        most: usize,
        too_large: impl Fn() -> Refusal,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        let take = |bytes: usize| {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let full = |_| Refusal::unavailable("too many requests have bodies on their way");
            Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(full)
        };
        let (mut gathered, mut room) = (BytesMut::new(), take(0)?);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body was cut off: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if gathered.len() + data.len() > most {
                return Err(too_large());
            }
            room.merge(take(data.len())?);
            gathered.extend_from_slice(&data);
        }
        Ok((gathered.freeze(), room))
    }
}
