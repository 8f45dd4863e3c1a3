//! Lines from stream sockets.
//!
//! A connection is read only while nothing of it waits to be published. Its end is answered with how many lines are published; when the
//! program stops, that many are, and the sender has to send the rest to somebody else.
//!
//! A line is whole when its newline has come. What follows the last newline is not published, however the stream ended: the end of a
//! killed sender looks like any other, and one that ends its side in order may only pass on what a killed one wrote.
//!
//! A sender that is silent keeps its connection until all places are taken; then the one that is silent for longest makes way for a new one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::listen::SocketFile;
use super::outlet::{GivenUp, Outlet};
use crate::commands::common::record_splitter::{Cut, Records};
use mqueue::http::{Place, Places};
use mqueue::net::Answer;

/// Connections at once, of a socket. A silent one makes way for one more; while none is silent, more wait in the kernel.
pub(super) const CONNECTIONS: usize = 256;
/// How long to wait when no connection can be taken.
const PAUSE: Duration = Duration::from_millis(100);
/// When the program stops: a sender that is silent for so long has written what it was writing, and one that is not silent is cut off
/// after so much.
const SILENCE: Duration = Duration::from_millis(20);
const LAST_READS: usize = 64;
/// How long a sender may leave its answer unread.
const ANSWER: Duration = Duration::from_secs(5);
/// The same for one that has made way.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A socket that takes connections.
pub(super) trait Listener {
    /// The next one. Cancel-safe.
    fn next(&self) -> impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>> + Send;
}

impl Listener for UnixListener {
    async fn next(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    async fn next(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Takes connections until the program stops.
pub(super) async fn serve(
    listener: impl Listener,
    file: Option<SocketFile>,
    max_line: usize,
    outlet: Arc<Outlet>,
    tasks: TaskTracker,
) {
    let places = Places::plain(CONNECTIONS);
    loop {
        let next = async {
            let stream = listener.next().await?;
            Ok::<_, io::Error>((stream, places.enter().await))
        };
        tokio::select! {
            biased;
            () = outlet.shutdown.draining.cancelled() => break,
            taken = next => match taken {
                Ok((stream, place)) => {
                    let feed = Feed::new(outlet.clone(), max_line, place);
                    tasks.spawn(feed.serve(stream));
                }
                Err(error) => {
                    tracing::warn!("cannot take a connection: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
    // in this order: see SocketFile
    drop(file);
    drop(listener);
}

/// One connection.
struct Feed {
    outlet: Arc<Outlet>,
    records: Records,
    place: Place,
    /// What was settled so far.
    answer: Answer,
}

/// Why no more is read.
enum Ended {
    /// The sender ended its side, or broke off, or the program stops.
    Over,
    /// The connection had to make way for another.
    Ousted,
}

impl Feed {
    fn new(outlet: Arc<Outlet>, max_line: usize, place: Place) -> Self {
        let records = Records::new(Some(Bytes::from_static(b"\n")), max_line);
        Self { outlet, records, place, answer: Answer { taken: Some(0), refused: 0, unfinished: false } }
    }

    async fn serve(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.outlet.tally.connected();
        if let Ok(ended) = self.read_all(&mut stream).await {
            let patience = match ended {
                Ended::Over => ANSWER,
                Ended::Ousted => {
                    self.outlet.tally.made_way();
                    LAST_WORDS
                }
            };
            let answered = async {
                stream.write_all(format!("{}\n", self.answer).as_bytes()).await?;
                stream.shutdown().await
            };
            match timeout(patience, answered).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("a sender left without its answer: {error}"),
                Err(_) => tracing::debug!("a sender does not read its answer"),
            }
        }
        self.outlet.tally.disconnected();
    }

    /// Publishes all lines up to the stream's end, or the program's, or until the connection has to make way.
    async fn read_all(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Ended, GivenUp> {
        let outlet = self.outlet.clone();
        loop {
            let read = tokio::select! {
                biased;
                () = outlet.shutdown.draining.cancelled() => return self.read_rest(stream).await,
                () = self.place.ousted() => {
                    self.break_off();
                    return Ok(Ended::Ousted);
                }
                read = stream.read(self.records.space()) => read,
            };
            match read {
                Ok(0) => {
                    self.end();
                    return Ok(Ended::Over);
                }
                Ok(read) => {
                    if !self.take(read).await? {
                        return Ok(Ended::Ousted);
                    }
                }
                Err(error) => {
                    tracing::debug!("a sender broke off: {error}");
                    self.break_off();
                    return Ok(Ended::Over);
                }
            }
        }
    }

    /// The program stops: what the sender has written already is taken, as far as it comes at once.
    async fn read_rest(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Ended, GivenUp> {
        for _ in 0..LAST_READS {
            match timeout(SILENCE, stream.read(self.records.space())).await {
                Ok(Ok(0)) => {
                    self.end();
                    return Ok(Ended::Over);
                }
                Ok(Ok(read)) => {
                    if !self.take(read).await? {
                        return Ok(Ended::Ousted);
                    }
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        self.break_off();
        Ok(Ended::Over)
    }

    /// The sender has ended its side: if it did so within a line, the answer says that.
    fn end(&mut self) {
        self.answer.unfinished = self.break_off();
    }

    /// Leaves out what is no whole line; false if there is nothing.
    fn break_off(&mut self) -> bool {
        let is_within_a_line = self.records.end() != Cut::default();
        if is_within_a_line {
            self.outlet.tally.cut_off();
        }
        is_within_a_line
    }

    /// Publishes the lines that are whole now. While it has some the connection does not make way; false if it has had to before.
    async fn take(&mut self, read: usize) -> Result<bool, GivenUp> {
        let cut = self.records.take(read);
        if cut == Cut::default() {
            return Ok(true);
        }
        let Some(_stay) = self.place.stay() else { return Ok(false) };
        let Cut { records, empty, too_long } = cut;
        self.outlet.tally.unusable(empty, too_long);
        let count = records.len() as u64;
        let refused = if records.is_empty() { 0 } else { self.outlet.publish(records).await? };
        self.answer.taken = self.answer.taken.map(|taken| taken + count - refused);
        self.answer.refused += refused + too_long;
        Ok(true)
    }
}
