//! Listeners that systemd passes: the broker's sockets outlive its process.
//!
//! A socket is for what its unit names it (`FileDescriptorName=tcp`, `http` or `https`), otherwise
//! for what its port or path is in `--tcp-address`, `--http-address` or `--https-address`. Another
//! Unix socket is for NSQ's protocol.

use std::fmt;
use std::path::Path;

use mqueue::broker::server::{BoundAddresses, BoundPlace, ListenAddress, ListeningSocket};
use mqueue::systemd::{ActivationSocket, named_sockets};

use super::super::common::exit::{Exit, Failure};

/// The use of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListenerUse {
    Tcp,
    Http,
    Https,
}

const USES: [ListenerUse; 3] = [ListenerUse::Tcp, ListenerUse::Http, ListenerUse::Https];

impl ListenerUse {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The addresses of the flags, by use.
type FlagAddresses<'a> = [&'a [ListenAddress]; 3];

/// Takes the passed sockets; `None` if there are none. Warns of addresses of the flags that have
/// no socket: the broker does not listen there.
///
/// # Errors
/// Fails if a socket does not listen, or has no use.
pub(super) fn take(flags: &FlagAddresses<'_>) -> Result<Option<BoundAddresses>, Failure> {
    let usage = |line: String| Failure::new(Exit::Usage, line);
    let passed = named_sockets().map_err(|error| usage(error.to_string()))?;
    if passed.is_empty() {
        return Ok(None);
    }
    let mut bound = BoundAddresses::default();
    let mut named = Vec::new();
    for (name, socket) in passed {
        let socket = listening(socket).map_err(usage)?;
        let use_by_name = USES.into_iter().find(|of| of.name() == name);
        named.extend(use_by_name);
        let Some(of) = use_by_name.or_else(|| use_by_address(socket.place(), flags)) else {
            return Err(usage(useless(&socket)));
        };
        match of {
            ListenerUse::Tcp => bound.tcp.push(socket),
            ListenerUse::Http => bound.http.push(socket),
            ListenerUse::Https => bound.https.push(socket),
        }
    }
    let places = [&bound.tcp, &bound.http, &bound.https].map(|all| all.iter().map(|socket| socket.place().clone()));
    for ((of, addresses), places) in USES.into_iter().zip(flags).zip(places) {
        let places: Vec<BoundPlace> = places.collect();
        // a named socket stands for all addresses of its use
        for address in
            addresses.iter().filter(|address| !named.contains(&of) && !places.iter().any(|p| is_at(p, address)))
        {
            tracing::warn!(
                "no socket of systemd's has --{}-address {address}: the broker does not listen there",
                of.name()
            );
        }
    }
    bound.hosts = flags[1..].iter().copied().flatten().filter_map(ListenAddress::host).map(str::to_owned).collect();
    Ok(Some(bound))
}

fn listening(socket: ActivationSocket) -> Result<ListeningSocket, String> {
    let taken = match socket {
        ActivationSocket::Tcp(listener) => ListeningSocket::passed_tcp(listener),
        ActivationSocket::Stream(listener) => ListeningSocket::passed_unix(listener),
        ActivationSocket::Datagram(_) | ActivationSocket::Udp(_) => {
            return Err("systemd passed a datagram socket: use ListenStream= in its socket unit".to_owned());
        }
    };
    taken.map_err(|error| format!("cannot use a socket that systemd passed: {error}"))
}

fn useless(socket: &impl fmt::Display) -> String {
    format!(
        "systemd passed the socket {socket}, which is none of the broker's addresses: name it in --tcp-address, \
         --http-address or --https-address, or set FileDescriptorName=tcp, http or https in its socket unit"
    )
}

fn use_by_address(place: &BoundPlace, flags: &FlagAddresses<'_>) -> Option<ListenerUse> {
    let named = |addresses: &&[ListenAddress]| addresses.iter().any(|address| is_at(place, address));
    let by_flag = USES.into_iter().zip(flags).find(|(_, addresses)| named(addresses)).map(|(of, _)| of);
    by_flag.or_else(|| matches!(place, BoundPlace::Unix(_)).then_some(ListenerUse::Tcp))
}

/// True for the same port, whatever the host, or the same path.
fn is_at(place: &BoundPlace, address: &ListenAddress) -> bool {
    match (place, address) {
        (BoundPlace::Tcp(bound), ListenAddress::Tcp(address)) => bound.port() == address.port(),
        (BoundPlace::Unix(bound), ListenAddress::Unix(path)) => bound == Path::new(path),
        (BoundPlace::Tcp(_), ListenAddress::Unix(_)) | (BoundPlace::Unix(_), ListenAddress::Tcp(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_the_flag_with_its_port_or_path() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<ListenAddress>>();
        let (tcp, http) = (addresses(&["127.0.0.1:4150", "unix:/run/a.sock"]), addresses(&[":4151", "/run/b.sock"]));
        let flags = [&tcp[..], &http[..], &[]];
        for (bound, expected) in [
            (BoundPlace::Tcp("10.0.0.1:4150".parse().unwrap()), Some(ListenerUse::Tcp)),
            (BoundPlace::Tcp("[::]:4151".parse().unwrap()), Some(ListenerUse::Http)),
            (BoundPlace::Tcp("127.0.0.1:4152".parse().unwrap()), None),
            (BoundPlace::Unix("/run/a.sock".into()), Some(ListenerUse::Tcp)),
            (BoundPlace::Unix("/run/b.sock".into()), Some(ListenerUse::Http)),
            (BoundPlace::Unix("/run/c.sock".into()), Some(ListenerUse::Tcp)),
        ] {
            assert_eq!(use_by_address(&bound, &flags), expected, "{bound}");
        }
    }
}
