//! Lines from stream sockets.
//!
//! A connection is read only while nothing of it waits to be published. Its end is answered with how many lines are published; when the
//! program stops, that many are, and the sender has to send the rest to somebody else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::listen::SocketFile;
use super::outlet::{GivenUp, Outlet};
use crate::feed::Answer;
use crate::records::{Cut, Records};

/// Connections at once, of a socket. More wait in the kernel.
const CONNECTIONS: usize = 256;
/// How long to wait when no connection can be taken.
const PAUSE: Duration = Duration::from_millis(100);
/// When the program stops: a sender that is silent for so long has written what it was writing, and one that is not silent is cut off
/// after so much.
const SILENCE: Duration = Duration::from_millis(20);
const LAST_READS: usize = 64;
/// How long a sender may leave its answer unread.
const ANSWER: Duration = Duration::from_secs(5);

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
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned();
        let next = async { (permit.await.expect("it is never closed"), listener.next().await) };
        tokio::select! {
            biased;
            () = outlet.shutdown.draining.cancelled() => break,
            (permit, taken) = next => match taken {
                Ok(stream) => {
                    let feed = Feed::new(outlet.clone(), max_line);
                    tasks.spawn(async move {
                        feed.serve(stream).await;
                        drop(permit);
                    });
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
    /// What was settled so far.
    answer: Answer,
}

impl Feed {
    fn new(outlet: Arc<Outlet>, max_line: usize) -> Self {
        let records = Records::new(Some(Bytes::from_static(b"\n")), max_line);
        Self { outlet, records, answer: Answer { taken: Some(0), refused: 0 } }
    }

    async fn serve(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.outlet.tally.connected();
        if let Ok(()) = self.read_all(&mut stream).await {
            let answered = async {
                stream.write_all(format!("{}\n", self.answer).as_bytes()).await?;
                stream.shutdown().await
            };
            match timeout(ANSWER, answered).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("a sender left without its answer: {error}"),
                Err(_) => tracing::debug!("a sender does not read its answer"),
            }
        }
        self.outlet.tally.disconnected();
    }

    /// Publishes all lines up to the stream's end, or the program's.
    async fn read_all(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<(), GivenUp> {
        let outlet = self.outlet.clone();
        loop {
            let read = tokio::select! {
                biased;
                () = outlet.shutdown.draining.cancelled() => return self.read_rest(stream).await,
                read = stream.read(self.records.space()) => read,
            };
            match read {
                Ok(0) => {
                    let rest = self.records.end();
                    return self.settle(rest).await;
                }
                Ok(read) => {
                    let cut = self.records.take(read);
                    self.settle(cut).await?;
                }
                Err(error) => {
                    tracing::debug!("a sender broke off: {error}");
                    self.break_off();
                    return Ok(());
                }
            }
        }
    }

    /// The program stops: what the sender has written already is taken, as far as it comes at once.
    async fn read_rest(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<(), GivenUp> {
        for _ in 0..LAST_READS {
            match timeout(SILENCE, stream.read(self.records.space())).await {
                Ok(Ok(0)) => {
                    let rest = self.records.end();
                    return self.settle(rest).await;
                }
                Ok(Ok(read)) => {
                    let cut = self.records.take(read);
                    self.settle(cut).await?;
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        self.break_off();
        Ok(())
    }

    /// What is no whole line is not the sender's last, but half of one.
    fn break_off(&mut self) {
        if self.records.end() != Cut::default() {
            self.outlet.tally.cut_off();
        }
    }

    async fn settle(&mut self, cut: Cut) -> Result<(), GivenUp> {
        let Cut { records, empty, too_long } = cut;
        self.outlet.tally.unusable(empty, too_long);
        let count = records.len() as u64;
        let refused = if records.is_empty() { 0 } else { self.outlet.publish(records).await? };
        self.answer.taken = self.answer.taken.map(|taken| taken + count - refused);
        self.answer.refused += refused + too_long;
        Ok(())
    }
}
