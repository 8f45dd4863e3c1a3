//! The handler of a stage: checks a message, does the work, and passes the result on.

use std::sync::Arc;

use bytes::Bytes;

use super::stats::StageStats;
use crate::commands::common::next_hop::NextHop;
use mqueue::handler::{BuiltinHandler, Handler, Schema, Verdict};
use mqueue::proto::Message;

/// Messages of a batch where there is no work: one command to the next hop, one batch of answers.
const BATCH_SIZE: usize = 1000;

/// The handler of a stage. A message is done when the next hop has acknowledged its result, and not
/// before.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) expect: Option<Schema>,
    pub(super) work: Option<BuiltinHandler>,
    pub(super) next: NextHop<BuiltinHandler>,
    pub(super) stats: Arc<StageStats>,
}

impl Relay {
    /// Returns the verdict for a message that does not fit the schema.
    fn refused(&self, message: &Message) -> Option<Verdict> {
        let why = self.expect.as_ref()?.check(&message.body).err()?;
        self.stats.unfit();
        Some(Verdict::drop(why))
    }

    /// Does the work for these messages.
    async fn worked(&self, messages: Vec<Message>) -> Vec<Verdict> {
        match &self.work {
            _ if messages.is_empty() => Vec::new(),
            None => vec![Verdict::Done(None); messages.len()],
            Some(work) if messages.len() == 1 && work.batch_size() <= 1 => {
                vec![work.handle(messages.into_iter().next().expect("there is one")).await]
            }
            Some(work) => work.handle_batch(messages).await,
        }
    }
}

impl Handler for Relay {
    async fn handle(&self, message: Message) -> Verdict {
        let mut verdicts = self.handle_batch(vec![message]).await;
        verdicts.pop().expect("one verdict a message")
    }

    fn batch_size(&self) -> usize {
        self.work.as_ref().map_or(BATCH_SIZE, Handler::batch_size)
    }

    async fn close(&self) {
        if let Some(work) = &self.work {
            work.close().await;
        }
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let mut verdicts: Vec<Option<Verdict>> = messages.iter().map(|message| self.refused(message)).collect();
        let fit: Vec<usize> = (0..messages.len()).filter(|at| verdicts[*at].is_none()).collect();
        let worked = self.worked(fit.iter().map(|at| messages[*at].clone()).collect()).await;
        let (mut at_hop, mut results): (Vec<usize>, Vec<Message>) = (Vec::new(), Vec::new());
        for (at, verdict) in fit.into_iter().zip(worked) {
            match verdict {
                Verdict::Done(result) => match result_of(result, &messages[at]) {
                    Ok(body) => {
                        at_hop.push(at);
                        results.push(Message { body, ..messages[at].clone() });
                    }
                    Err(why) => verdicts[at] = Some(Verdict::drop(why)),
                },
                other => verdicts[at] = Some(other),
            }
        }
        for (at, verdict) in at_hop.into_iter().zip(self.next.pass(results).await) {
            if matches!(verdict, Verdict::Done(_)) {
                self.stats.passed(messages[at].timestamp);
            }
            verdicts[at] = Some(verdict);
        }
        verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(|| Verdict::retry("no verdict"))).collect()
    }
}

/// Returns the body to pass on: the work's output, or the message's own body. Fails for an empty
/// output: nsqd refuses empty messages, and a message must not be lost silently.
fn result_of(output: Option<Bytes>, message: &Message) -> Result<Bytes, &'static str> {
    match output {
        Some(output) if output.is_empty() => Err("the handler's output is empty: nothing to pass on"),
        Some(output) => Ok(output),
        None => Ok(message.body.clone()),
    }
}
