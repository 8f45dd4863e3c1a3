//! Certificates for the tests: an authority, a server's and a client's certificate, and wrong ones.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// A folder of PEM files: `ca.pem`, `other-ca.pem`, and for each NAME of [`NAMES`] and [`OWN`]
/// `NAME.pem` and `NAME.key`.
pub struct Certificates(tempfile::TempDir);

/// Server certificates for 127.0.0.1 (good, expired, about to expire, for another name), and client
/// certificates (good, from another authority).
const NAMES: [&str; 6] = ["server", "expired", "expiring", "elsewhere", "client", "foreign"];

/// Certificates that are signed by themselves; the second is for servers only.
const OWN: [&str; 2] = ["own", "own-server"];

/// The time that `expiring` has left: five days and an hour.
pub const LEFT: Duration = Duration::from_secs(5 * 86_400 + 3_600);

impl Certificates {
    /// Makes them.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("random bytes");
            let certificate = params.self_signed(&key).expect("a certificate");
            std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).expect("room");
            Issuer::new(params, key)
        };
        let (ca, other) = (authority("ca"), authority("other-ca"));
        for name in NAMES {
            // nsqjs takes any address to be called localhost
            let hosts: &[&str] = if name == "elsewhere" { &["elsewhere.example"] } else { &["127.0.0.1", "localhost"] };
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
            let mut params = CertificateParams::new(hosts).expect("names");
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            if name == "expired" {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 1, 1);
            }
            if name == "expiring" {
                params.not_after = (SystemTime::now() + LEFT).into();
            }
            let key = KeyPair::generate().expect("random bytes");
            let issuer = if name == "foreign" { &other } else { &ca };
            let certificate = params.signed_by(&key, issuer).expect("a certificate");
            std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).expect("room");
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).expect("room");
        }
        for name in OWN {
            let key = KeyPair::generate().expect("random bytes");
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            if name == "own-server" {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            let certificate = params.self_signed(&key).expect("a certificate");
            std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).expect("room");
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).expect("room");
        }
        Self(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// nsqd's flags for TLS with this server certificate.
    pub fn flags(&self, server: &str) -> Vec<String> {
        let at = |name: &str| self.file(name).display().to_string();
        vec![
            format!("--tls-cert={}", at(&format!("{server}.pem"))),
            format!("--tls-key={}", at(&format!("{server}.key"))),
            format!("--tls-root-ca-file={}", at("ca.pem")),
            "--https-address=127.0.0.1:0".to_owned(),
        ]
    }
}
