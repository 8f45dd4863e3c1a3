//! Listening for many: the system's own backlog is short, and who does not fit into it tries again after a second, then two, then four.

use std::io;

use nix::sys::socket::{Backlog, listen as set_backlog};
use tokio::net::{TcpListener, ToSocketAddrs};

/// Listens with as long a backlog as the system allows (`net.core.somaxconn`). Fails if the address cannot be had.
pub async fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    // of a socket that listens already it changes the backlog
    set_backlog(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_does_not_wait_for_anybody_to_accept_them() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let (address, start) = (listener.local_addr().unwrap(), Instant::now());
        let burst: Vec<_> = (0..500).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        assert!(start.elapsed() < Duration::from_millis(900), "{} took {:?}", burst.len(), start.elapsed());
    }
}
