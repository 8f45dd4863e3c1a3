//! A broker with its listeners: bound first, so that its addresses are known, then run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::unistd::gethostname;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::descriptors::Room;
use super::http::{self, Api, Identity};
use super::socket::Listener;
use super::{Broker, lookupd, tcp};
use crate::http::{Places, listen};
use crate::net::remove_stale;
use crate::proto::HostPort;

/// How long connections have to end when the broker stops.
const GRACE: Duration = Duration::from_secs(2);

/// Where to listen: `HOST:PORT` (port 0: any free one), `:PORT` (every address), or `unix:/PATH`.
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
        match (text.strip_prefix("unix:"), text.parse()) {
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
    /// Listens there. A Unix socket that a broker left behind when it was killed is replaced; one that somebody listens on is not.
    pub async fn bind(&self) -> io::Result<Bound> {
        match self {
            Self::Tcp(address) => {
                let listener = listen(address).await?;
                let address = listener.local_addr()?;
                Ok(Bound { address: Some(address), path: None, listener: Listener::Tcp(listener) })
            }
            Self::Unix(path) => {
                remove_stale(path)?;
                let listener = Listener::Unix(UnixListener::bind(path)?);
                Ok(Bound { address: None, path: Some(SocketFile(path.clone())), listener })
            }
        }
    }
}

/// A listener and where it is. A Unix socket goes with it.
#[derive(Debug)]
pub struct Bound {
    /// The address, of TCP.
    pub address: Option<SocketAddr>,
    path: Option<SocketFile>,
    listener: Listener,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.address, &self.path) {
            (Some(address), _) => write!(f, "{address}"),
            (None, Some(SocketFile(path))) => write!(f, "{}", path.display()),
            (None, None) => unreachable!("it listens somewhere"),
        }
    }
}

/// A broker that listens, and is not yet run.
#[derive(Debug)]
pub struct Server {
    /// The broker.
    pub broker: Arc<Broker>,
    /// How it calls itself.
    pub identity: Identity,
    /// For NSQ's TCP protocol.
    pub tcp: Vec<Bound>,
    /// For the HTTP API.
    pub http: Vec<Bound>,
}

/// The addresses of a server, bound before there is a broker, so that one that cannot listen does not touch its folder.
#[derive(Debug)]
pub struct Listening {
    tcp: Vec<Bound>,
    http: Vec<Bound>,
}

impl Listening {
    /// Listens on all addresses, or on none.
    ///
    /// # Errors
    /// Names the address that cannot be had, and why.
    pub async fn bind(tcp: &[ListenAddress], http: &[ListenAddress]) -> Result<Self, BindError> {
        Ok(Self { tcp: bind_all(tcp).await?, http: bind_all(http).await? })
    }
}

/// The file of a Unix socket, which goes with its listener.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An address that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    address: ListenAddress,
    source: io::Error,
}

impl Server {
    /// Listens on all addresses, or on none. nsqlookupds, if any, are told `broadcast_address`, or the machine's name.
    pub async fn bind(
        broker: Broker,
        tcp: &[ListenAddress],
        http: &[ListenAddress],
        broadcast_address: Option<String>,
    ) -> Result<Self, BindError> {
        Ok(Self::new(broker, Listening::bind(tcp, http).await?, broadcast_address))
    }

    /// A server of this broker at addresses that are bound already.
    pub fn new(broker: Broker, Listening { tcp, http }: Listening, broadcast_address: Option<String>) -> Self {
        let hostname = gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned());
        let identity = Identity {
            broadcast_address: broadcast_address.unwrap_or_else(|| hostname.clone()),
            hostname,
            tcp_port: port(&tcp),
            http_port: port(&http),
            started: SystemTime::now(),
        };
        Self { broker: Arc::new(broker), identity, tcp, http }
    }

    /// Serves until told to stop, and then lets connections end.
    pub async fn run(self, stop: CancellationToken) {
        let Self { broker, identity, mut tcp, mut http } = self;
        let (tasks, room) = (TaskTracker::new(), Room::of_this_process());
        let (tcp_places, http_places) = (Places::plain(room.tcp), Places::new(room.http));
        let files: Vec<SocketFile> = tcp.iter_mut().chain(&mut http).filter_map(|bound| bound.path.take()).collect();
        for bound in tcp {
            tasks.spawn(tcp::serve(broker.clone(), bound.listener, tcp_places.clone(), stop.clone(), tasks.clone()));
        }
        let router = http::router(Arc::new(Api { broker: broker.clone(), identity: identity.clone() }));
        for bound in http {
            tasks.spawn(http::serve(router.clone(), bound.listener, http_places.clone(), stop.clone(), tasks.clone()));
        }
        tokio::select! {
            () = broker.keep_time() => unreachable!("it never ends"),
            () = broker.keep_compact() => unreachable!("it never ends"),
            () = broker.keep_trying() => unreachable!("it never ends"),
            () = lookupd::keep_registered(broker.clone(), identity) => unreachable!("it never ends"),
            () = stop.cancelled() => {}
        }
        tasks.close();
        let _ = tokio::time::timeout(GRACE, tasks.wait()).await;
        broker.change(|state, _| state.note_in_flight());
        drop(files);
    }
}

async fn bind_all(addresses: &[ListenAddress]) -> Result<Vec<Bound>, BindError> {
    let mut all = Vec::new();
    for address in addresses {
        all.push(address.bind().await.map_err(|source| BindError { address: address.clone(), source })?);
    }
    Ok(all)
}

/// The port of the first listener, as nsqd says it: -1 on a Unix socket, 0 where there is none.
fn port(bound: &[Bound]) -> i32 {
    match bound.first() {
        Some(bound) => bound.address.map_or(-1, |address| i32::from(address.port())),
        None => 0,
    }
}
