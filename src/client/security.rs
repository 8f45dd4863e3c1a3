//! TLS, compression and AUTH of a connection to nsqd: the wishes, and the check of what nsqd
//! grants.

use std::fmt;

use bytes::Bytes;

use super::{Address, Error};
#[cfg(feature = "compression")]
use crate::net::transport::Compression;
use crate::proto::{Identify, IdentifyReply};

/// Wishes for every connection. Each is either granted or an error: nothing falls back.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Security {
    /// TLS, with the files in use.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::net::tls::TlsClient>,
    /// Compression; nsqd lowers the level of deflate to its `--max-deflate-level`.
    #[cfg(feature = "compression")]
    pub compression: Option<Compression>,
    /// The secret for AUTH.
    pub auth_secret: Option<AuthSecret>,
}

/// A secret that neither logs nor `Debug` show.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthSecret(Bytes);

impl AuthSecret {
    /// `secret` as it is sent.
    pub fn new(secret: impl Into<Bytes>) -> Self {
        Self(secret.into())
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for AuthSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthSecret")
    }
}

impl Security {
    /// Sets TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: crate::net::tls::TlsClient) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the compression.
    #[cfg(feature = "compression")]
    #[must_use]
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Sets the secret for AUTH.
    #[must_use]
    pub fn with_auth_secret(mut self, secret: AuthSecret) -> Self {
        self.auth_secret = Some(secret);
        self
    }

    /// True without any wish.
    #[cfg(feature = "tokio-nsq")]
    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none() && self.compression.is_none() && self.auth_secret.is_none()
    }

    /// Returns IDENTIFY's body with the wishes.
    pub(crate) fn asked(&self, identify: &Identify) -> Identify {
        #[cfg_attr(not(any(feature = "tls", feature = "compression")), allow(unused_mut))]
        let mut asked = identify.clone();
        #[cfg(feature = "tls")]
        {
            asked.tls_v1 |= self.tls.is_some();
        }
        #[cfg(feature = "compression")]
        match self.compression {
            Some(Compression::Deflate(level)) => {
                asked.deflate = true;
                asked.deflate_level = i32::try_from(level).ok();
            }
            Some(Compression::Snappy) => asked.snappy = true,
            None => {}
        }
        asked
    }

    /// Checks that nsqd grants all wishes, and has none of its own that were not met.
    pub(crate) fn check(&self, address: &Address, granted: &IdentifyReply) -> Result<(), Error> {
        let fail = |reason: &str| Err(Error::Security { address: address.clone(), reason: reason.to_owned() });
        #[cfg(feature = "tls")]
        if self.tls.is_some() && !granted.tls_v1 {
            return fail("does not offer TLS: it needs --tls-cert and --tls-key");
        }
        #[cfg(feature = "compression")]
        match self.compression {
            Some(Compression::Deflate(_)) if !granted.deflate => {
                return fail("does not offer deflate (--deflate=false)");
            }
            Some(Compression::Snappy) if !granted.snappy => return fail("does not offer snappy (--snappy=false)"),
            _ => {}
        }
        match &self.auth_secret {
            None if granted.auth_required => fail("wants AUTH: give its secret with --auth-secret-file"),
            Some(_) if !granted.auth_required => fail("does not use AUTH (--auth-http-address): leave the secret out"),
            _ => Ok(()),
        }
    }

    /// The compression that follows IDENTIFY's reply, with nsqd's level.
    #[cfg(feature = "compression")]
    pub(crate) fn granted_compression(&self, granted: &IdentifyReply) -> Option<Compression> {
        Some(match self.compression? {
            Compression::Deflate(_) => Compression::Deflate(granted.deflate_level.clamp(1, 9).unsigned_abs()),
            Compression::Snappy => Compression::Snappy,
        })
    }
}
