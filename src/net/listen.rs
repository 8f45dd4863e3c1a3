//! Listening as Go does: `:PORT` is every address of both families, or of IPv4 where there is no
//! IPv6.
//!
//! The backlog is as long as the system allows (`net.core.somaxconn`). The default is short, and a
//! client that does not fit tries again only after 1, 2 and 4 seconds.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::connect::resolve;
use crate::proto::HostPort;

/// More than any system allows, so the system's limit applies.
const BACKLOG: u32 = i32::MAX as u32;

/// Listens on a TCP port; 0 picks a free one.
///
/// # Errors
/// The host has no local address, or the port is in use.
pub async fn listen(at: &HostPort) -> io::Result<TcpListener> {
    open_socket(at, |address| {
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        socket.set_reuseaddr(true)?;
        if is_ipv6_wildcard(address) {
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    })
    .await
}

/// Binds a UDP port; 0 picks a free one. Fails as [`listen`] does.
pub async fn bind_udp(at: &HostPort) -> io::Result<UdpSocket> {
    let made = open_socket(at, |address| {
        let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let made = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        if is_ipv6_wildcard(address) {
            setsockopt(&made, sockopt::Ipv6V6Only, &false)?;
        }
        bind(std::os::fd::AsRawFd::as_raw_fd(&made), &SockaddrStorage::from(address))?;
        Ok(made)
    });
    UdpSocket::from_std(made.await?.into())
}

/// Opens a socket at the address `at`.
async fn open_socket<S>(at: &HostPort, make: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    if at.host().is_empty() {
        return open_on_all_addresses(at.port(), make);
    }
    let addresses = resolve(at.host(), at.port()).await?;
    // one address, as Go does, and IPv4 first: clients look for `localhost` there
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    make(*address.ok_or(io::ErrorKind::NotFound)?)
}

/// Opens a socket for all addresses of both families, or of IPv4 if the system has no IPv6.
fn open_on_all_addresses<S>(port: u16, make: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    let has_no_ipv6 = |error: &io::Error| {
        [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL, Errno::EPROTONOSUPPORT]
            .iter()
            .any(|errno| error.raw_os_error() == Some(*errno as i32))
    };
    match make((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if has_no_ipv6(&error) => make((Ipv4Addr::UNSPECIFIED, port).into()),
        made => made,
    }
}

/// True for `[::]`, which accepts IPv4 as well unless the system forbids it
/// (`net.ipv6.bindv6only`).
fn is_ipv6_wildcard(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn the_backlog_holds_a_burst_of_connections() {
        let listener = listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, start) = (listener.local_addr().unwrap(), Instant::now());
        let burst: Vec<_> = (0..500).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        assert!(start.elapsed() < Duration::from_millis(900), "{} took {:?}", burst.len(), start.elapsed());
    }

    #[test]
    fn without_ipv6_all_ipv4_addresses_are_listened_on() {
        let only_ipv4 = |errno: Errno| {
            move |address: SocketAddr| if address.is_ipv6() { Err(errno.into()) } else { Ok(address.to_string()) }
        };
        for missing in [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL] {
            assert_eq!(open_on_all_addresses(7, only_ipv4(missing)).unwrap(), "0.0.0.0:7");
        }
        // a port in use must not lead to listening on IPv4 alone
        assert!(open_on_all_addresses(7, only_ipv4(Errno::EADDRINUSE)).is_err());
        assert_eq!(open_on_all_addresses(7, |address| Ok(address.to_string())).unwrap(), "[::]:7");
    }

    #[tokio::test]
    async fn ports_and_host_names_are_listened_on() {
        for place in [":0", "localhost:0"] {
            let listener = listen(&place.parse().unwrap()).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let datagrams = bind_udp(&place.parse().unwrap()).await.unwrap();
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(b"x", ("127.0.0.1", datagrams.local_addr().unwrap().port())).unwrap();
            assert_eq!(datagrams.recv(&mut [0; 8]).await.unwrap(), 1);
        }
    }
}
