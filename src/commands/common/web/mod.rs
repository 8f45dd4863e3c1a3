//! The page that shows a cluster in a browser: live, with charts of the last day, and with actions
//! for those who have a token. `mqueue web` and `mqueue broker --web` serve it.
//!
//! ```text
//!  ClusterWatch ─▶ feed (history) ─▶ GET /api/events, /api/history      everybody who may look
//!  routes ─┬─ assets ─▶ GET /                                           one document
//!          ├─ clients, insight (doctor, wakeup)                         everybody who may look
//!          └─ access ─▶ actions, letters                                with a token
//! ```

mod access;
mod actions;
pub(crate) mod args;
mod assets;
mod feed;
mod history;
mod insight;
mod letters;
mod peek;
mod routes;
mod shared_answer;
mod shown_body;
mod wrong_tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::access::PageAccess;
use self::args::AccessArgs;
use self::feed::PageFeed;
use self::shared_answer::SharedAnswers;
use super::broker_args;
use super::cluster_listing::ClusterWatch;
use super::exit::{Exit, Failure};
use super::http_server::{self, HttpServer};
use super::json_response::RequestError;
use super::server_tls_args::reload;
use super::socket_args;
use mqueue::cluster::ClusterApis;
use mqueue::http::{BrowserGuard, ConnectionSlots};
use mqueue::io_error::describe;
use mqueue::net::tls::TlsServer;
use mqueue::proto::HostPort;
use mqueue::shutdown::Shutdown;

/// The maximum of viewers at once.
const MAX_VIEWERS: usize = 100;
/// The maximum of requests at once: every viewer has one that does not end.
const MAX_REQUESTS: usize = MAX_VIEWERS + 64;
/// The time that sent bytes may stay unacknowledged.
const PEER_TIMEOUT: Duration = Duration::from_secs(20);
/// The time for which viewers share a list of clients.
const CLIENTS_KEPT: Duration = Duration::from_secs(2);
/// The time for which viewers share doctor's findings.
const FINDINGS_KEPT: Duration = Duration::from_secs(20);
/// The time for which viewers share the state of wakeup.
const WAKEUP_KEPT: Duration = Duration::from_secs(1);
/// The time for connections to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The content of a page, and the access to it.
#[derive(Debug)]
pub(crate) struct WebSettings {
    pub(crate) cluster: ClusterApis,
    pub(crate) brokers: broker_args::Args,
    /// The address of wakeup's HTTP, if it is known.
    pub(crate) wakeup: Option<HostPort>,
    pub(crate) sockets: socket_args::Args,
    /// The time between two listings.
    pub(crate) interval: Duration,
    pub(crate) access: AccessArgs,
    pub(crate) guard: BrowserGuard,
    pub(crate) tls: Option<Arc<TlsServer>>,
}

/// The state that all requests share.
#[derive(Debug)]
struct WebPage {
    cluster: ClusterApis,
    brokers: broker_args::Args,
    sockets: socket_args::Args,
    wakeup: Option<HostPort>,
    watch: ClusterWatch,
    feed: PageFeed,
    interval: Duration,
    access: PageAccess,
    viewers: Arc<Semaphore>,
    /// One request at a time works on dead letters.
    letters_turn: Mutex<()>,
    clients: SharedAnswers,
    findings: SharedAnswers,
    wakeup_state: SharedAnswers,
    shutdown: Shutdown,
}

/// A page whose address is bound, and that is not served yet.
#[derive(Debug)]
pub(crate) struct WebServer {
    listener: TcpListener,
    settings: WebSettings,
    access: PageAccess,
    /// SIGHUP, if there are files to read again.
    hangup: Option<Signal>,
}

impl WebServer {
    /// Listens, and checks who may look.
    ///
    /// # Errors
    /// Fails if the address is not available, or other machines could look without a token.
    pub(crate) async fn bind(listen: &HostPort, mut settings: WebSettings) -> Result<Self, Failure> {
        let cannot = |e| Failure::new(Exit::Failure, format!("cannot listen on {listen}: {}", describe(&e)));
        let listener = mqueue::http::listen(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let access = PageAccess::new(&settings.access, address, settings.tls.is_some())?;
        settings.guard = settings.guard.with_host(listen.host());
        // without such files SIGHUP ends the process, as it does by default
        let has_files = access.has_tokens() || settings.tls.is_some();
        let hangup = has_files.then(|| signal(SignalKind::hangup())).transpose();
        let hangup =
            hangup.map_err(|e| Failure::new(Exit::Failure, format!("cannot listen for SIGHUP: {}", describe(&e))))?;
        Ok(Self { listener, settings, access, hangup })
    }

    /// Returns the URL of the page.
    ///
    /// # Errors
    /// Fails if the system does not tell the address.
    pub(crate) fn url(&self) -> std::io::Result<String> {
        let scheme = if self.settings.tls.is_some() { "https" } else { "http" };
        self.listener.local_addr().map(|address: SocketAddr| format!("{scheme}://{address}/"))
    }

    /// Serves the page until the program ends.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let WebSettings { cluster, brokers, wakeup, sockets, interval, guard, tls, .. } = self.settings;
        let watch = ClusterWatch::start(cluster.clone(), sockets.clone(), interval);
        let watch = tokio::select! {
            watch = watch => watch,
            () = shutdown.draining.cancelled() => return,
        };
        let page = Arc::new(WebPage {
            cluster,
            brokers,
            sockets,
            wakeup,
            feed: PageFeed::follow(&watch, interval),
            watch,
            interval,
            access: self.access,
            viewers: Arc::new(Semaphore::new(MAX_VIEWERS)),
            letters_turn: Mutex::default(),
            clients: SharedAnswers::new(CLIENTS_KEPT),
            findings: SharedAnswers::new(FINDINGS_KEPT),
            wakeup_state: SharedAnswers::new(WAKEUP_KEPT),
            shutdown: shutdown.clone(),
        });
        if let Some(hangup) = self.hangup {
            tokio::spawn(reload_on_hangup(hangup, page.clone(), tls.clone()));
        }
        let forbidden = |line: String| RequestError::new(StatusCode::FORBIDDEN, line).into_response();
        let server = HttpServer {
            listener: self.listener,
            router: routes::router(page),
            settings: http_server::settings(guard, tls, forbidden),
            heartbeat: PEER_TIMEOUT,
            places: ConnectionSlots::new(MAX_REQUESTS),
            count: Gauge::default(),
        };
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        connections.spawn(server.run(stop.clone(), connections.clone()));
        shutdown.draining.cancelled().await;
        stop.cancel();
        connections.close();
        if timeout(CLOSE_TIMEOUT, connections.wait()).await.is_err() {
            tracing::debug!("closing connections that are still open");
        }
    }
}

/// Reads the files of tokens and of the certificate again on each SIGHUP.
async fn reload_on_hangup(mut hangup: Signal, page: Arc<WebPage>, tls: Option<Arc<TlsServer>>) {
    while hangup.recv().await.is_some() {
        if let Some(tls) = &tls {
            reload(tls);
        }
        page.access.reload();
    }
}
