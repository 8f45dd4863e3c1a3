//! Modes of a connection: every combination of TLS, compression and AUTH.

use mqueue::client::{AuthSecret, Security};
use mqueue::net::tls::{TlsClient, TlsClientSettings};
use mqueue::net::transport::Compression;

use super::{AuthServer, Certificates, Nsqd};

/// The secret of connections with AUTH.
pub const SECRET: &str = "open-sesame";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Off,
    On,
    /// The client has a certificate, too.
    Mutual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    pub tls: Tls,
    pub compression: Option<Compression>,
    pub auth: bool,
}

impl Mode {
    /// No TLS, no compression and no AUTH.
    pub const PLAIN: Self = Self { tls: Tls::Off, compression: None, auth: false };

    /// All 48: with the levels of deflate that nsqd grants.
    pub fn all() -> Vec<Self> {
        let deflate = (1..=6).map(|level| Some(Compression::Deflate(level)));
        let compressions: Vec<_> = [None, Some(Compression::Snappy)].into_iter().chain(deflate).collect();
        let servers =
            [Tls::Off, Tls::On, Tls::Mutual].into_iter().flat_map(|tls| [false, true].map(|auth| (tls, auth)));
        servers.flat_map(|(tls, auth)| compressions.iter().map(move |c| Self { tls, compression: *c, auth })).collect()
    }

    /// Starts a server that refuses other TLS and AUTH than this mode's. `start` gets its flags.
    pub fn serve(self, certificates: &Certificates, start: impl FnOnce(&[&str]) -> Nsqd) -> SecuredServer {
        let mut flags = Vec::new();
        if self.tls != Tls::Off {
            flags.extend(certificates.flags("server"));
            // the HTTP API stays open to the test
            flags.push("--tls-required=tcp-https".to_owned());
        }
        if self.tls == Tls::Mutual {
            flags.push("--tls-client-auth-policy=require-verify".to_owned());
        }
        let auth = self.auth.then(|| AuthServer::start(SECRET));
        flags.extend(auth.as_ref().map(|server| format!("--auth-http-address={}", server.address())));
        SecuredServer { nsqd: start(&flags.iter().map(String::as_str).collect::<Vec<_>>()), auth }
    }

    /// The same wishes for the library.
    pub fn security(self, certificates: &Certificates) -> Security {
        let mut security = Security::default();
        security.tls = (self.tls != Tls::Off).then(|| certificates.client(self.tls == Tls::Mutual));
        security.compression = self.compression;
        security.auth_secret = self.auth.then(|| AuthSecret::new(SECRET));
        security
    }

    /// The same wishes as a JSON object, for a client of another language (tests/peers).
    pub fn fields(self, certificates: &Certificates, address: &str, topic: &str, body: &str) -> String {
        let file = |is_used: bool, name: &str| is_used.then(|| certificates.file(name));
        let (is_tls, is_mutual) = (self.tls != Tls::Off, self.tls == Tls::Mutual);
        let compression = self.compression.map(|compression| match compression {
            Compression::Deflate(_) => "deflate",
            Compression::Snappy => "snappy",
        });
        let mut fields = serde_json::json!({
            "address": address, "topic": topic, "body": body,
            "ca": file(is_tls, "ca.pem"), "cert": file(is_mutual, "client.pem"), "key": file(is_mutual, "client.key"),
            "secret": self.auth.then_some(SECRET), "compression": compression,
        });
        fields.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        fields.to_string()
    }

    /// The same wishes as flags of mqueue's commands.
    pub fn flags(self, certificates: &Certificates) -> String {
        let file = |name: &str| certificates.file(name).display().to_string();
        let mut flags = String::new();
        if self.tls != Tls::Off {
            flags += &format!(" --tls --tls-ca-file {}", file("ca.pem"));
        }
        if self.tls == Tls::Mutual {
            flags += &format!(" --tls-cert-file {} --tls-key-file {}", file("client.pem"), file("client.key"));
        }
        if self.auth {
            std::fs::write(certificates.file("secret"), SECRET).expect("room");
            flags += &format!(" --auth-secret-file {}", file("secret"));
        }
        flags
            + &match self.compression {
                None => String::new(),
                Some(Compression::Snappy) => " --snappy".to_owned(),
                Some(Compression::Deflate(level)) => format!(" --deflate {level}"),
            }
    }
}

/// A server of one mode, and its AUTH server.
pub struct SecuredServer {
    pub nsqd: Nsqd,
    pub auth: Option<AuthServer>,
}

impl SecuredServer {
    /// The queries to the AUTH server so far; none without AUTH.
    pub fn asked(&self) -> Vec<String> {
        self.auth.as_ref().map(AuthServer::asked).unwrap_or_default()
    }
}

impl Certificates {
    /// A client that trusts the authority; with the client's certificate for mutual TLS.
    pub fn client(&self, mutual: bool) -> TlsClient {
        let of_client = |name: &str| mutual.then(|| self.file(name));
        TlsClient::new(&TlsClientSettings {
            ca_file: Some(self.file("ca.pem")),
            cert_file: of_client("client.pem"),
            key_file: of_client("client.key"),
            ..TlsClientSettings::default()
        })
        .expect("good files")
    }
}
