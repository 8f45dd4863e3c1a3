//! From a stream to a list or to a stream elsewhere: the handler of the consumer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::json_filter::{FilteredBody, JsonFilter};
use super::pacer::Pacer;
use crate::commands::common::next_hop::{NextHop, PassOn};
use mqueue::handler::{Handler, Verdict};
use mqueue::proto::Message;

/// Passes messages on in batches; a message is done when the target has it.
#[derive(Debug)]
pub(super) struct BridgeHandler<W> {
    pub(super) target: NextHop<W>,
    pub(super) filter: JsonFilter,
    pub(super) batch: usize,
    /// The times at which messages may be passed on.
    pub(super) pacer: Option<Mutex<Pacer>>,
    pub(super) passed: AtomicU64,
    pub(super) skipped: AtomicU64,
}

impl<W: PassOn> BridgeHandler<W> {
    /// Waits until so many messages more may be passed on.
    async fn wait_for_rate(&self, messages: usize) {
        let Some(pacer) = &self.pacer else { return };
        let due = pacer.lock().unwrap_or_else(PoisonError::into_inner).pass(messages as u64, Instant::now());
        tokio::time::sleep_until(due.into()).await;
    }
}

impl<W: PassOn + Send + Sync + 'static> Handler for BridgeHandler<W> {
    async fn handle(&self, message: Message) -> Verdict {
        let mut verdicts = self.handle_batch(vec![message]).await;
        verdicts.pop().expect("one verdict a message")
    }

    fn batch_size(&self) -> usize {
        self.batch
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(messages.len());
        let mut passing = Vec::with_capacity(messages.len());
        for message in messages {
            verdicts.push(match self.filter.apply(&message.body) {
                FilteredBody::Pass(body) => {
                    passing.push(Message { body, ..message });
                    None
                }
                FilteredBody::Skip => Some(Verdict::done()),
                FilteredBody::NoObject => Some(Verdict::drop("no JSON object, whose fields could be compared")),
            });
        }
        self.skipped.fetch_add((verdicts.len() - passing.len()) as u64, Ordering::Relaxed);
        self.wait_for_rate(passing.len()).await;
        let mut passed = if passing.is_empty() { Vec::new() } else { self.target.pass(passing).await }.into_iter();
        let done = |verdict: &&Verdict| matches!(verdict, Verdict::Done(_));
        self.passed.fetch_add(passed.as_slice().iter().filter(done).count() as u64, Ordering::Relaxed);
        verdicts.into_iter().map(|verdict| verdict.or_else(|| passed.next()).unwrap_or(Verdict::Release)).collect()
    }
}
