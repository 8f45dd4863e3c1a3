//! TLS of a server, with nsqd's settings (`nsqd/nsqd.go`, `buildTLSConfig`).

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{DistinguishedName, ProtocolVersion, ServerConfig, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::known::{self, ConnectionSide};
use super::signatures::check_signatures;
use super::{TlsSettingsError, authorities, certificates, private_key, refused};

/// A server's certificate, and its demands on clients.
#[derive(Debug, Clone)]
pub struct TlsServerSettings {
    /// A PEM file with the certificate and its chain (`--tls-cert`).
    pub cert_file: PathBuf,
    /// A PEM file with its key (`--tls-key`).
    pub key_file: PathBuf,
    /// Client certificates.
    pub client_auth: ClientAuth,
    /// A PEM file of the authorities of client certificates (`--tls-root-ca-file`).
    pub root_ca_file: Option<PathBuf>,
    /// The lowest version.
    pub min_version: TlsVersion,
}

/// Demands on a client's certificate (`--tls-client-auth-policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    None,
    /// Any certificate, also one that nobody vouches for: `require`.
    Require,
    /// A certificate of an authority in `root_ca_file`: `require-verify`.
    RequireVerify,
}

/// A version of TLS that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// A server's TLS; the files can be read again while it is in use.
#[derive(Debug)]
pub struct TlsServer {
    settings: TlsServerSettings,
    config: RwLock<Arc<ServerConfig>>,
}

/// Facts of a handshake, as nsqd's `/stats` and AUTH servers get them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handshake {
    /// `TLS1.2` or `TLS1.3`.
    pub version: String,
    /// Go's name of the cipher suite if nsqd has one, else `Unknown` and its number.
    pub cipher_suite: String,
    /// The common name in the client's certificate; empty without one.
    pub common_name: String,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    pub fn new(settings: TlsServerSettings) -> Result<Self, TlsSettingsError> {
        let config = RwLock::new(Arc::new(read(&settings)?));
        Ok(Self { settings, config })
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &TlsServerSettings {
        &self.settings
    }

    /// Reads the files again, for the connections that follow.
    ///
    /// # Errors
    /// A file that cannot be read or used; the certificate before stays in use.
    pub fn reload(&self) -> Result<(), TlsSettingsError> {
        let config = Arc::new(read(&self.settings)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<(TlsStream<S>, Handshake)> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let connection = stream.get_ref().1;
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS1.3",
            _ => "TLS1.2",
        };
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        let handshake = Handshake {
            version: version.to_owned(),
            cipher_suite: suite.map(suite_name).unwrap_or_default(),
            common_name: certificate.and_then(common_name).unwrap_or_default(),
        };
        Ok((stream, handshake))
    }
}

fn read(settings: &TlsServerSettings) -> Result<ServerConfig, TlsSettingsError> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match settings.min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let algorithms = provider.signature_verification_algorithms;
    let clients: Arc<dyn ClientCertVerifier> = match (settings.client_auth, &settings.root_ca_file) {
        (ClientAuth::None, _) => Arc::new(NoClientAuth),
        (ClientAuth::Require, _) => Arc::new(AnyClient { algorithms }),
        (ClientAuth::RequireVerify, None) => return Err(TlsSettingsError::NoClientAuthorities),
        (ClientAuth::RequireVerify, Some(path)) => {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider.clone());
            let authorities = builder.build().map_err(|e| refused(path, &e))?;
            Arc::new(KnownClient { authorities, known: certificates(path)?, algorithms })
        }
    };
    let cert = &settings.cert_file;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(cert)?, private_key(&settings.key_file)?)
        .map_err(|e| refused(cert, &e))
}

/// Go's names, as far as nsqd knows them; it has none for TLS 1.3.
fn suite_name(suite: rustls::CipherSuite) -> String {
    use rustls::CipherSuite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 as ECDSA, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 as RSA,
    };
    match suite {
        ECDSA | RSA => format!("{suite:?}"),
        other => format!("Unknown {}", u16::from(other)),
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// Takes any client certificate; the handshake's signature is still checked.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    check_signatures!();
}

/// Takes client certificates of an authority, and those that are among the authorities themselves.
#[derive(Debug)]
struct KnownClient {
    authorities: Arc<dyn ClientCertVerifier>,
    /// The authorities' own certificates, see [`known`].
    known: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for KnownClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.known.contains(certificate) {
            known::check(certificate, ConnectionSide::Client, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        self.authorities.verify_client_cert(certificate, intermediates, now)
    }

    check_signatures!();
}
