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

use super::http::{self, Api, Identity};
use super::socket::Listener;
use super::{Broker, lookupd, tcp};
use crate::feed::remove_stale;
use crate::serve::listen;

/// How long connections have to end when the broker stops.
const GRACE: Duration = Duration::from_secs(2);

/// Where to listen: `HOST:PORT` (port 0: any free one), or `unix:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A host's name or address, and a port.
    Tcp(String),
    /// A path.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_port = |port: &str| port.parse::<u16>().is_ok();
        match (text.strip_prefix("unix:"), text.rsplit_once(':')) {
            (Some(path), _) if !path.is_empty() => Ok(Self::Unix(path.into())),
            (None, Some((_, port))) if is_port(port) => Ok(Self::Tcp(text.to_owned())),
            _ => Err(format!("invalid address {text:?}: use HOST:PORT, :PORT or unix:/PATH")),
        }
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ListenAddress {
    /// Listens there. A Unix socket that a broker left behind when it was killed is replaced; one that somebody listens on is not.
    pub async fn bind(&self) -> io::Result<Bound> {
        match self {
            Self::Tcp(address) => {
                // as in Go, no host is every host
                let listener = match address.strip_prefix(':') {
                    Some(port) => listen(format!("[::]:{port}")).await?,
                    None => listen(address).await?,
                };
                let address = listener.local_addr()?;
                Ok(Bound { address: Some(address), path: None, listener: Listener::Tcp(listener) })
            }
            Self::Unix(path) => {
                remove_stale(path)?;
                let listener = Listener::Unix(UnixListener::bind(path)?);
                Ok(Bound { address: None, path: Some(path.clone()), listener })
            }
        }
    }
}

/// A listener and where it is. A Unix socket goes with it.
#[derive(Debug)]
pub struct Bound {
    /// The address, of TCP.
    pub address: Option<SocketAddr>,
    path: Option<PathBuf>,
    listener: Listener,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.address, &self.path) {
            (Some(address), _) => write!(f, "{address}"),
            (None, Some(path)) => write!(f, "{}", path.display()),
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
        let (tcp, http) = (bind_all(tcp).await?, bind_all(http).await?);
        let hostname = gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned());
        let identity = Identity {
            broadcast_address: broadcast_address.unwrap_or_else(|| hostname.clone()),
            hostname,
            tcp_port: port(&tcp),
            http_port: port(&http),
            started: SystemTime::now(),
        };
        Ok(Self { broker: Arc::new(broker), identity, tcp, http })
    }

    /// Serves until told to stop, and then lets connections end.
    pub async fn run(self, stop: CancellationToken) {
        let Self { broker, identity, tcp, http } = self;
        let tasks = TaskTracker::new();
        let paths: Vec<PathBuf> = tcp.iter().chain(&http).filter_map(|bound| bound.path.clone()).collect();
        for bound in tcp {
            tasks.spawn(tcp::serve(broker.clone(), bound.listener, stop.clone(), tasks.clone()));
        }
        let router = http::router(Arc::new(Api { broker: broker.clone(), identity: identity.clone() }));
        for bound in http {
            tasks.spawn(http::serve(router.clone(), bound.listener, stop.clone(), tasks.clone()));
        }
        tokio::select! {
            () = broker.keep_time() => unreachable!("it never ends"),
            () = broker.keep_compact() => unreachable!("it never ends"),
            () = lookupd::keep_registered(broker.clone(), identity) => unreachable!("it never ends"),
            () = stop.cancelled() => {}
        }
        tasks.close();
        let _ = tokio::time::timeout(GRACE, tasks.wait()).await;
        for path in paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn bind_all(addresses: &[ListenAddress]) -> Result<Vec<Bound>, BindError> {
    let mut all = Vec::new();
    for address in addresses {
        all.push(address.bind().await.map_err(|source| BindError { address: address.clone(), source })?);
    }
    Ok(all)
}

/// The port of the first listener, as nsqd says it: -1 on a Unix socket.
fn port(bound: &[Bound]) -> i32 {
    bound.first().and_then(|bound| bound.address).map_or(-1, |address| i32::from(address.port()))
}
