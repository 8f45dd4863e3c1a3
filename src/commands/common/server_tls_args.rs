//! The certificate of a server here: the same flags in every command that has one.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use mqueue::net::tls::{ClientAuth, TlsServer, TlsServerSettings, TlsVersion};

use super::values::{MaybePath, maybe_path};

/// The certificate of a server.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct ServerTlsArgs {
    /// PEM file with the certificate for TLS, and its chain; read again on SIGHUP
    #[arg(long, env = "MQUEUE_TLS_CERT", value_name = "PATH", value_parser = maybe_path, default_value = "", hide_default_value = true)]
    pub tls_cert: MaybePath,

    /// PEM file with the certificate's key; read again on SIGHUP
    #[arg(long, env = "MQUEUE_TLS_KEY", value_name = "PATH", value_parser = maybe_path, default_value = "", hide_default_value = true)]
    pub tls_key: MaybePath,
}

impl ServerTlsArgs {
    /// Reads the files; `None` if none is named.
    ///
    /// # Errors
    /// Fails if a file cannot be read or used, or only one is named.
    pub(crate) fn load(
        &self,
        client_auth: ClientAuth,
        root_ca_file: Option<PathBuf>,
        min_version: TlsVersion,
    ) -> anyhow::Result<Option<Arc<TlsServer>>> {
        let (cert_file, key_file) = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (Some(_), None) => bail!("--tls-cert needs --tls-key"),
            (None, Some(_)) => bail!("--tls-key needs --tls-cert"),
            (None, None) => return Ok(None),
        };
        let settings = TlsServerSettings { cert_file, key_file, client_auth, root_ca_file, min_version };
        Ok(Some(Arc::new(TlsServer::new(settings)?)))
    }
}

/// Reads a server's certificate and its key again; logs the result.
pub(crate) fn reload(tls: &TlsServer) {
    match tls.reload() {
        Ok(()) => tracing::info!("certificate read again"),
        Err(error) => tracing::error!(%error, "certificate not read again; the one before stays in use"),
    }
}
