//! Sends verdicts to the gateway, in batches, and touches jobs while there are no verdicts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::gateway_client::{AnswerOutcome, GatewayClient, GatewayRefusal};
use super::meter::JobMeter;
use mqueue::backoff::Backoff;
use mqueue::handler::Verdict;
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;
use mqueue::worker::WorkerStats;

/// The most verdicts handled at once.
const BATCH: usize = 1000;
const MAX_REASON_CHARS: usize = 1000;
/// Timeout of releasing unfinished jobs at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// An event from the rest of the worker.
#[derive(Debug)]
pub(super) enum AnswerEvent {
    /// The gateway handed out jobs: their tokens, and when they were published.
    Received(Vec<(String, i64)>),
    /// A job's token and verdict.
    Verdict(String, Verdict),
    /// No more verdicts will come.
    End,
}

/// The numbers of answered jobs.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct AnswerStats {
    pub(super) done: u64,
    pub(super) retried: u64,
    pub(super) dropped: u64,
    /// Answered after the gateway had requeued them.
    pub(super) late: u64,
}

impl AnswerStats {
    /// Logs the numbers at the end of a run that took this time.
    pub(super) fn log(&self, took: Duration) {
        let Self { done, retried, dropped, late } = self;
        let seconds = took.as_secs_f64();
        tracing::info!("{done} done, {retried} retried, {dropped} dropped, {late} too late, in {seconds:.1} s");
    }
}

/// Sends answers to the gateway.
pub(super) struct AnswerSender {
    gateway: Arc<GatewayClient>,
    events: mpsc::UnboundedReceiver<AnswerEvent>,
    /// The longest time without a request to the gateway while this worker holds jobs.
    every: Duration,
    count: Option<u64>,
    shutdown: Shutdown,
    /// The tokens of the jobs that this worker holds, with their publish times.
    held: HashMap<String, i64>,
    stats: AnswerStats,
    meter: Option<Arc<JobMeter>>,
    ended: bool,
}

/// Answers that differ only in their token.
#[derive(Debug, PartialEq, Eq)]
struct AnswerRequest {
    verb: &'static str,
    params: Vec<(&'static str, String)>,
}

/// Jobs with the same answer.
#[derive(Debug, Default)]
struct AnsweredJobs {
    tokens: Vec<String>,
    /// When each was published.
    timestamps: Vec<i64>,
}

impl AnsweredJobs {
    fn push(&mut self, token: String, timestamp: i64) {
        self.tokens.push(token);
        self.timestamps.push(timestamp);
    }

    /// Returns when the jobs were published whose answers were accepted.
    fn taken<'a>(&'a self, outcome: &'a AnswerOutcome) -> impl Iterator<Item = i64> + 'a {
        let refused: HashSet<&String> = outcome.gone.iter().chain(&outcome.elsewhere).chain(&outcome.failed).collect();
        let all = self.tokens.iter().zip(&self.timestamps);
        all.filter(move |(token, _)| !refused.contains(token)).map(|(_, timestamp)| *timestamp)
    }
}

impl AnswerSender {
    pub(super) fn new(
        gateway: Arc<GatewayClient>,
        events: mpsc::UnboundedReceiver<AnswerEvent>,
        deadline: Duration,
        count: Option<u64>,
        shutdown: Shutdown,
        meter: Option<Arc<JobMeter>>,
    ) -> Self {
        Self {
            gateway,
            events,
            every: deadline / 3,
            count,
            shutdown,
            held: HashMap::new(),
            stats: AnswerStats::default(),
            meter,
            ended: false,
        }
    }

    /// Sends answers and touches until [`AnswerEvent::End`].
    pub(super) async fn run(mut self) -> AnswerStats {
        let mut gathered = Vec::new();
        let mut heard = Instant::now();
        while !self.ended {
            if self.held.is_empty() {
                heard = Instant::now();
            }
            tokio::select! {
                _ = self.events.recv_many(&mut gathered, BATCH) => {
                    if self.send_answers(gathered.drain(..)).await {
                        heard = Instant::now();
                    }
                }
                () = sleep_until(heard + self.every) => {
                    self.touch().await;
                    heard = Instant::now();
                }
            }
            if self.count.is_some_and(|count| self.stats.done >= count) {
                self.shutdown.draining.cancel();
            }
        }
        self.release_unanswered().await;
        self.stats
    }

    /// Releases jobs without a verdict. Otherwise the gateway would count a try, as for a crashed
    /// worker.
    async fn release_unanswered(&mut self) {
        let tokens: Vec<String> = self.held.drain().map(|(token, _)| token).collect();
        self.count_work(WorkerStats { released: tokens.len() as u64, ..WorkerStats::default() });
        if tokens.is_empty() {
            return;
        }
        let given_back = timeout(RELEASE_TIMEOUT, self.gateway.answer("release", &[], &tokens)).await;
        if let Ok(Err(GatewayRefusal::Temporary(why, _) | GatewayRefusal::Permanent(why))) = given_back {
            tracing::debug!(
                "cannot release {}; the gateway requeues them when the connection ends: {why}",
                count(tokens.len(), "job")
            );
        }
    }

    /// Sends the verdicts, one request per kind of answer. Returns true if a request was sent.
    async fn send_answers(&mut self, events: impl Iterator<Item = AnswerEvent>) -> bool {
        let mut groups: Vec<(AnswerRequest, AnsweredJobs)> = Vec::new();
        for note in events {
            let (token, verdict) = match note {
                AnswerEvent::Received(jobs) => {
                    self.held.extend(jobs);
                    continue;
                }
                AnswerEvent::Verdict(token, verdict) => (token, verdict),
                AnswerEvent::End => {
                    self.ended = true;
                    continue;
                }
            };
            // jobs that were not tried are released at the end
            let Some(answer) = answer_for(verdict) else { continue };
            let timestamp = self.held.remove(&token).unwrap_or_default();
            match groups.iter_mut().find(|(other, _)| *other == answer) {
                Some((_, jobs)) => jobs.push(token, timestamp),
                None => {
                    let mut jobs = AnsweredJobs::default();
                    jobs.push(token, timestamp);
                    groups.push((answer, jobs));
                }
            }
        }
        self.meter.iter().for_each(|meter| meter.holds(self.held.len()));
        let told = !groups.is_empty();
        for (answer, jobs) in groups {
            self.send(&answer, &jobs).await;
        }
        told
    }

    /// Sends an answer, and retries until the gateway accepts it, refuses it for good, or the
    /// program must end.
    async fn send(&mut self, answer: &AnswerRequest, jobs: &AnsweredJobs) {
        let tokens = &jobs.tokens;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::Rng::new());
        let params: Vec<(&str, &str)> = answer.params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut is_first = true;
        loop {
            let why = match self.gateway.answer(answer.verb, &params, tokens).await {
                Ok(settled) => return self.count(answer.verb, jobs, &settled),
                Err(GatewayRefusal::Permanent(why)) => {
                    tracing::error!(
                        "answers for {} were refused; nsqd delivers them again: {why}",
                        count(tokens.len(), "job")
                    );
                    self.stats.late += tokens.len() as u64;
                    self.count_work(WorkerStats { released: tokens.len() as u64, ..WorkerStats::default() });
                    return;
                }
                Err(GatewayRefusal::Temporary(why, _)) => why,
            };
            if std::mem::take(&mut is_first) {
                tracing::warn!("cannot send {} for {}, trying again: {why}", answer.verb, count(tokens.len(), "job"));
            }
            tokio::select! {
                () = self.shutdown.now.cancelled() => return,
                () = sleep(backoff.next().unwrap_or_default()) => {}
            }
        }
    }

    fn count(&mut self, verb: &str, jobs: &AnsweredJobs, settled: &AnswerOutcome) {
        let late = settled.gone.len() + settled.elsewhere.len();
        if late > 0 {
            tracing::warn!("{verb} came too late for {}, which the gateway has requeued", count(late, "job"));
        }
        if !settled.failed.is_empty() {
            tracing::warn!(
                "the gateway could not publish dead letters for {}; requeued",
                count(settled.failed.len(), "job")
            );
        }
        self.stats.late += late as u64;
        let failed = settled.failed.len();
        let taken = jobs.tokens.len().saturating_sub(late + failed) as u64;
        match verb {
            "done" => self.stats.done += taken,
            "retry" | "release" => self.stats.retried += taken,
            _ => self.stats.dropped += taken,
        }
        let (done, retried, dead) = match verb {
            "done" => (taken, 0, 0),
            "retry" | "release" => (0, taken, 0),
            _ => (0, 0, taken),
        };
        self.count_work(WorkerStats { done, retried: retried + failed as u64, dead, released: late as u64 });
        if let (Some(meter), "done") = (&self.meter, verb) {
            meter.work.finished(jobs.taken(settled));
        }
    }

    fn count_work(&self, stats: WorkerStats) {
        self.meter.iter().for_each(|meter| meter.work.count(stats));
    }

    /// Touches all held jobs. Forgets those that the gateway has requeued.
    async fn touch(&mut self) {
        let tokens: Vec<String> = self.held.keys().cloned().collect();
        if tokens.is_empty() {
            return;
        }
        match self.gateway.answer("touch", &[], &tokens).await {
            Ok(settled) => settled.gone.iter().chain(&settled.elsewhere).for_each(|token| {
                self.held.remove(token);
            }),
            Err(GatewayRefusal::Temporary(why, _) | GatewayRefusal::Permanent(why)) => {
                tracing::debug!("cannot touch: {why}")
            }
        }
    }
}

/// Returns the answer for a verdict; `None` for a job that was not tried.
fn answer_for(verdict: Verdict) -> Option<AnswerRequest> {
    let reason = |why: String| {
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON_CHARS).collect();
        (!why.is_empty()).then_some(("reason", why))
    };
    Some(match verdict {
        Verdict::Done(_) => AnswerRequest { verb: "done", params: Vec::new() },
        Verdict::Retry { after, why } | Verdict::Unanswered { after, why } => {
            let delay = after.map(|after| ("delay", format!("{}ms", after.as_millis())));
            AnswerRequest { verb: "retry", params: delay.into_iter().chain(reason(why)).collect() }
        }
        Verdict::Drop { why } => AnswerRequest { verb: "drop", params: reason(why).into_iter().collect() },
        // this worker cannot work: the gateway requeues the job without counting a try, and ends
        // the stream
        Verdict::Unavailable { .. } => AnswerRequest { verb: "release", params: Vec::new() },
        Verdict::Release => return None,
    })
}
