//! A response body that holds something until it is sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Bytes that are handed on at a time. hyper takes the next ones when it has written most of those
/// before, so a body that it gets whole would count as sent while nothing is.
const PIECE: usize = 64 * 1024;

/// Returns a body that drops `guard`, such as a permit, when all but some 500 KiB of it is written
/// to the socket, or when its client is gone.
pub fn hold_until_sent(body: Body, guard: impl Send + Unpin + 'static) -> Body {
    Body::new(GuardedBody { body, rest: Bytes::new(), _guard: guard })
}

struct GuardedBody<G> {
    body: Body,
    /// The rest of the data that was taken from `body` last.
    rest: Bytes,
    _guard: G,
}

impl<G: Unpin> hyper::body::Body for GuardedBody<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use hyper::body::Body as _;

    use super::*;

    #[test]
    fn a_body_is_handed_on_in_pieces_and_holds_its_guard_to_the_last() {
        let guard = Arc::new(());
        let mut body = hold_until_sent(Body::from(vec![1; PIECE + 2]), guard.clone());
        let mut cx = Context::from_waker(Waker::noop());
        for (length, left) in [(PIECE, 2), (2, 0)] {
            assert!(!body.is_end_stream() && Arc::strong_count(&guard) == 2);
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!("not ready") };
            assert_eq!(frame.into_data().unwrap().len(), length);
            assert_eq!(body.size_hint().exact(), Some(left));
        }
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
