//! SIGHUP: the files of tokens and of the certificate are read again.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Gateway;
use crate::commands::common::server_tls_args::reload;
use mqueue::net::tls::TlsServer;

/// Reads the files again on each SIGHUP, from now on. Without such files SIGHUP ends the process,
/// as it does by default.
///
/// # Errors
/// Fails if the signal cannot be listened for.
pub(super) fn on_hangup(gateway: &Arc<Gateway>, tls: Option<Arc<TlsServer>>) -> std::io::Result<()> {
    if gateway.access.needs_token() || tls.is_some() {
        tokio::spawn(run(gateway.clone(), tls, signal(SignalKind::hangup())?));
    }
    Ok(())
}

/// Also disconnects workers whose token allows their group no longer.
async fn run(gateway: Arc<Gateway>, tls: Option<Arc<TlsServer>>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        if let Some(tls) = &tls {
            reload(tls);
        }
        gateway.access.reload();
        gateway.exchange.remove_unless(|key, outbox| gateway.access.refreshed(&outbox.caller).may_take(key).is_ok());
    }
}
