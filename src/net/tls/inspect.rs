//! The certificates of a server or a file, for commands that examine them and trust nothing.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::signatures::check_signatures;
use super::{TlsSettingsError, certificates};
use crate::proto::excerpt;

/// The largest number of certificates that are kept of a server.
const MAX_CHAIN: usize = 16;

/// A certificate's subject and the end of its validity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateInfo {
    /// The subject, such as `CN=nsq.example`, cut and escaped.
    pub subject: String,
    /// The last second at which it is valid.
    pub ends: SystemTime,
}

impl CertificateInfo {
    /// Describes a certificate.
    pub fn new(subject: &str, ends: SystemTime) -> Self {
        Self { subject: excerpt(subject.as_bytes()), ends }
    }

    fn parse(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let ends = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        Some(Self::new(&parsed.subject().to_string(), ends))
    }
}

/// Reads the certificates of a PEM file; those that cannot be parsed are left out.
///
/// # Errors
/// The file cannot be read, or has no certificate.
pub fn certificates_in(path: &Path) -> Result<Vec<CertificateInfo>, TlsSettingsError> {
    Ok(certificates(path)?.iter().filter_map(CertificateInfo::parse).collect())
}

/// Shakes hands with a server that was reached as `host`, trusting any certificate, and returns the
/// certificates that it shows, its own first. Nothing else is sent. The caller sets the deadline.
///
/// # Errors
/// The handshake's, if it ends before the server has shown a certificate.
pub async fn certificates_of<S: AsyncRead + AsyncWrite + Unpin>(
    host: &str,
    stream: S,
) -> io::Result<Vec<CertificateInfo>> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let recorder = Arc::new(ChainRecorder { chain: Mutex::default(), algorithms });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    let bare = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(bare).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let chain = std::mem::take(&mut *recorder.chain.lock().unwrap_or_else(PoisonError::into_inner));
    match shaken {
        // for instance because it wants a certificate of the client
        Err(error) if chain.is_empty() => Err(error),
        _ => Ok(chain),
    }
}

/// Takes any certificate, and notes it.
#[derive(Debug)]
struct ChainRecorder {
    chain: Mutex<Vec<CertificateInfo>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ChainRecorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = std::iter::once(certificate).chain(intermediates).take(MAX_CHAIN);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = shown.filter_map(CertificateInfo::parse).collect();
        Ok(ServerCertVerified::assertion())
    }

    check_signatures!();
}
