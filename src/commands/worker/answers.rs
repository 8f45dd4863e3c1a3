//! What the gateway is told: verdicts, all that gathered at once, and, when there are none for a while, that work goes on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::queue::{Denied, Queue, Settled};
use mqueue::backoff::Backoff;
use mqueue::handler::Verdict;
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;

/// Verdicts in one request.
const BATCH: usize = 1000;
const LONGEST_REASON: usize = 1000;
/// How long giving jobs back may take at the end.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// What the rest of the worker has to tell.
#[derive(Debug)]
pub(super) enum Note {
    /// Jobs came.
    Taken(Vec<String>),
    /// What became of one.
    Verdict(String, Verdict),
    /// No more verdicts will come.
    End,
}

/// What was done, in jobs.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) retried: u64,
    pub(super) dropped: u64,
    /// Answered when the gateway had taken them back: they come again.
    pub(super) late: u64,
}

/// The way back to the gateway.
pub(super) struct Answers {
    queue: Arc<Queue>,
    notes: mpsc::UnboundedReceiver<Note>,
    /// The gateway hears of us at least this often while jobs are here.
    every: Duration,
    count: Option<u64>,
    shutdown: Shutdown,
    /// The jobs that are here.
    held: HashSet<String>,
    tally: Tally,
    ended: bool,
}

/// Answers that are the same but for their token.
#[derive(Debug, PartialEq, Eq)]
struct Same {
    verb: &'static str,
    params: Vec<(&'static str, String)>,
}

impl Answers {
    pub(super) fn new(
        queue: Arc<Queue>,
        notes: mpsc::UnboundedReceiver<Note>,
        deadline: Duration,
        count: Option<u64>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            queue,
            notes,
            every: deadline / 3,
            count,
            shutdown,
            held: HashSet::new(),
            tally: Tally::default(),
            ended: false,
        }
    }

    /// Tells the gateway, up to the end.
    pub(super) async fn run(mut self) -> Tally {
        let mut gathered = Vec::new();
        let mut heard = Instant::now();
        while !self.ended {
            if self.held.is_empty() {
                heard = Instant::now();
            }
            tokio::select! {
                _ = self.notes.recv_many(&mut gathered, BATCH) => {
                    if self.tell(gathered.drain(..)).await {
                        heard = Instant::now();
                    }
                }
                () = sleep_until(heard + self.every) => {
                    self.touch().await;
                    heard = Instant::now();
                }
            }
            if self.count.is_some_and(|count| self.tally.done >= count) {
                self.shutdown.draining.cancel();
            }
        }
        self.give_back().await;
        self.tally
    }

    /// Gives back what was not done: without a word the gateway would take it for what this worker died of.
    async fn give_back(&mut self) {
        let tokens: Vec<String> = self.held.drain().collect();
        if tokens.is_empty() {
            return;
        }
        let given_back = timeout(GIVE_BACK, self.queue.answer("release", &[], &tokens)).await;
        if let Ok(Err(Denied::ForNow(why, _) | Denied::ForGood(why))) = given_back {
            tracing::debug!("cannot give back {}, the connection's end does it: {why}", count(tokens.len(), "job"));
        }
    }

    /// True if the gateway was told something.
    async fn tell(&mut self, notes: impl Iterator<Item = Note>) -> bool {
        let mut groups: Vec<(Same, Vec<String>)> = Vec::new();
        for note in notes {
            let (token, verdict) = match note {
                Note::Taken(tokens) => {
                    self.held.extend(tokens);
                    continue;
                }
                Note::Verdict(token, verdict) => (token, verdict),
                Note::End => {
                    self.ended = true;
                    continue;
                }
            };
            // what was not tried is given back at the end
            let Some(same) = same(verdict) else { continue };
            self.held.remove(&token);
            match groups.iter_mut().find(|(other, _)| *other == same) {
                Some((_, tokens)) => tokens.push(token),
                None => groups.push((same, vec![token])),
            }
        }
        let told = !groups.is_empty();
        for (same, tokens) in groups {
            self.say(&same, &tokens).await;
        }
        told
    }

    /// Says it until the gateway has heard it, or the program is to end now.
    async fn say(&mut self, same: &Same, tokens: &[String]) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::Rng::new());
        let params: Vec<(&str, &str)> = same.params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut is_first = true;
        loop {
            let why = match self.queue.answer(same.verb, &params, tokens).await {
                Ok(settled) => return self.count(same.verb, tokens.len(), &settled),
                Err(Denied::ForGood(why)) => {
                    tracing::error!("to come again: {}: {why}", count(tokens.len(), "job"));
                    self.tally.late += tokens.len() as u64;
                    return;
                }
                Err(Denied::ForNow(why, _)) => why,
            };
            if std::mem::take(&mut is_first) {
                tracing::warn!(
                    "{} for {} cannot be said yet, trying again: {why}",
                    same.verb,
                    count(tokens.len(), "job")
                );
            }
            tokio::select! {
                () = self.shutdown.now.cancelled() => return,
                () = sleep(backoff.next().unwrap_or_default()) => {}
            }
        }
    }

    fn count(&mut self, verb: &str, all: usize, settled: &Settled) {
        let late = settled.gone.len() + settled.elsewhere.len();
        if late > 0 {
            tracing::warn!("{verb} came too late for {}, taken back by the gateway to come again", count(late, "job"));
        }
        if !settled.failed.is_empty() {
            tracing::warn!(
                "to come again: {} that the gateway cannot put to the dead letters",
                count(settled.failed.len(), "job")
            );
        }
        self.tally.late += late as u64;
        let taken = all.saturating_sub(late + settled.failed.len()) as u64;
        match verb {
            "done" => self.tally.done += taken,
            "retry" | "release" => self.tally.retried += taken,
            _ => self.tally.dropped += taken,
        }
    }

    /// Says that work goes on. Those jobs that were taken back are not heard of again.
    async fn touch(&mut self) {
        let tokens: Vec<String> = self.held.iter().cloned().collect();
        if tokens.is_empty() {
            return;
        }
        match self.queue.answer("touch", &[], &tokens).await {
            Ok(settled) => settled.gone.iter().chain(&settled.elsewhere).for_each(|token| {
                self.held.remove(token);
            }),
            Err(Denied::ForNow(why, _) | Denied::ForGood(why)) => tracing::debug!("cannot touch: {why}"),
        }
    }
}

/// How a verdict is said; `None` for what was not tried.
fn same(verdict: Verdict) -> Option<Same> {
    let reason = |why: String| {
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect();
        (!why.is_empty()).then_some(("reason", why))
    };
    Some(match verdict {
        Verdict::Done(_) => Same { verb: "done", params: Vec::new() },
        Verdict::Retry { after, why } | Verdict::Unanswered { after, why } => {
            let delay = after.map(|after| ("delay", format!("{}ms", after.as_millis())));
            Same { verb: "retry", params: delay.into_iter().chain(reason(why)).collect() }
        }
        Verdict::Drop { why } => Same { verb: "drop", params: reason(why).into_iter().collect() },
        // this worker is of no use: the gateway takes the job back untried, and ends its stream
        Verdict::Unavailable { .. } => Same { verb: "release", params: Vec::new() },
        Verdict::Release => return None,
    })
}
