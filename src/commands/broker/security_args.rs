//! TLS, compression and AUTH of `mqueue broker`: nsqd's flags.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use mqueue::broker::auth::{AuthMethod, AuthServers};
use mqueue::broker::server::ListenAddress;
use mqueue::broker::{BrokerConfig, TlsRequired};
use mqueue::net::tls::{ClientAuth, TlsClient, TlsClientSettings, TlsServer, TlsVersion};

use super::args::{MaybeAddress, maybe_address};
use super::go_flags::{boolean, go_duration, go_whole};
use crate::commands::common::server_tls_args::ServerTlsArgs;
use crate::commands::common::values::{MaybePath, host_port, maybe_path};

/// TLS, compression and AUTH.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "TLS, compression and AUTH")]
pub(crate) struct BrokerSecurityArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerTlsArgs,

    /// Refuse connections without TLS: true, false, or tcp-https (HTTP without TLS stays allowed)
    #[arg(
        long,
        env = "MQUEUE_TLS_REQUIRED",
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = tls_required
    )]
    pub tls_required: TlsRequired,

    /// Certificates of clients: require (any), or require-verify (of an authority in
    /// --tls-root-ca-file) [default: none]
    #[arg(long, env = "MQUEUE_TLS_CLIENT_AUTH_POLICY", value_name = "POLICY", value_parser = client_auth)]
    pub tls_client_auth_policy: Option<ClientAuth>,

    /// PEM file of the authorities of client certificates
    #[arg(long, env = "MQUEUE_TLS_ROOT_CA_FILE", value_name = "PATH", value_parser = maybe_path, default_value = "", hide_default_value = true)]
    pub tls_root_ca_file: MaybePath,

    /// Lowest TLS version: tls1.2 or tls1.3; an older one is accepted with a warning, and never
    /// offered
    #[arg(long, env = "MQUEUE_TLS_MIN_VERSION", value_name = "VERSION", default_value = "tls1.2", value_parser = tls_version)]
    pub tls_min_version: LowestTls,

    /// Address of the HTTP API over TLS; several with commas; empty: no HTTPS [default:
    /// 127.0.0.1:4152 with --tls-cert]
    #[arg(
        long,
        env = "MQUEUE_HTTPS_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ',',
        overrides_with = "https_address",
        value_parser = maybe_address
    )]
    pub https_address: Vec<MaybeAddress>,

    /// Server that decides what a client's AUTH secret permits: HOST:PORT or a URL; repeatable
    /// [default: no AUTH]
    #[arg(long, env = "MQUEUE_AUTH_HTTP_ADDRESS", value_name = "ADDRESS", value_delimiter = ',', value_parser = auth_server)]
    pub auth_http_address: Vec<String>,

    /// Method of requests to AUTH servers: get, or post (the secret is in the body, not in the URL)
    #[arg(long, env = "MQUEUE_AUTH_HTTP_REQUEST_METHOD", value_name = "METHOD", default_value = "get", value_parser = auth_method)]
    pub auth_http_request_method: AuthMethod,

    /// Time to connect to an AUTH server
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = go_duration)]
    pub http_client_connect_timeout: Duration,

    /// Time for an AUTH server's whole answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = go_duration)]
    pub http_client_request_timeout: Duration,

    /// Offer snappy to clients
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", value_parser = boolean)]
    pub snappy: bool,

    /// Offer deflate to clients
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", value_parser = boolean)]
    pub deflate: bool,

    /// Highest level of deflate that a client may ask for: 1 to 9
    #[arg(long, value_name = "LEVEL", default_value_t = 6, value_parser = go_whole::<u32>(1..=9))]
    pub max_deflate_level: u32,
}

fn tls_required(text: &str) -> Result<TlsRequired, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp-https" => Ok(TlsRequired::TcpOnly),
        word => match boolean(word) {
            Ok(true) => Ok(TlsRequired::Yes),
            Ok(false) => Ok(TlsRequired::No),
            Err(_) => Err("use true, false or tcp-https".to_owned()),
        },
    }
}

fn client_auth(text: &str) -> Result<ClientAuth, String> {
    match text {
        "require" => Ok(ClientAuth::Require),
        "require-verify" => Ok(ClientAuth::RequireVerify),
        "" => Ok(ClientAuth::None),
        _ => Err("use require or require-verify".to_owned()),
    }
}

/// The lowest TLS version that is offered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowestTls {
    version: TlsVersion,
    /// True if an older one was asked for.
    is_raised: bool,
}

fn tls_version(text: &str) -> Result<LowestTls, String> {
    let (version, is_raised) = match text.to_ascii_lowercase().as_str() {
        "tls1.3" => (TlsVersion::V1_3, false),
        "" | "tls1.2" => (TlsVersion::V1_2, false),
        "ssl3.0" | "tls1.0" | "tls1.1" => (TlsVersion::V1_2, true),
        _ => return Err("use tls1.2 or tls1.3".to_owned()),
    };
    Ok(LowestTls { version, is_raised })
}

fn auth_server(text: &str) -> Result<String, String> {
    if text.contains("://") { Ok(text.to_owned()) } else { host_port(text) }
}

fn auth_method(text: &str) -> Result<AuthMethod, String> {
    match text.to_ascii_lowercase().as_str() {
        "get" => Ok(AuthMethod::Get),
        "post" => Ok(AuthMethod::Post),
        _ => Err("use get or post".to_owned()),
    }
}

impl BrokerSecurityArgs {
    /// Returns the warnings about flags that do not have their full effect.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let https = self.server.tls_cert.is_none() && !self.https_address.is_empty();
        let https = https.then(|| "--https-address has no effect without --tls-cert".to_owned());
        let raised = self.tls_min_version.is_raised;
        let raised = raised.then(|| "--tls-min-version: TLS below 1.2 is not offered: tls1.2 is the lowest".to_owned());
        https.into_iter().chain(raised)
    }

    /// Reads the files, and adds TLS, compression and AUTH to a broker's configuration.
    ///
    /// # Errors
    /// Files that cannot be used, or flags that make no sense together.
    pub(crate) fn apply(&self, config: &mut BrokerConfig) -> anyhow::Result<()> {
        let client_auth = self.tls_client_auth_policy.unwrap_or_default();
        config.tls_required = match self.tls_required {
            TlsRequired::No if client_auth != ClientAuth::None => TlsRequired::Yes,
            required => required,
        };
        config.tls = match self.server.load(client_auth, self.tls_root_ca_file.clone(), self.tls_min_version.version)? {
            Some(tls) => Some(tls),
            None if config.tls_required != TlsRequired::No => {
                bail!("TLS is required of clients: name --tls-cert and --tls-key")
            }
            None => None,
        };
        (config.snappy, config.deflate, config.max_deflate_level) = (self.snappy, self.deflate, self.max_deflate_level);
        config.auth = match self.auth_http_address.is_empty() {
            true => None,
            false => Some(self.auth_servers()?),
        };
        Ok(())
    }

    /// Reads the certificate for the page, which asks browsers for none; `None` without one.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub(crate) fn page_tls(&self) -> anyhow::Result<Option<Arc<TlsServer>>> {
        self.server.load(ClientAuth::None, None, self.tls_min_version.version)
    }

    fn auth_servers(&self) -> anyhow::Result<AuthServers> {
        let tls = self.auth_http_address.iter().any(|address| address.starts_with("https://"));
        let settings = TlsClientSettings { ca_file: self.tls_root_ca_file.clone(), ..TlsClientSettings::default() };
        let tls = tls.then(|| TlsClient::new(&settings)).transpose()?;
        AuthServers::new(
            &self.auth_http_address,
            self.auth_http_request_method,
            self.http_client_connect_timeout,
            self.http_client_request_timeout,
            tls.as_ref(),
        )
        .map_err(anyhow::Error::msg)
    }

    /// Addresses of the HTTP API over TLS.
    pub(crate) fn https_addresses(&self) -> Vec<ListenAddress> {
        let default = || "127.0.0.1:4152".parse().expect("a valid address");
        match (&self.server.tls_cert, self.https_address.is_empty()) {
            (None, _) => Vec::new(),
            (Some(_), true) => vec![default()],
            (Some(_), false) => self.https_address.iter().flatten().cloned().collect(),
        }
    }
}
