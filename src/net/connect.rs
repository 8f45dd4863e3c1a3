//! Connecting by name: "happy eyeballs" (RFC 8305).
//!
//! ```text
//!  name ─▶ addresses, IPv6 and IPv4 alternating ─▶ a: ──────────────── … (no answer)
//!                                                  b: 250 ms later ──▶ connected: wins
//! ```

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
#[cfg(any(feature = "handlers", feature = "broker"))]
use tokio::net::UdpSocket;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use super::NetStream;

/// The delay before the next attempt starts beside a pending one (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first of a host's addresses that answers, without Nagle's delay.
///
/// # Errors
/// `TimedOut` if no address has answered `within` that time, including name resolution; otherwise
/// the error of the first attempt.
///
/// # Cancel safety
/// Dropped, it ends all attempts.
pub async fn connect(host: &str, port: u16, within: Duration) -> io::Result<NetStream> {
    #[cfg(test)]
    if let Some(simulated) = crate::simulated::connect(host, port).await {
        return simulated;
    }
    let connecting = async {
        let addresses = alternate_families(resolve(host, port).await?);
        race(&addresses, TcpStream::connect).await
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {within:?}"));
    let stream = timeout(within, connecting).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    #[cfg(test)]
    let stream = NetStream::Tcp(stream);
    Ok(stream)
}

/// Returns a socket connected to the first of a host's addresses that is routable.
#[cfg(any(feature = "handlers", feature = "broker"))]
pub async fn connect_udp(host: &str, port: u16, within: Duration) -> io::Result<UdpSocket> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("{host} was not resolved within {within:?}"));
    let addresses = timeout(within, resolve(host, port)).await.map_err(|_| late())??;
    let mut failed = None;
    for address in addresses {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let connecting = async {
            let socket = UdpSocket::bind(any).await?;
            socket.connect(address).await?;
            Ok(socket)
        };
        match connecting.await {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(no_address_error))
}

/// Resolves a host name. `localhost` is this machine even if no file or server says so (RFC 6761).
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match lookup_host((host, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(_) if host == "localhost" => {
            Ok(vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()])
        }
        Err(error) => Err(error),
    }
}

fn no_address_error() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

/// Alternates the address families, starting with the family of the first address; the order within
/// a family stays (RFC 8305, section 4).
fn alternate_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let count = addresses.len();
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut mixed = Vec::with_capacity(count);
    while mixed.len() < count {
        mixed.extend(one.next());
        mixed.extend(other.next());
    }
    mixed
}

/// Tries the addresses in order; the next one starts when an attempt fails or has taken
/// [`STAGGER`]. The first connection wins.
async fn race<A: Copy, S, F>(addresses: &[A], connect: impl Fn(A) -> F) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failed: Option<io::Error> = None;
    loop {
        match waiting.next() {
            Some(address) => attempts.push(connect(*address)),
            None if attempts.is_empty() => return Err(failed.unwrap_or_else(no_address_error)),
            None => {}
        }
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(connection) => return Ok(connection),
                // "connection refused" is more specific than "unreachable"
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => failed = Some(error),
                Err(error) => failed = failed.or(Some(error)),
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// The behaviour of an address.
    #[derive(Debug, Clone, Copy)]
    enum PeerBehaviour {
        Swallow,
        Refuse,
        AnswerIn(u64),
    }
    use PeerBehaviour::{AnswerIn, Refuse, Swallow};

    /// Returns the index of the address that wins, and after how many milliseconds.
    async fn raced(addresses: &[PeerBehaviour]) -> (Result<usize, io::ErrorKind>, u128) {
        let (numbers, start) = ((0..addresses.len()).collect::<Vec<_>>(), Instant::now());
        let connect = |number: usize| async move {
            match addresses[number] {
                Swallow => std::future::pending().await,
                Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
                AnswerIn(millis) => {
                    sleep(Duration::from_millis(millis)).await;
                    Ok(number)
                }
            }
        };
        (race(&numbers, connect).await.map_err(|e| e.kind()), start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_delays_connecting_by_250_ms() {
        assert_eq!(raced(&[Swallow, AnswerIn(1)]).await, (Ok(1), 251));
        assert_eq!(raced(&[Swallow, Swallow, Swallow, AnswerIn(1)]).await, (Ok(3), 751));
        assert_eq!(raced(&[AnswerIn(10), AnswerIn(1)]).await, (Ok(0), 10));
        // the first one is slow, and still connects first
        assert_eq!(raced(&[AnswerIn(300), AnswerIn(100)]).await, (Ok(0), 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_starts_the_next_attempt_immediately() {
        assert_eq!(raced(&[Refuse, Refuse, AnswerIn(1)]).await, (Ok(2), 1));
        assert_eq!(raced(&[Refuse, Refuse]).await, (Err(io::ErrorKind::ConnectionRefused), 0));
        assert_eq!(raced(&[]).await, (Err(io::ErrorKind::NotFound), 0));
    }

    #[test]
    fn address_families_alternate() {
        let all = |text: &str| -> Vec<SocketAddr> { text.split(' ').map(|a| a.parse().unwrap()).collect() };
        let mixed = alternate_families(all("[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1 2.2.2.2:1"));
        assert_eq!(mixed, all("[::1]:1 1.1.1.1:1 [::2]:1 2.2.2.2:1 [::3]:1"));
        assert_eq!(alternate_families(all("1.1.1.1:1 [::1]:1 [::2]:1")), all("1.1.1.1:1 [::1]:1 [::2]:1"));
        assert!(alternate_families(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn localhost_is_reached_over_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let bound = listener.local_addr().unwrap();
            let port = bound.port();
            // without an address of this family the name cannot lead there
            if !lookup_host(("localhost", port)).await.unwrap().any(|known| known == bound) {
                continue;
            }
            connect("localhost", port, Duration::from_secs(20)).await.unwrap();
        }
    }
}
