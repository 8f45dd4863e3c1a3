//! The gateway's connections: so many at once, each noticed when its other end is gone.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use axum::Router;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::AtomicU64;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use mqueue::http::{ConnectionLimits, ConnectionSlot, ConnectionSlots, serve_connection};

const LIMITS: ConnectionLimits = ConnectionLimits {
    head_time: Duration::from_secs(30),
    write_time: Duration::from_secs(30),
    life: None,
    title_case_headers: false,
};
/// Probes without an answer after which a silent connection is lost.
const PROBES: u32 = 2;

/// A request's connection, as its handler sees it.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) peer: SocketAddr,
    /// Cuts it.
    pub(super) cut: CancellationToken,
}

/// Where the gateway listens, and how.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
    /// How often a quiet stream has a line; also how long a connection may leave what it was sent unacknowledged.
    pub(super) heartbeat: Duration,
    pub(super) places: ConnectionSlots,
    pub(super) count: Gauge<u64, AtomicU64>,
}

impl Server {
    /// Serves until told to stop; the requests that run then may finish.
    pub(super) async fn run(mut self, stop: CancellationToken, tasks: TaskTracker) {
        loop {
            let accepting = async {
                // waits a moment when the system has no more to give
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
            let (service, stop, count) =
                (TowerToHyperService::new(self.router.clone()), stop.clone(), self.count.clone());
            tasks.spawn(async move {
                count.inc();
                visit(service, stream, peer, place, stop).await;
                count.dec();
            });
        }
    }
}

async fn visit(
    service: TowerToHyperService<Router>,
    stream: TcpStream,
    peer: SocketAddr,
    place: ConnectionSlot,
    stop: CancellationToken,
) {
    let cut = CancellationToken::new();
    let visit = Visit { peer, cut: cut.clone() };
    let service = service_fn(move |mut request| {
        let request_to_answer: &mut hyper::Request<hyper::body::Incoming> = &mut request;
        request_to_answer.extensions_mut().insert(visit.clone());
        service.call(request)
    });
    tokio::select! {
        () = serve_connection(service, stream, LIMITS, place, stop) => {}
        () = cut.cancelled() => {}
    }
}

/// Has the kernel look whether the other end is there: when nothing is said, and when what was said is not acknowledged.
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
