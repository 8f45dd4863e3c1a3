//! TLS of a client.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::known::{self, ConnectionSide};
use super::signatures::check_signatures;
use super::{TlsSettingsError, authorities, certificates, private_key, refused};

/// How a client uses TLS. Without anything set: the system's certificate authorities, and no
/// certificate of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsClientSettings {
    /// A PEM file of the certificate authorities to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the client's certificate and its chain. Needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the host that is connected to.
    pub server_name: Option<String>,
    /// Takes any certificate: the peer may be anybody.
    pub insecure_skip_verify: bool,
}

/// A client's TLS, ready for use; cheap to clone.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClient").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl TlsClient {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or used, a certificate without its key, or no certificate
    /// authorities.
    pub fn new(settings: &TlsClientSettings) -> Result<Self, TlsSettingsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of TLS 1.2 and 1.3");
        let name =
            |text: &String| ServerName::try_from(text.clone()).map_err(|_| TlsSettingsError::ServerName(text.clone()));
        let server_name = settings.server_name.as_ref().map(name).transpose()?;
        let algorithms = provider.signature_verification_algorithms;
        let mut known = Vec::new();
        let authorities: Option<Arc<dyn ServerCertVerifier>> = if settings.insecure_skip_verify {
            None
        } else if let Some(path) = &settings.ca_file {
            known = certificates(path)?;
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
            Some(builder.build().map_err(|e| refused(path, &e))?)
        } else {
            let verifier = rustls_platform_verifier::Verifier::new(provider);
            Some(Arc::new(verifier.map_err(|e| TlsSettingsError::NoAuthorities(e.to_string()))?))
        };
        let check = ServerCheck { authorities, known, name: server_name.clone(), algorithms };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(check));
        let config = match (&settings.cert_file, &settings.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(|e| refused(cert, &e))?
            }
            _ => return Err(TlsSettingsError::Half),
        };
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// The configuration for an HTTP client, which names the server by its URL; the certificate is
    /// still checked for `server_name`.
    #[cfg(feature = "lookup")]
    pub(crate) fn http_config(&self) -> ClientConfig {
        ClientConfig::clone(&self.config)
    }

    /// Shakes hands over `stream` with the server that was reached as `host`.
    ///
    /// # Errors
    /// The handshake's; [`explain`](super::explain) makes a sentence of it.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => {
                let bare = host.trim_matches(['[', ']']).to_owned();
                ServerName::try_from(bare).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?
            }
        };
        TlsConnector::from(self.config.clone()).connect(name, stream).await
    }
}

/// The check of a server's certificate.
#[derive(Debug)]
struct ServerCheck {
    /// The authorities to trust; `None` accepts any certificate.
    authorities: Option<Arc<dyn ServerCertVerifier>>,
    /// The authorities' own certificates, see [`known`].
    known: Vec<CertificateDer<'static>>,
    /// The name to check, in place of the one that was connected to.
    name: Option<ServerName<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        let name = self.name.as_ref().unwrap_or(name);
        if self.known.contains(certificate) {
            known::check(certificate, ConnectionSide::Server, now)?;
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        authorities.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    check_signatures!();
}
