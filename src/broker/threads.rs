//! Threads that serve connections.
//!
//! ```text
//!  listeners ──accept──▶ the caller's thread ─┐
//!                    └─▶ thread 2, 3, …      ─┴─▶ one lock ─▶ BrokerState
//! ```
//!
//! A connection stays on the thread that it is given, with its timers. Threads meet at the lock of
//! the state only, and wake each other's connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::socket::ClientSocket;
use crate::io_error::describe;

/// The threads of a server. Dropping them ends all but the caller's, and the connections that these
/// still have.
#[derive(Debug)]
pub(super) struct ConnectionThreads(Vec<ConnectionThread>);

/// A thread, and the number of its connections.
#[derive(Debug)]
struct ConnectionThread {
    connections: Arc<AtomicUsize>,
    place: ThreadPlace,
}

#[derive(Debug)]
enum ThreadPlace {
    /// The caller's thread.
    Caller,
    /// A thread with a runtime of its own.
    Own(OwnThread),
    /// A thread of a simulated world.
    #[cfg(test)]
    Simulated(crate::simulated::StallingThread),
}

#[derive(Debug)]
struct OwnThread {
    runtime: Handle,
    /// Ends the thread when it is dropped.
    stop: Option<DropGuard>,
    thread: Option<JoinHandle<()>>,
}

impl OwnThread {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let thread = std::thread::Builder::new().name(format!("connections-{number}"));
        let thread = thread.spawn(move || {
            runtime.block_on(stopped);
            // a read of the log that runs is not waited for
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, stop: Some(stop.drop_guard()), thread: Some(thread) })
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        self.stop = None;
        // a panic of the thread was printed already
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Counts a connection of a thread until it is dropped.
struct ThreadConnection(Arc<AtomicUsize>);

impl Drop for ThreadConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionThreads {
    /// Starts threads until there are `count`, the caller's included; fewer if the system refuses
    /// more.
    pub(super) fn start(count: usize) -> Self {
        let thread = |place| ConnectionThread { connections: Arc::default(), place };
        #[cfg(test)]
        if crate::simulated::is_running() && count > 1 {
            return Self((0..count).map(|_| thread(ThreadPlace::Simulated(Default::default()))).collect());
        }
        let mut threads = vec![thread(ThreadPlace::Caller)];
        for number in 2..=count {
            match OwnThread::start(number) {
                Ok(own) => threads.push(thread(ThreadPlace::Own(own))),
                Err(error) => {
                    let threads = number - 1;
                    tracing::warn!(error = %describe(&error), threads, "cannot start a thread; connections share fewer");
                    break;
                }
            }
        }
        Self(threads)
    }

    /// Serves a connection on the thread that has the fewest.
    pub(super) fn spawn<F>(
        &self,
        tasks: &TaskTracker,
        socket: ClientSocket,
        serve: impl FnOnce(ClientSocket) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self.0.iter().min_by_key(|thread| thread.connections.load(Ordering::Relaxed));
        let ConnectionThread { connections, place } = fewest.expect("the caller's thread is there");
        connections.fetch_add(1, Ordering::Relaxed);
        let counted = ThreadConnection(connections.clone());
        match place {
            ThreadPlace::Caller => {
                let serving = serve(socket);
                tasks.spawn(async move {
                    serving.await;
                    drop(counted);
                });
            }
            ThreadPlace::Own(own) => {
                let detached = socket.detach();
                let serving = async move {
                    match detached.and_then(|detached| detached.attach()) {
                        Ok(socket) => serve(socket).await,
                        Err(error) => {
                            tracing::warn!(error = %describe(&error), "cannot move a connection to its thread; it is closed");
                        }
                    }
                    drop(counted);
                };
                tasks.spawn_on(serving, &own.runtime);
            }
            #[cfg(test)]
            ThreadPlace::Simulated(stalling) => {
                let serving = serve(socket);
                let stalling = stalling.clone();
                tasks.spawn(async move {
                    stalling.run(serving).await;
                    drop(counted);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;

    /// A socket, and the client's end of it.
    async fn pair(listener: &TcpListener) -> (ClientSocket, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (ClientSocket::Tcp(accepted.unwrap().0), client.unwrap())
    }

    #[tokio::test]
    async fn connections_share_the_threads_evenly_and_end_with_them() {
        let (threads, tasks) = (ConnectionThreads::start(3), TaskTracker::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (names, mut named) = mpsc::unbounded_channel();
        let mut clients = Vec::new();
        for _ in 0..6 {
            let (socket, client) = pair(&listener).await;
            let names = names.clone();
            threads.spawn(&tasks, socket, |mut socket| async move {
                names.send(std::thread::current().id()).unwrap();
                let mut byte = [0];
                socket.read_exact(&mut byte).await.unwrap();
                socket.write_all(&byte).await.unwrap();
                std::future::pending().await
            });
            clients.push(client);
        }
        let mut counts = std::collections::HashMap::new();
        for _ in 0..6 {
            *counts.entry(named.recv().await.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
        for (number, client) in (0..).zip(&mut clients) {
            client.write_all(&[number]).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), number);
        }
        drop(threads);
        // the first and the fourth are the caller's
        for ended in [1, 2, 4, 5] {
            assert_eq!(clients[ended].read(&mut [0]).await.unwrap(), 0);
        }
        assert_eq!(tasks.len(), 2);
    }
}
