//! Probes of TLS and AUTH: certificates, files of secrets, connections as units make them, and
//! clients without TLS.
//!
//! A secret goes only to the nsqds that its own flag or unit names, and only as that one would send
//! it. Certificates are examined on connections that send no secret.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::future::{join_all, join3};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use tokio::time::timeout;

use super::brokers::late;
use super::systemd;
use super::unit_flags::UnitFlags;
use crate::commands::common::broker_args;
use crate::commands::common::security_args::SecurityArgs;
use crate::commands::common::tls_client_args::TlsClientArgs;
use crate::commands::doctor::args::Args;
use crate::commands::doctor::certificates::{CertificatePlace, CertificateSource};
use crate::commands::doctor::observed::{Observed, TcpFailure};
use crate::commands::doctor::plain_clients::{PlainClient, plain_clients};
use crate::commands::doctor::secrets::{SecretFile, UnitConnection};
use mqueue::client::{Address, ConnectConfig, StatsFilter, authenticate, inspect_certificates};
use mqueue::io_error::describe;
use mqueue::net;
use mqueue::net::tls::{CertificateInfo, certificates_in, certificates_of};

/// The flags that name certificates, of clients and of brokers.
const CERTIFICATES: [&str; 4] = ["tls-cert", "tls-cert-file", "tls-ca-file", "tls-root-ca-file"];
/// The flags that name secrets and keys.
const SECRETS: [&str; 4] = ["auth-secret-file", "bearer-token-file", "tls-key", "tls-key-file"];
/// The largest file of certificates that is read.
const MAX_BYTES: u64 = 16 << 20;
/// The largest number of connections for units.
const MAX_CONNECTIONS: usize = 64;

/// Examines all of it, concurrently, for the brokers that were probed.
pub(super) async fn examine(args: &Args, observed: &mut Observed) {
    let deadline = args.deadline;
    let units = systemd::unit_flags(deadline).await;
    let tcp = join_all(reached(observed).map(|address| of_tcp(address, deadline)));
    let https = join_all(https(observed).map(|address| of_https(address, deadline)));
    let connections = join_all(unit_connections(&units).into_iter().map(|connection| connection.open(deadline)));
    let (tcp, https, connections) = join3(tcp, https, connections).await;
    observed.plain_clients = ask_for_plain_clients(&args.broker, observed, &tcp, deadline).await;
    let mut certificates = files_of_certificates(&args.broker.security, &units);
    certificates.extend(tcp.into_iter().filter_map(|(address, found)| {
        let place = CertificatePlace::Tcp { address: address.to_string() };
        Some(CertificateSource { place, found: found.transpose()? })
    }));
    certificates.extend(https);
    observed.certificates = certificates;
    observed.unit_connections = connections;
    observed.secrets = secret_files(&args.broker.security, &units);
    observed.now = Some(SystemTime::now());
}

/// Returns the addresses at which an nsqd was reached.
fn reached(observed: &Observed) -> impl Iterator<Item = Address> {
    let is_reached =
        |answer: &Result<_, TcpFailure>| answer.as_ref().map_or_else(|failure| failure.is_refusal, |_| true);
    observed.tcp.iter().filter(move |tcp| is_reached(&tcp.answer)).map(|tcp| tcp.address.clone())
}

/// Returns the addresses that are called over https.
fn https(observed: &Observed) -> impl Iterator<Item = String> {
    let nsqds = observed.http.iter().map(|http| &http.address);
    let all = nsqds.chain(observed.lookupds.iter().map(|lookupd| &lookupd.address));
    all.filter(|address| address.starts_with("https://")).cloned()
}

type OfTcp = (Address, Result<Option<Vec<CertificateInfo>>, String>);

async fn of_tcp(address: Address, deadline: Duration) -> OfTcp {
    let config = ConnectConfig::default().with_connect_timeout(deadline).with_max_frame(1 << 20);
    let found = match timeout(deadline, inspect_certificates(&address, &config)).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err(late(deadline)),
    };
    (address, found)
}

async fn of_https(address: String, deadline: Duration) -> CertificateSource {
    let shown = async {
        let bare = address.strip_prefix("https://").unwrap_or(&address);
        let parsed: Address = bare.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let stream = net::connect(parsed.host(), parsed.port(), deadline).await?;
        certificates_of(parsed.host(), stream).await
    };
    let found = match timeout(deadline, shown).await {
        Ok(found) => found.map_err(|error| net::tls::explain(&error)),
        Err(_) => Err(late(deadline)),
    };
    CertificateSource { place: CertificatePlace::Https { address }, found }
}

fn files_of_certificates(own: &SecurityArgs, units: &[UnitFlags]) -> Vec<CertificateSource> {
    let named = [&own.certificates.tls_cert_file, &own.certificates.tls_ca_file].into_iter().flatten();
    let mut files: BTreeMap<PathBuf, Option<String>> = named.map(|path| (path.clone(), None)).collect();
    for unit in units {
        for path in CERTIFICATES.iter().filter_map(|flag| unit.file(flag)) {
            files.entry(path).or_insert_with(|| Some(unit.unit.clone()));
        }
    }
    let source = |(path, unit): (PathBuf, Option<String>)| {
        let found = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            Err(error) => Err(describe(&error)),
            // opening a pipe would wait for its writer
            Ok(about) if !about.is_file() || about.len() > MAX_BYTES => Err("it is no file of certificates".to_owned()),
            Ok(_) if may_not_read(&path) => return None,
            Ok(_) => certificates_in(&path).map_err(|error| error.to_string()),
        };
        Some(CertificateSource { place: CertificatePlace::File { path, unit }, found })
    };
    files.into_iter().filter_map(source).collect()
}

fn secret_files(own: &SecurityArgs, units: &[UnitFlags]) -> Vec<SecretFile> {
    let named = [&own.auth_secret_file, &own.certificates.tls_key_file].into_iter().flatten();
    let mut files: BTreeMap<PathBuf, Option<&UnitFlags>> = named.map(|path| (path.clone(), None)).collect();
    for unit in units {
        for path in SECRETS.iter().filter_map(|flag| unit.file(flag)) {
            files.entry(path).or_insert(Some(unit));
        }
    }
    let file = |(path, unit): (PathBuf, Option<&UnitFlags>)| {
        let about = match path.metadata() {
            // a folder that this user may not search keeps others out as well
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            about => about.map_err(|error| describe(&error)),
        };
        // a unit reads root's file as one of the others, unless the file has the unit's group
        let is_roots = about.as_ref().is_ok_and(|about| about.uid() == 0 && about.gid() == 0);
        let group = unit.filter(|_| is_roots).and_then(|unit| unit.group.clone());
        let unit = unit.map(|unit| unit.unit.clone());
        Some(SecretFile { path, unit, group, mode: about.map(|about| about.mode()) })
    };
    files.into_iter().filter_map(file).collect()
}

fn may_not_read(path: &Path) -> bool {
    access(path, AccessFlags::R_OK) == Err(Errno::EACCES)
}

/// A connection as a unit makes it.
struct WantedConnection {
    unit: String,
    secret: Option<PathBuf>,
    /// The nsqd and the settings, or the reason why they cannot be used.
    settings: Result<(Address, ConnectConfig), String>,
}

/// Returns the connections of the units that use TLS or AUTH, with the nsqds that they name. Files
/// that this user may not read are left out.
fn unit_connections(units: &[UnitFlags]) -> Vec<WantedConnection> {
    let mut all = Vec::new();
    for unit in units.iter().filter(|unit| unit.unit.ends_with(".service")) {
        let args = security_of(unit);
        let secret = args.auth_secret_file.clone();
        if secret.is_none() && !args.tls {
            continue;
        }
        let files = [
            &args.auth_secret_file,
            &args.certificates.tls_ca_file,
            &args.certificates.tls_cert_file,
            &args.certificates.tls_key_file,
        ];
        if files.into_iter().flatten().any(|path| may_not_read(path)) {
            continue;
        }
        let wanted = |settings| WantedConnection { unit: unit.unit.clone(), secret: secret.clone(), settings };
        let security = match args.load(false) {
            Ok((security, _)) => security,
            Err(failure) => {
                all.push(wanted(Err(failure.to_string())));
                continue;
            }
        };
        let config = ConnectConfig::default().with_max_frame(1 << 20).with_security(security);
        let addresses = addresses_of(unit);
        all.extend(addresses.into_iter().map(|address| wanted(Ok((address, config.clone())))));
    }
    all.truncate(MAX_CONNECTIONS);
    all
}

/// Returns the nsqds that a unit connects to by address, as its command does.
fn addresses_of(unit: &UnitFlags) -> Vec<Address> {
    let names_another = unit.get("lookupd-http-address").or(unit.get("nsqd-http-address")).is_some();
    let default = if names_another { "" } else { "127.0.0.1:4150" };
    unit.get("nsqd-tcp-address").unwrap_or(default).split(',').filter_map(|address| address.parse().ok()).collect()
}

fn security_of(unit: &UnitFlags) -> SecurityArgs {
    SecurityArgs {
        tls: unit.is_set("tls"),
        certificates: TlsClientArgs {
            tls_ca_file: unit.file("tls-ca-file"),
            tls_cert_file: unit.file("tls-cert-file"),
            tls_key_file: unit.file("tls-key-file"),
            tls_server_name: unit.get("tls-server-name").map(str::to_owned),
            tls_insecure_skip_verify: unit.is_set("tls-insecure-skip-verify"),
        },
        auth_secret_file: unit.file("auth-secret-file"),
        deflate: None,
        snappy: false,
    }
}

impl WantedConnection {
    async fn open(self, deadline: Duration) -> UnitConnection {
        let Self { unit, secret, settings } = self;
        let (address, config) = match settings {
            Ok((address, config)) => (address, config.with_connect_timeout(deadline)),
            Err(why) => {
                let answer = Err(TcpFailure { why, is_refusal: true });
                return UnitConnection { unit, address: None, secret, answer };
            }
        };
        let answer = match timeout(deadline, authenticate(&address, &config)).await {
            Ok(answer) => answer.map_err(TcpFailure::from),
            Err(_) => Err(late(deadline).into()),
        };
        UnitConnection { unit, address: Some(address), secret, answer }
    }
}

/// Asks the nsqds that offer TLS for their clients.
async fn ask_for_plain_clients(
    args: &broker_args::Args,
    observed: &Observed,
    tcp: &[OfTcp],
    deadline: Duration,
) -> Vec<(String, Vec<PlainClient>)> {
    let offers = |address: &Option<Address>| {
        address
            .as_ref()
            .is_some_and(|address| tcp.iter().any(|(other, found)| other == address && matches!(found, Ok(Some(_)))))
    };
    let nsqds = observed.answers().filter(|(_, answer)| offers(&answer.tcp));
    let asked = nsqds.map(|(http, _)| async move {
        let nsqd = args.http_api(&http.address)?;
        let stats = timeout(deadline, nsqd.stats(&StatsFilter::default().with_clients())).await.ok()?.ok()?;
        Some((http.address.clone(), plain_clients(&stats)))
    });
    join_all(asked).await.into_iter().flatten().collect()
}
