//! TLS for raw connections, by rustls: the files that a user names, and the handshake.
//!
//! TLS 1.2 and 1.3. Nothing falls back: what cannot be read, does not match or is not trusted is an
//! error that names the file or the reason.

mod client;
mod inspect;
mod known;
#[cfg(feature = "broker")]
mod server;
mod signatures;

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use self::client::{TlsClient, TlsClientSettings};
pub use self::inspect::{CertificateInfo, certificates_in, certificates_of};
#[cfg(feature = "broker")]
pub use self::server::{ClientAuth, Handshake, TlsServer, TlsServerSettings, TlsVersion};
use crate::io_error::describe;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// A file that cannot be read.
    #[error("cannot read {}: {}", path.display(), describe(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file without what it is named for.
    #[error("no {what} in {}: a PEM file is needed", path.display())]
    Missing {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("a certificate needs its key, and a key its certificate: name both files")]
    Half,
    /// A certificate that rustls refuses, or another key's.
    #[error("cannot use {}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// No authorities to verify client certificates with.
    #[error("--tls-client-auth-policy=require-verify needs --tls-root-ca-file")]
    NoClientAuthorities,
    /// No certificate authorities were found on this system.
    #[error(
        "no certificate authorities on this system ({0}): install the package ca-certificates, or name a file of them"
    )]
    NoAuthorities(String),
    /// A name that no certificate can have.
    #[error("invalid server name {0:?}: use a host's name or an IP address")]
    ServerName(String),
}

/// A copy of an error of TLS itself; `None` for other errors.
pub fn copy(error: &io::Error) -> Option<io::Error> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(io::Error::new(error.kind(), tls.clone()))
}

/// The reason of an error that TLS is at the bottom of, as a part of a sentence.
#[cfg(feature = "lookup")]
pub(crate) fn explain_cause(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| match error.downcast_ref::<io::Error>() {
        // `source` leaves out the error inside
        Some(error) => error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
        None => error.source(),
    });
    causes.find_map(|cause| cause.downcast_ref::<rustls::Error>()).map(explain_tls)
}

/// The reason of a failed handshake or TLS stream, as a part of a sentence.
pub fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => explain_tls(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed during the TLS handshake".to_owned()
        }
        None => describe(error),
    }
}

fn explain_tls(tls: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error};
    match tls {
        Error::InvalidCertificate(reason) => match reason {
            Certificate::UnknownIssuer => {
                "its certificate is from an unknown authority: name that one's file with --tls-ca-file".to_owned()
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => "its certificate has expired".to_owned(),
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "its certificate is not valid yet: is the clock right?".to_owned()
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "its certificate is for another name: give that one with --tls-server-name".to_owned()
            }
            other => format!("its certificate is refused: {other}"),
        },
        Error::AlertReceived(
            Alert::CertificateRequired | Alert::BadCertificate | Alert::UnknownCA | Alert::HandshakeFailure,
        ) => {
            format!(
                "it refused the handshake ({tls}): it may want a client certificate, --tls-cert-file and --tls-key-file"
            )
        }
        Error::InvalidMessage(_) => "it does not speak TLS here".to_owned(),
        other => other.to_string(),
    }
}

fn refused(path: &Path, error: &impl std::fmt::Display) -> TlsSettingsError {
    TlsSettingsError::Refused { path: path.to_owned(), reason: error.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsSettingsError> {
    std::fs::read(path).map_err(|source| TlsSettingsError::Unreadable { path: path.to_owned(), source })
}

/// Reads certificate authorities from a PEM file.
fn authorities(path: &Path) -> Result<RootCertStore, TlsSettingsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(|e| refused(path, &e))?;
    }
    Ok(roots)
}

/// Reads the certificates of a PEM file: at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let missing = || TlsSettingsError::Missing { what: "certificate", path: path.to_owned() };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(missing)
}

/// Reads the first private key of a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSettingsError> {
    let missing = |_| TlsSettingsError::Missing { what: "private key", path: path.to_owned() };
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(missing)
}
