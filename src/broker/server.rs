//! A broker with its listeners: bound first, so that the addresses are known, then run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use nix::unistd::gethostname;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept_gate::{AcceptGate, GatedListener};
use super::descriptors::MaxConnections;
use super::http::{self, HttpApi, Identity};
use super::socket::BrokerListener;
use super::threads::ConnectionThreads;
use super::{Broker, TlsRequired, lookupd, statsd, tcp};
use crate::http::{BrowserGuard, ConnectionSlots, listen};
use crate::io_error::describe;
use crate::net::remove_stale_socket;
use crate::net::tls::TlsServer;
use crate::proto::HostPort;

/// Time for connections to end when the broker stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Address to listen on: `HOST:PORT` (port 0: any free one), `:PORT` (every address), or
/// `unix:/PATH`, for which nsqd says `/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A host's name or address, and a port.
    Tcp(HostPort),
    /// A path.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_path = ["/", "./", "../"].iter().any(|begin| text.starts_with(begin));
        let path = text.strip_prefix("unix:").or(is_path.then_some(text));
        match (path, text.parse()) {
            (Some(path), _) if !path.is_empty() => Ok(Self::Unix(path.into())),
            (None, Ok(address)) => Ok(Self::Tcp(address)),
            _ => Err(format!("invalid address {text:?}: use HOST:PORT, :PORT or unix:/PATH")),
        }
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ListenAddress {
    /// The host, if it is a TCP address.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp(address) => Some(address.host()),
            Self::Unix(_) => None,
        }
    }

    /// Listens on the address. Replaces a stale Unix socket that a killed broker left behind, but
    /// not one that is listened on.
    pub async fn bind(&self) -> io::Result<ListeningSocket> {
        match self {
            Self::Tcp(address) => {
                let listener = listen(address).await?;
                let address = listener.local_addr()?;
                Ok(ListeningSocket {
                    place: BoundPlace::Tcp(address),
                    file: None,
                    listener: BrokerListener::Tcp(listener),
                })
            }
            Self::Unix(path) => {
                remove_stale_socket(path)?;
                let listener = BrokerListener::Unix(UnixListener::bind(path)?);
                let file = Some(UnixSocketFile(path.clone()));
                Ok(ListeningSocket { place: BoundPlace::Unix(path.clone()), file, listener })
            }
        }
    }
}

/// A listener and its address. The file of a Unix socket that the broker made is removed with it.
#[derive(Debug)]
pub struct ListeningSocket {
    place: BoundPlace,
    file: Option<UnixSocketFile>,
    listener: BrokerListener,
}

/// The address that a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundPlace {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListeningSocket {
    /// A TCP listener that another program bound, such as systemd.
    ///
    /// # Errors
    ///
    /// Fails if its address cannot be read.
    pub fn passed_tcp(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { place: BoundPlace::Tcp(address), file: None, listener: BrokerListener::Tcp(listener) })
    }

    /// A Unix socket that another program bound; its file stays.
    ///
    /// # Errors
    ///
    /// Fails if its address cannot be read.
    pub fn passed_unix(listener: UnixListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let path = address.as_pathname().map(PathBuf::from).unwrap_or_default();
        Ok(Self { place: BoundPlace::Unix(path), file: None, listener: BrokerListener::Unix(listener) })
    }

    /// The address that it is bound to.
    pub fn place(&self) -> &BoundPlace {
        &self.place
    }

    /// The address, if it is TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.place {
            BoundPlace::Tcp(address) => Some(address),
            BoundPlace::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for ListeningSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.place.fmt(f)
    }
}

impl std::fmt::Display for BoundPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A broker that listens, and is not running yet.
#[derive(Debug)]
pub struct BrokerServer {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Names and ports that it reports.
    pub identity: Identity,
    /// Listeners for NSQ's TCP protocol.
    pub tcp: Vec<ListeningSocket>,
    /// Listeners for the HTTP API.
    pub http: Vec<ListeningSocket>,
    /// Listeners for the HTTP API over TLS.
    pub https: Vec<ListeningSocket>,
    /// The HTTP API's protection from web pages. Requests may name this machine, the broadcast
    /// address and the hosts that are listened on.
    pub guard: BrowserGuard,
    /// The gate of all listeners.
    pub gate: AcceptGate,
    /// The number of threads that serve connections, the caller's included; 1 unless set.
    pub threads: usize,
}

/// The listeners of a server, bound before its log is opened, so that a broker that cannot listen
/// does not touch its directory.
#[derive(Debug, Default)]
pub struct BoundAddresses {
    /// Listeners for NSQ's TCP protocol.
    pub tcp: Vec<ListeningSocket>,
    /// Listeners for the HTTP API.
    pub http: Vec<ListeningSocket>,
    /// Listeners for the HTTP API over TLS.
    pub https: Vec<ListeningSocket>,
    /// The hosts in the addresses of the HTTP API.
    pub hosts: Vec<String>,
}

impl BoundAddresses {
    /// Listens on all addresses, or on none.
    ///
    /// # Errors
    ///
    /// Fails with the address that cannot be bound, and the reason.
    pub async fn bind(
        tcp: &[ListenAddress],
        http: &[ListenAddress],
        https: &[ListenAddress],
    ) -> Result<Self, BindError> {
        let hosts = http.iter().chain(https).filter_map(ListenAddress::host).map(str::to_owned).collect();
        Ok(Self { tcp: bind_all(tcp).await?, http: bind_all(http).await?, https: bind_all(https).await?, hosts })
    }
}

#[cfg(test)]
impl BoundAddresses {
    /// The listener of a simulated world, without HTTP.
    pub(crate) fn simulated(incoming: crate::simulated::Incoming) -> Self {
        let listener = BrokerListener::Simulated(incoming);
        let place = BoundPlace::Tcp(SocketAddr::from(([127, 0, 0, 1], 4150)));
        let tcp = vec![ListeningSocket { place, file: None, listener }];
        Self { tcp, http: Vec::new(), https: Vec::new(), hosts: Vec::new() }
    }
}

/// The file of a Unix socket, removed when dropped.
#[derive(Debug)]
struct UnixSocketFile(PathBuf);

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", describe(source))]
pub struct BindError {
    address: ListenAddress,
    source: io::Error,
}

impl BrokerServer {
    /// Listens on all addresses, or on none. Reports `broadcast_address`, or else the host name, to
    /// nsqlookupds.
    pub async fn bind(
        broker: Broker,
        tcp: &[ListenAddress],
        http: &[ListenAddress],
        broadcast_address: Option<String>,
    ) -> Result<Self, BindError> {
        Ok(Self::new(broker, BoundAddresses::bind(tcp, http, &[]).await?, broadcast_address))
    }

    /// A server of this broker with listeners that are bound already.
    pub fn new(
        broker: Broker,
        BoundAddresses { tcp, http, https, hosts }: BoundAddresses,
        broadcast_address: Option<String>,
    ) -> Self {
        let hostname = gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned());
        let identity = Identity {
            broadcast_address: broadcast_address.unwrap_or_else(|| hostname.clone()),
            hostname,
            tcp_port: port(&tcp),
            http_port: port(&http),
            broadcast_tcp_port: tcp_port(&tcp),
            broadcast_http_port: tcp_port(&http),
            started: SystemTime::now(),
        };
        let guard = hosts.iter().chain([&identity.broadcast_address]);
        let guard = guard.fold(BrowserGuard::default(), |guard, host| guard.with_host(host));
        Self { broker: Arc::new(broker), identity, tcp, http, https, guard, gate: AcceptGate::default(), threads: 1 }
    }

    /// Serves until `stop` is cancelled, then waits a moment for connections to end.
    pub async fn run(self, stop: CancellationToken) {
        let Self { broker, identity, mut tcp, mut http, mut https, guard, gate, threads } = self;
        let threads = Arc::new(ConnectionThreads::start(threads));
        let (tasks, room) = (TaskTracker::new(), MaxConnections::of_this_process());
        let (tcp_places, http_places) = (ConnectionSlots::without_turns(room.tcp), ConnectionSlots::new(room.http));
        let files: Vec<UnixSocketFile> =
            tcp.iter_mut().chain(&mut http).chain(&mut https).filter_map(|bound| bound.file.take()).collect();
        for bound in tcp {
            let accepting = GatedListener { listener: bound.listener, gate: gate.clone() };
            let (tcp_places, stop, threads) = (tcp_places.clone(), stop.clone(), threads.clone());
            tasks.spawn(tcp::serve(broker.clone(), accepting, tcp_places, stop, tasks.clone(), threads));
        }
        let router = http::router(Arc::new(HttpApi { broker: broker.clone(), identity: identity.clone() }));
        let config = broker.config();
        let plain_router = match config.tls_required {
            TlsRequired::Yes => http::tls_required(port(&https)),
            TlsRequired::No | TlsRequired::TcpOnly => router.clone(),
        };
        let serve = |router: &Router, bound: ListeningSocket, tls: Option<Arc<TlsServer>>| {
            let (places, stop, threads) = (http_places.clone(), stop.clone(), threads.clone());
            let guard = match &bound.listener {
                BrokerListener::Tcp(_) => guard.clone(),
                BrokerListener::Unix(_) => guard.clone().with_any_host(),
                #[cfg(test)]
                BrokerListener::Simulated(_) => guard.clone(),
            };
            let settings = http::settings(guard, tls);
            let accepting = GatedListener { listener: bound.listener, gate: gate.clone() };
            tasks.spawn(http::serve(router.clone(), accepting, settings, places, stop, tasks.clone(), threads))
        };
        for bound in http {
            serve(&plain_router, bound, None);
        }
        for bound in https {
            serve(&router, bound, config.tls.clone());
        }
        tokio::select! {
            () = broker.run_timers() => unreachable!("it never ends"),
            () = broker.run_compaction() => unreachable!("it never ends"),
            () = broker.retry_writes() => unreachable!("it never ends"),
            () = statsd::keep_exporting(&broker, &identity) => unreachable!("it never ends"),
            () = lookupd::keep_registered(broker.clone(), identity.clone()) => unreachable!("it never ends"),
            () = stop.cancelled() => {}
        }
        tasks.close();
        let _ = tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await;
        // with what is left of their connections
        drop(threads);
        broker.change(|state, _| state.note_in_flight());
        drop(files);
    }
}

async fn bind_all(addresses: &[ListenAddress]) -> Result<Vec<ListeningSocket>, BindError> {
    let mut all = Vec::new();
    for address in addresses {
        all.push(address.bind().await.map_err(|source| BindError { address: address.clone(), source })?);
    }
    Ok(all)
}

/// The port of the first listener; 0 without one, and for a Unix socket.
fn tcp_port(bound: &[ListeningSocket]) -> u16 {
    bound.first().and_then(ListeningSocket::address).map_or(0, |address| address.port())
}

/// The port of the first listener, as nsqd reports it: -1 for a Unix socket, 0 without a listener.
fn port(bound: &[ListeningSocket]) -> i32 {
    match bound.first() {
        Some(bound) => bound.address().map_or(-1, |address| i32::from(address.port())),
        None => 0,
    }
}
