//! A small HTTP server beside a command's work: bounded in connections, and each bounded in time, so that whoever reads slowly, or
//! opens many and says nothing, harms nobody but other readers. And what servers of long connections share: [`connection()`], [`Places`].

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Manners, Places, connection};
use crate::net::listen;
use crate::proto::HostPort;

/// Requests that are answered at once.
const TURNS: usize = 64;
/// How long a connection may last, from its first byte to its last, and each of its waits.
const LIFE: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    places: Places,
    life: Duration,
}

impl Door {
    /// Listens, on a port of the system's choice if it is 0. Fails if the address cannot be had.
    pub async fn bind(address: &HostPort) -> io::Result<Self> {
        let listener = listen(address).await?;
        Ok(Self { listener, places: Places::new(TURNS), life: LIFE })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until it is dropped.
    pub async fn serve(mut self, router: Router) -> Infallible {
        let life = self.life;
        let manners = Manners { head_time: life, write_time: life, life: Some(life), title_case_headers: false };
        let mut connections = JoinSet::new();
        loop {
            // waits a moment when the system has no more to give
            let (stream, _) = axum::serve::Listener::accept(&mut self.listener).await;
            let place = self.places.enter().await;
            while connections.try_join_next().is_some() {}
            let service = TowerToHyperService::new(router.clone());
            connections.spawn(connection(service, stream, manners, place, CancellationToken::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn door(connections: usize, life: Duration) -> SocketAddr {
        let mut door = Door::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        (door.places, door.life) = (Places::new(connections), life);
        let address = door.address().unwrap();
        tokio::spawn(door.serve(Router::new().route("/", get(|| async { "hello" }))));
        address
    }

    #[tokio::test]
    async fn who_says_nothing_is_sent_away_and_others_are_served() {
        let address = door(2, Duration::from_millis(100)).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // half a request, for good
        silent[0].write_all(b"GET / HT").await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
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
