//! A long-lived HTTP server beside a command's work: its connections are limited in number, and dead
//! peers are detected.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Response;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use mqueue::http::{BrowserGuard, ConnectionLimits, ConnectionSlot, ConnectionSlots, ServerSettings, serve_connection};
use mqueue::io_error::describe;
use mqueue::net::tls::TlsServer;

const LIMITS: ConnectionLimits = ConnectionLimits {
    head_time: Duration::from_secs(30),
    write_time: Duration::from_secs(30),
    life: None,
    title_case_headers: false,
};
/// Number of keepalive probes without an answer after which a connection is lost.
const PROBES: u32 = 2;

/// The connection of a request, for its handler.
#[derive(Debug, Clone)]
pub(crate) struct RequestConnection {
    pub(crate) peer: SocketAddr,
    /// Closes the connection when cancelled.
    pub(crate) cut: CancellationToken,
}

/// A listener and its settings.
#[derive(Debug)]
pub(crate) struct HttpServer {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) settings: Arc<ServerSettings>,
    /// The heartbeat interval of streams; also how long sent bytes may stay unacknowledged
    /// (TCP_USER_TIMEOUT).
    pub(crate) heartbeat: Duration,
    pub(crate) places: ConnectionSlots,
    pub(crate) count: Gauge<u64, AtomicU64>,
}

/// Returns the settings of connections. `forbidden` makes the response to a refused request of a web
/// page.
pub(crate) fn settings(
    guard: BrowserGuard,
    tls: Option<Arc<TlsServer>>,
    forbidden: impl Fn(String) -> Response<Body> + Send + Sync + 'static,
) -> Arc<ServerSettings> {
    Arc::new(ServerSettings::new(LIMITS, guard, forbidden).with_tls(tls))
}

impl HttpServer {
    /// Serves until `stop` is cancelled. Requests in progress may finish.
    pub(crate) async fn run(mut self, stop: CancellationToken, tasks: TaskTracker) {
        loop {
            let accepting = async {
                // axum's accept pauses while the system is out of file descriptors
                let accepted = axum::serve::Listener::accept(&mut self.listener).await;
                (accepted, self.places.enter().await)
            };
            let ((stream, peer), place) = tokio::select! {
                accepted = accepting => accepted,
                () = stop.cancelled() => return,
            };
            if let Err(error) = watch(&stream, self.heartbeat) {
                tracing::debug!("a connection ended at once: {}", describe(&error));
                continue;
            }
            let service = TowerToHyperService::new(self.router.clone());
            let (settings, stop, count) = (self.settings.clone(), stop.clone(), self.count.clone());
            tasks.spawn(async move {
                count.inc();
                visit(service, stream, peer, settings, place, stop).await;
                count.dec();
            });
        }
    }
}

async fn visit(
    service: TowerToHyperService<Router>,
    stream: TcpStream,
    peer: SocketAddr,
    settings: Arc<ServerSettings>,
    place: ConnectionSlot,
    stop: CancellationToken,
) {
    let cut = CancellationToken::new();
    let visit = RequestConnection { peer, cut: cut.clone() };
    let service = service_fn(move |mut request| {
        let request_to_answer: &mut hyper::Request<hyper::body::Incoming> = &mut request;
        request_to_answer.extensions_mut().insert(visit.clone());
        service.call(request)
    });
    tokio::select! {
        () = serve_connection(service, stream, settings, place, stop) => {}
        () = cut.cancelled() => {}
    }
}

/// Enables the kernel's detection of dead peers: keepalive probes, and a timeout of unacknowledged
/// bytes.
fn watch(stream: &TcpStream, heartbeat: Duration) -> io::Result<()> {
    let stream_fd = stream.as_fd();
    let seconds = u32::try_from(heartbeat.as_secs()).unwrap_or(u32::MAX).max(1);
    let millis = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX).max(1);
    stream.set_nodelay(true)?;
    setsockopt(&stream_fd, sockopt::KeepAlive, &true)?;
    setsockopt(&stream_fd, sockopt::TcpKeepIdle, &seconds)?;
    setsockopt(&stream_fd, sockopt::TcpKeepInterval, &seconds)?;
    setsockopt(&stream_fd, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(&stream_fd, sockopt::TcpUserTimeout, &millis)?;
    Ok(())
}
