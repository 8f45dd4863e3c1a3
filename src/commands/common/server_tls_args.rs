//! The certificate of a server here: the same flags in every command that has one.

use std::path::PathBuf;
use std::sync::Arc;

use mqueue::net::tls::{ClientAuth, TlsServer, TlsServerSettings, TlsSettingsError, TlsVersion};

/// The certificate of a server.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct ServerTlsArgs {
    /// PEM file with the certificate for TLS, and its chain; read again on SIGHUP
    #[arg(long, env = "MQUEUE_TLS_CERT", value_name = "PATH", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the certificate's key; read again on SIGHUP
    #[arg(long, env = "MQUEUE_TLS_KEY", value_name = "PATH", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl ServerTlsArgs {
    /// Reads the files; `None` if none is named.
    ///
    /// # Errors
    /// Fails if a file cannot be read or used.
    pub(crate) fn load(
        &self,
        client_auth: ClientAuth,
        root_ca_file: Option<PathBuf>,
        min_version: TlsVersion,
    ) -> Result<Option<Arc<TlsServer>>, TlsSettingsError> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let (cert_file, key_file) = (cert.clone(), key.clone());
        let settings = TlsServerSettings { cert_file, key_file, client_auth, root_ca_file, min_version };
        TlsServer::new(settings).map(|tls| Some(Arc::new(tls)))
    }
}

/// Reads a server's certificate and its key again; logs the result.
pub(crate) fn reload(tls: &TlsServer) {
    match tls.reload() {
        Ok(()) => tracing::info!("certificate read again"),
        Err(error) => tracing::error!(%error, "certificate not read again; the one before stays in use"),
    }
}
