//! The gateway's connections: limited in number, with detection of dead peers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::AtomicU64;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::GatewayError;
use mqueue::http::{BrowserGuard, ConnectionLimits, ConnectionSlot, ConnectionSlots, ServerSettings, serve_connection};
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
pub(super) struct RequestConnection {
    pub(super) peer: SocketAddr,
    /// Closes the connection when cancelled.
    pub(super) cut: CancellationToken,
}

/// The gateway's listener and its settings.
#[derive(Debug)]
pub(super) struct GatewayServer {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
    pub(super) settings: Arc<ServerSettings>,
    /// The heartbeat interval of streams; also how long sent bytes may stay unacknowledged
    /// (TCP_USER_TIMEOUT).
    pub(super) heartbeat: Duration,
    pub(super) places: ConnectionSlots,
    pub(super) count: Gauge<u64, AtomicU64>,
}

/// Returns the settings of connections; `refused` counts refused requests of web pages.
pub(super) fn settings(guard: BrowserGuard, tls: Option<Arc<TlsServer>>, refused: Counter) -> Arc<ServerSettings> {
    let forbidden = move |line: String| {
        refused.inc();
        GatewayError::new(StatusCode::FORBIDDEN, line).into_response()
    };
    Arc::new(ServerSettings::new(LIMITS, guard, forbidden).with_tls(tls))
}

impl GatewayServer {
    /// Serves until `stop` is cancelled. Requests in progress may finish.
    pub(super) async fn run(mut self, stop: CancellationToken, tasks: TaskTracker) {
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
                tracing::debug!("a connection ended at once: {error}");
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
