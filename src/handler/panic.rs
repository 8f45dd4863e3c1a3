//! A handler's panic: it ends one message's try, and not the worker.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::{Handler, Verdict};
use crate::proto::Message;

/// Runs the handler, one call for all messages or, with one message, for it alone; a panic is a
/// retry of each message.
pub(crate) async fn handle_catching_panics<H: Handler>(handler: &H, mut messages: Vec<Message>) -> Vec<Verdict> {
    let count = messages.len();
    let handled = match messages.pop() {
        Some(one) if messages.is_empty() && handler.batch_size() <= 1 => {
            AssertUnwindSafe(handler.handle(one)).catch_unwind().await.map(|verdict| vec![verdict])
        }
        last => {
            messages.extend(last);
            AssertUnwindSafe(handler.handle_batch(messages)).catch_unwind().await
        }
    };
    handled.unwrap_or_else(|_| vec![Verdict::retry("the handler panicked"); count])
}

#[cfg(test)]
mod tests {
    use super::super::testing::message;
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_retry_of_every_message_of_the_call() {
        let handler = |message: Message| async move {
            assert!(message.body != "bad", "a bug");
            Verdict::Done(None)
        };
        let panicked = Verdict::retry("the handler panicked");
        assert_eq!(handle_catching_panics(&handler, vec![message("good")]).await, [Verdict::Done(None)]);
        assert_eq!(handle_catching_panics(&handler, vec![message("bad")]).await, std::slice::from_ref(&panicked));
        let both = vec![message("good"), message("bad")];
        assert_eq!(handle_catching_panics(&handler, both).await, [panicked.clone(), panicked]);
    }
}
