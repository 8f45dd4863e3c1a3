//! Certificates of a TLS client: the same flags in every command that connects with TLS.

use std::path::PathBuf;

use mqueue::net::tls::TlsClientSettings;

/// Certificates of a TLS client.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(crate) struct TlsClientArgs {
    /// PEM file of the certificate authorities to trust, also for https:// addresses [default: the
    /// system's]
    #[arg(long, env = "MQUEUE_TLS_CA_FILE", value_name = "PATH")]
    pub tls_ca_file: Option<PathBuf>,

    /// PEM file with the client's certificate, and its chain [default: none]
    #[arg(long, env = "MQUEUE_TLS_CERT_FILE", value_name = "PATH", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file with the key of the client's certificate
    #[arg(long, env = "MQUEUE_TLS_KEY_FILE", value_name = "PATH", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,

    /// Name in the server's certificate [default: the host that is connected to]
    #[arg(long, env = "MQUEUE_TLS_SERVER_NAME", value_name = "HOST")]
    pub tls_server_name: Option<String>,

    /// Accept any certificate, which protects against eavesdropping only; logs a warning
    #[arg(long, env = "MQUEUE_TLS_INSECURE_SKIP_VERIFY", conflicts_with = "tls_ca_file")]
    pub tls_insecure_skip_verify: bool,
}

impl TlsClientArgs {
    /// Returns the flags that have another command of this program connect in the same way.
    pub(crate) fn flags(&self) -> Vec<String> {
        let path =
            |flag: &str, path: &Option<PathBuf>| path.as_ref().map(|path| format!("--{flag}={}", path.display()));
        let flags = [
            path("tls-ca-file", &self.tls_ca_file),
            path("tls-cert-file", &self.tls_cert_file),
            path("tls-key-file", &self.tls_key_file),
            self.tls_server_name.as_ref().map(|name| format!("--tls-server-name={name}")),
            self.tls_insecure_skip_verify.then(|| "--tls-insecure-skip-verify".to_owned()),
        ];
        flags.into_iter().flatten().collect()
    }

    /// Returns the settings of the client; warns if it checks no certificates.
    pub(crate) fn settings(&self) -> TlsClientSettings {
        if self.tls_insecure_skip_verify {
            tracing::warn!(
                "certificates are not checked (--tls-insecure-skip-verify): any server could be in the middle"
            );
        }
        TlsClientSettings {
            ca_file: self.tls_ca_file.clone(),
            cert_file: self.tls_cert_file.clone(),
            key_file: self.tls_key_file.clone(),
            server_name: self.tls_server_name.clone(),
            insecure_skip_verify: self.tls_insecure_skip_verify,
        }
    }
}
