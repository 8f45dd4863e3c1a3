//! Keeps a stream of jobs open, and cuts it into jobs.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use reqwest::Response;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::answers::Note;
use super::queue::{Denied, Queue};
use crate::commands::common::job::JobLine;
use crate::commands::common::notice::Notice;
use mqueue::backoff::Backoff;
use mqueue::proto::Message;

/// A line longer than this is no job: more than the largest message that nsqd can be told to take, in base64.
const LONGEST_LINE: usize = 64 << 20;

/// Bytes a second of a line that has to come at least, once it has taken as long as the gateway may be silent.
const LEAST_RATE: usize = 16 * 1024;

/// A job to be done.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) token: String,
    pub(super) message: Message,
}

/// Takes jobs until all is over, with a new stream whenever one ends. Fails if the gateway refuses for good.
pub(super) async fn run(
    queue: Arc<Queue>,
    works: mpsc::Sender<Vec<Work>>,
    notes: mpsc::UnboundedSender<Note>,
    over: CancellationToken,
    draining: CancellationToken,
) -> Result<(), String> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10), fastrand::Rng::new());
    let away = Notice::default();
    loop {
        let taken = tokio::select! {
            () = over.cancelled() => return Ok(()),
            taken = queue.take() => taken,
        };
        let (why, after) = match taken {
            Ok((response, silence)) => {
                if away.ends() {
                    tracing::info!("{} answers again", queue.shown);
                }
                backoff.reset();
                let why = tokio::select! {
                    biased;
                    () = over.cancelled() => return Ok(()),
                    why = read(response, silence, &works, &notes) => why,
                };
                (format!("the stream of jobs from {} ended: {why}", queue.shown), None)
            }
            Err(Denied::ForNow(why, after)) => (why, after),
            Err(Denied::ForGood(why)) => return Err(why),
        };
        if draining.is_cancelled() {
            // jobs were given back, after which the gateway ends the stream
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

/// Reads a stream to its end, and says why that was.
async fn read(
    mut response: Response,
    silence: Duration,
    works: &mpsc::Sender<Vec<Work>>,
    notes: &mpsc::UnboundedSender<Note>,
) -> String {
    let mut rest = BytesMut::new();
    // a gateway with nothing to say sends empty lines: it is lines that are waited for
    let mut line_began = Instant::now();
    loop {
        let due = line_began + silence + Duration::from_secs((rest.len() / LEAST_RATE) as u64);
        let chunk = match timeout_at(due, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return "the gateway ended it".to_owned(),
            Ok(Err(error)) => return mqueue::http::client::cause(&error),
            Err(_) => return format!("no line came for {} s", line_began.elapsed().as_secs()),
        };
        let searched = rest.len();
        rest.extend_from_slice(&chunk);
        if rest.len() > LONGEST_LINE {
            return "a line that is too long".to_owned();
        }
        let Some(end) = memchr::memrchr(b'\n', &rest[searched..]) else { continue };
        let lines = rest.split_to(searched + end + 1);
        line_began = Instant::now();
        let mut batch = Vec::new();
        for line in lines[..].split(|byte: &u8| *byte == b'\n').filter(|line| !line.is_empty()) {
            match parse(line) {
                Ok(work) => batch.push(work),
                Err(why) => return format!("a line that is no job: {why}"),
            }
        }
        if batch.is_empty() {
            continue;
        }
        let tokens = batch.iter().map(|work| work.token.clone()).collect();
        if notes.send(Note::Taken(tokens)).is_err() || works.send(batch).await.is_err() {
            std::future::pending::<()>().await;
        }
        // it was not read while there was no room for its jobs
        line_began = Instant::now();
    }
}

fn parse(line: &[u8]) -> Result<Work, String> {
    let job: JobLine<'_> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let message = job.message()?;
    Ok(Work { token: job.token.into_owned(), message })
}
