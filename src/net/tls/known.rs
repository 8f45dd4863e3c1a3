//! Peers whose certificate is itself among the authorities: Go trusts them, and webpki does not.
//!
//! Many an nsqd, and many a client of one, has a certificate that is signed by itself.

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{ExtendedKeyUsage, FromDer, X509Certificate};

/// The side of a connection that a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionSide {
    Server,
    #[cfg(feature = "broker")]
    Client,
}

/// Checks a certificate that is among the authorities: its time, and that its purposes, if it names
/// any, include this side of a connection.
pub(super) fn check(
    certificate: &CertificateDer<'_>,
    side: ConnectionSide,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let purposes = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    match now {
        _ if now < begin => Err(CertificateError::NotValidYet),
        _ if now > end => Err(CertificateError::Expired),
        _ if purposes.is_some_and(|purposes| !allows(purposes.value, side)) => Err(CertificateError::InvalidPurpose),
        _ => Ok(()),
    }
}

fn allows(purposes: &ExtendedKeyUsage<'_>, side: ConnectionSide) -> bool {
    purposes.any
        || match side {
            ConnectionSide::Server => purposes.server_auth,
            #[cfg(feature = "broker")]
            ConnectionSide::Client => purposes.client_auth,
        }
}
