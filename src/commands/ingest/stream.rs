//! Lines from stream sockets.
//!
//! A connection is read only while none of its lines waits to be published. At its end the sender
//! gets the number of lines published. When the program stops, the sender gets the number so far,
//! and has to send the rest elsewhere.
//!
//! A line is complete when its newline has arrived. Text after the last newline is not published,
//! however the stream ended: the end of a killed sender looks like any other, and a sender that
//! closes its side in order may only relay what a killed one wrote.
//!
//! A silent sender keeps its connection until all places are taken; then the one silent for longest
//! makes way for a new one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::listen::IngestSocketFile;
use super::publisher::{FeedPublisher, PublishAborted};
use crate::commands::common::record_splitter::{RecordSplitter, SplitRecords};
use mqueue::http::{ConnectionSlot, ConnectionSlots};
use mqueue::io_error::describe;
use mqueue::net::LineAck;

/// Limit on the connections of a socket. A silent one makes way for a new one; while none is
/// silent, new ones wait in the kernel.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);
/// Limits for a sender when the program stops: silence after which it counts as finished, and the
/// number of reads after which a sender that is not silent is cut off.
const SILENCE: Duration = Duration::from_millis(20);
const MAX_FINAL_READS: usize = 64;
/// Longest time that a sender may leave its answer unread.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same limit for a connection that has to make way.
const OUSTED_ANSWER_TIMEOUT: Duration = Duration::from_millis(100);

/// A socket that accepts connections.
pub(super) trait StreamListener {
    /// Accepts the next connection. Cancel-safe.
    fn next(&self) -> impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>> + Send;
}

impl StreamListener for UnixListener {
    async fn next(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl StreamListener for TcpListener {
    async fn next(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Accepts connections until the program stops.
pub(super) async fn serve(
    listener: impl StreamListener,
    file: Option<IngestSocketFile>,
    max_line: usize,
    publisher: Arc<FeedPublisher>,
    tasks: TaskTracker,
) {
    let places = ConnectionSlots::without_turns(MAX_CONNECTIONS);
    loop {
        let next = async {
            let stream = listener.next().await?;
            Ok::<_, io::Error>((stream, places.enter().await))
        };
        tokio::select! {
            biased;
            () = publisher.shutdown.draining.cancelled() => break,
            taken = next => match taken {
                Ok((stream, place)) => {
                    let connection = FeedConnection::new(publisher.clone(), max_line, place);
                    tasks.spawn(connection.serve(stream));
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {}", describe(&error));
                    sleep(PAUSE).await;
                }
            }
        }
    }
    // in this order: see `IngestSocketFile`
    drop(file);
    drop(listener);
}

/// A connection from a sender.
struct FeedConnection {
    publisher: Arc<FeedPublisher>,
    records: RecordSplitter,
    place: ConnectionSlot,
    /// The answer for the lines settled so far.
    answer: LineAck,
}

/// Reason why reading ended.
enum ReadEnd {
    /// The sender closed its side or broke off, or the program stops.
    Over,
    /// The connection had to make way for another.
    Ousted,
}

impl FeedConnection {
    fn new(publisher: Arc<FeedPublisher>, max_line: usize, place: ConnectionSlot) -> Self {
        let records = RecordSplitter::new(Some(Bytes::from_static(b"\n")), max_line);
        Self { publisher, records, place, answer: LineAck { taken: Some(0), refused: 0, unfinished: false } }
    }

    async fn serve(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.publisher.stats.connected();
        if let Ok(ended) = self.read_all(&mut stream).await {
            let patience = match ended {
                ReadEnd::Over => ANSWER_TIMEOUT,
                ReadEnd::Ousted => {
                    self.publisher.stats.made_way();
                    OUSTED_ANSWER_TIMEOUT
                }
            };
            let answered = async {
                stream.write_all(format!("{}\n", self.answer).as_bytes()).await?;
                stream.shutdown().await
            };
            match timeout(patience, answered).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("a sender closed before its answer: {}", describe(&error)),
                Err(_) => tracing::debug!("a sender does not read its answer"),
            }
        }
        self.publisher.stats.disconnected();
    }

    /// Publishes all lines until the stream ends, the program stops, or the connection has to make
    /// way.
    async fn read_all(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<ReadEnd, PublishAborted> {
        let publisher = self.publisher.clone();
        loop {
            let read = tokio::select! {
                biased;
                () = publisher.shutdown.draining.cancelled() => return self.read_rest(stream).await,
                () = self.place.evicted() => {
                    self.break_off();
                    return Ok(ReadEnd::Ousted);
                }
                read = stream.read(self.records.space()) => read,
            };
            match read {
                Ok(0) => {
                    self.end();
                    return Ok(ReadEnd::Over);
                }
                Ok(read) => {
                    if !self.take(read).await? {
                        return Ok(ReadEnd::Ousted);
                    }
                }
                Err(error) => {
                    tracing::debug!("a sender broke off: {}", describe(&error));
                    self.break_off();
                    return Ok(ReadEnd::Over);
                }
            }
        }
    }

    /// Reads and publishes what the sender has already written, as the program stops.
    async fn read_rest(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<ReadEnd, PublishAborted> {
        for _ in 0..MAX_FINAL_READS {
            match timeout(SILENCE, stream.read(self.records.space())).await {
                Ok(Ok(0)) => {
                    self.end();
                    return Ok(ReadEnd::Over);
                }
                Ok(Ok(read)) => {
                    if !self.take(read).await? {
                        return Ok(ReadEnd::Ousted);
                    }
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        self.break_off();
        Ok(ReadEnd::Over)
    }

    /// Handles the sender's end of stream: notes in the answer whether it ended within a line.
    fn end(&mut self) {
        self.answer.unfinished = self.break_off();
    }

    /// Discards an unfinished line; returns false if there is none.
    fn break_off(&mut self) -> bool {
        let is_within_a_line = self.records.end() != SplitRecords::default();
        if is_within_a_line {
            self.publisher.stats.cut_off();
        }
        is_within_a_line
    }

    /// Publishes the complete lines. Meanwhile the connection does not make way; returns false if
    /// it already had to.
    async fn take(&mut self, read: usize) -> Result<bool, PublishAborted> {
        let cut = self.records.take(read);
        if cut == SplitRecords::default() {
            return Ok(true);
        }
        let Some(_stay) = self.place.busy() else { return Ok(false) };
        let SplitRecords { records, empty, too_long } = cut;
        self.publisher.stats.unusable(empty, too_long);
        let count = records.len() as u64;
        let refused = if records.is_empty() { 0 } else { self.publisher.publish(records).await? };
        self.answer.taken = self.answer.taken.map(|taken| taken + count - refused);
        self.answer.refused += refused + too_long;
        Ok(true)
    }
}
