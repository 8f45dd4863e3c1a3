//! Keeps a stream of jobs open, and parses its lines.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use reqwest::Response;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::answers::AnswerEvent;
use super::gateway_client::{GatewayClient, GatewayRefusal};
use super::meter::JobMeter;
use crate::commands::common::job::JobLine;
use crate::commands::common::notice::Notice;
use mqueue::backoff::Backoff;
use mqueue::proto::Message;

/// Limit on a line in bytes: more than the largest message that nsqd can be configured for, in
/// base64.
const MAX_LINE_BYTES: usize = 64 << 20;

/// Least rate of a long line, in bytes per second: it extends the allowed silence.
const MIN_BYTES_PER_SECOND: usize = 16 * 1024;

/// A job from the gateway.
#[derive(Debug)]
pub(super) struct ReceivedJob {
    pub(super) token: String,
    pub(super) message: Message,
}

/// Receives jobs until `over` is cancelled, and reconnects whenever the stream ends. Fails if the
/// gateway refuses for good.
pub(super) async fn run(
    gateway: Arc<GatewayClient>,
    jobs: mpsc::Sender<Vec<ReceivedJob>>,
    events: mpsc::UnboundedSender<AnswerEvent>,
    over: CancellationToken,
    draining: CancellationToken,
    meter: Option<Arc<JobMeter>>,
) -> Result<(), String> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10), fastrand::Rng::new());
    let away = Notice::default();
    loop {
        let taken = tokio::select! {
            () = over.cancelled() => return Ok(()),
            taken = gateway.take() => taken,
        };
        let (why, after) = match taken {
            Ok((response, silence)) => {
                if away.ends() {
                    tracing::info!("{} answers again", gateway.shown);
                }
                backoff.reset();
                meter.iter().for_each(|meter| meter.connected(true));
                let why = tokio::select! {
                    biased;
                    () = over.cancelled() => return Ok(()),
                    why = read(response, silence, &jobs, &events) => why,
                };
                meter.iter().for_each(|meter| meter.connected(false));
                (format!("the stream of jobs from {} ended: {why}", gateway.shown), None)
            }
            Err(GatewayRefusal::Temporary(why, after)) => (why, after),
            Err(GatewayRefusal::Permanent(why)) => return Err(why),
        };
        if draining.is_cancelled() {
            // after jobs are released, the gateway ends the stream
            tracing::debug!("{why}");
            over.cancelled().await;
            return Ok(());
        }
        if away.begins() {
            tracing::warn!("{why}; trying again");
        }
        tokio::select! {
            () = over.cancelled() => return Ok(()),
            () = sleep(after.unwrap_or_default().max(backoff.next().unwrap_or_default())) => {}
        }
    }
}

/// Reads a stream to its end, and returns the reason of the end.
async fn read(
    mut response: Response,
    silence: Duration,
    jobs: &mpsc::Sender<Vec<ReceivedJob>>,
    events: &mpsc::UnboundedSender<AnswerEvent>,
) -> String {
    let mut rest = BytesMut::new();
    // an idle gateway sends empty lines as heartbeats, so the timeout is between lines
    let mut line_began = Instant::now();
    loop {
        let due = line_began + silence + Duration::from_secs((rest.len() / MIN_BYTES_PER_SECOND) as u64);
        let chunk = match timeout_at(due, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return "the gateway closed it".to_owned(),
            Ok(Err(error)) => return mqueue::http::client::cause(&error),
            Err(_) => return format!("no line came for {} s", line_began.elapsed().as_secs()),
        };
        let searched = rest.len();
        rest.extend_from_slice(&chunk);
        if rest.len() > MAX_LINE_BYTES {
            return "a line that is too long".to_owned();
        }
        let Some(end) = memchr::memrchr(b'\n', &rest[searched..]) else { continue };
        let lines = rest.split_to(searched + end + 1);
        line_began = Instant::now();
        let mut batch = Vec::new();
        for line in lines[..].split(|byte: &u8| *byte == b'\n').filter(|line| !line.is_empty()) {
            match parse(line) {
                Ok(job) => batch.push(job),
                Err(why) => return format!("a line that is not a job: {why}"),
            }
        }
        if batch.is_empty() {
            continue;
        }
        let received = batch.iter().map(|job| (job.token.clone(), job.message.timestamp)).collect();
        if events.send(AnswerEvent::Received(received)).is_err() || jobs.send(batch).await.is_err() {
            std::future::pending::<()>().await;
        }
        // the time spent waiting for room does not count as silence
        line_began = Instant::now();
    }
}

fn parse(line: &[u8]) -> Result<ReceivedJob, String> {
    let job: JobLine<'_> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let message = job.message()?;
    Ok(ReceivedJob { token: job.token.into_owned(), message })
}
