//! A small HTTP server beside a command's work, with a limit of connections and time limits for
//! each: slow readers and silent connections harm only each other. Long-lived servers share its
//! parts: [`serve_connection()`] and [`ConnectionSlots`].

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{BrowserGuard, ConnectionLimits, ConnectionSlots, ServerSettings, serve_connection};
use crate::net::listen;
use crate::proto::HostPort;

/// The maximum of concurrent requests.
const MAX_CONCURRENT_REQUESTS: usize = 64;
/// The maximum age of a connection, and of each wait in it.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);

/// A listening socket with limits for its connections.
#[derive(Debug)]
pub struct BoundedListener {
    listener: TcpListener,
    slots: ConnectionSlots,
    life: Duration,
    guard: BrowserGuard,
}

impl BoundedListener {
    /// Listens; port 0 lets the system choose one. Requests may name the host of the address, and
    /// those of `guard`. Fails if the address is not available.
    pub async fn bind(address: &HostPort, guard: BrowserGuard) -> io::Result<Self> {
        let listener = listen(address).await?;
        let (slots, guard) = (ConnectionSlots::new(MAX_CONCURRENT_REQUESTS), guard.with_host(address.host()));
        Ok(Self { listener, slots, life: CONNECTION_LIFE, guard })
    }

    /// Returns the address of the socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until the future is dropped.
    pub async fn serve(mut self, router: Router) -> Infallible {
        let life = self.life;
        let limits =
            ConnectionLimits { head_time: life, write_time: life, life: Some(life), title_case_headers: false };
        let forbidden = |line: String| (StatusCode::FORBIDDEN, line + "\n").into_response();
        let settings = Arc::new(ServerSettings::new(limits, self.guard, forbidden));
        let mut connections = JoinSet::new();
        loop {
            // pauses when the system has no file descriptors left
            let (stream, _) = axum::serve::Listener::accept(&mut self.listener).await;
            let slot = self.slots.enter().await;
            while connections.try_join_next().is_some() {}
            let service = TowerToHyperService::new(router.clone());
            connections.spawn(serve_connection(service, stream, settings.clone(), slot, CancellationToken::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn listener(connections: usize, life: Duration) -> SocketAddr {
        let mut listener =
            BoundedListener::bind(&"127.0.0.1:0".parse().unwrap(), BrowserGuard::default()).await.unwrap();
        (listener.slots, listener.life) = (ConnectionSlots::new(connections), life);
        let address = listener.address().unwrap();
        tokio::spawn(listener.serve(Router::new().route("/", get(|| async { "hello" }))));
        address
    }

    #[tokio::test]
    async fn idle_connections_are_dropped_and_do_not_block_others() {
        let address = listener(2, Duration::from_millis(100)).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // half a request, and nothing more
        silent[0].write_all(b"GET / HT").await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer:?}");
        for mut stream in silent {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(!rest.starts_with(b"HTTP/1.1 200"), "nothing was asked");
        }
    }
}
