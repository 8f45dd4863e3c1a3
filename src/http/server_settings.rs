//! The settings of a server, which its connections share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::Response;

use super::browser_guard::ForeignRequest;
use super::{BrowserGuard, ConnectionLimits};
use crate::net::tls::TlsServer;

/// The settings of a server.
pub struct ServerSettings {
    /// The time limits of a connection.
    pub limits: ConnectionLimits,
    /// The protection from web pages.
    pub guard: BrowserGuard,
    /// TLS, if connections use it.
    pub tls: Option<Arc<TlsServer>>,
    /// Makes the response to a refused request from a line for its sender.
    forbidden: Box<dyn Fn(String) -> Response<Body> + Send + Sync>,
    /// A refused request was logged.
    has_refused: AtomicBool,
}

impl ServerSettings {
    /// Makes settings without TLS. `forbidden` makes the response to a refused request, with status
    /// 403, in the server's own form.
    pub fn new(
        limits: ConnectionLimits,
        guard: BrowserGuard,
        forbidden: impl Fn(String) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self { limits, guard, tls: None, forbidden: Box::new(forbidden), has_refused: AtomicBool::new(false) }
    }

    /// Sets TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<Arc<TlsServer>>) -> Self {
        self.tls = tls;
        self
    }

    /// Returns the response to a refused request, and logs the first one.
    pub(super) fn refuse(&self, reason: &ForeignRequest) -> Response<Body> {
        if self.has_refused.swap(true, Ordering::Relaxed) {
            tracing::debug!("HTTP request refused: {reason}");
        } else {
            tracing::warn!("HTTP request refused, the next ones are logged at debug: {reason}");
        }
        (self.forbidden)(reason.to_string())
    }
}

impl fmt::Debug for ServerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSettings")
            .field("limits", &self.limits)
            .field("guard", &self.guard)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}
