//! Addresses of brokers: the same flags in every command that connects to one, with the names of
//! nsq's programs.

use mqueue::client::{Address, ConnectConfig, Lookupd, Nsqd, Security};
use mqueue::cluster::ClusterApis;
use mqueue::net::tls::TlsClient;

use super::exit::{Exit, Failure};
use super::security_args::SecurityArgs;

/// Addresses of nsqd and nsqlookupd.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Brokers")]
pub(crate) struct Args {
    /// TCP address of an nsqd; repeatable [default: what the nsqds of --nsqd-http-address say, or
    /// 127.0.0.1:4150 if no broker is named]
    #[arg(long, value_name = "HOST:PORT", env = "NSQD_TCP_ADDRESS", value_delimiter = ',')]
    pub nsqd_tcp_address: Vec<Address>,

    /// HTTP address of an nsqd; repeatable [default: 127.0.0.1:4151, if the TCP address is the
    /// default]
    #[arg(long, value_name = "HOST:PORT", env = "NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<Nsqd>,

    /// HTTP address of an nsqlookupd to find nsqds; repeatable [default: none]
    #[arg(long, value_name = "HOST:PORT", env = "LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<Lookupd>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub security: SecurityArgs,

    /// TLS, compression and AUTH, once [`Args::load_security`] has read the files.
    #[arg(skip)]
    pub loaded: Security,

    /// True if another server is reached with TLS, by the same flags.
    #[arg(skip)]
    pub tls_elsewhere: bool,

    /// TLS of HTTP APIs and other servers, if it is asked for.
    #[arg(skip)]
    https: Option<TlsClient>,
}

impl Args {
    /// Names one nsqd, by its HTTP API.
    pub(crate) fn of_nsqd(http: Nsqd) -> Self {
        Self { nsqd_http_address: vec![http], ..Self::default() }
    }

    /// Returns true if an address to connect to is named.
    pub(crate) fn is_named(&self) -> bool {
        !self.nsqd_tcp_address.is_empty() || !self.lookupd_http_address.is_empty()
    }

    /// Reads the files for TLS and AUTH, and applies them to `https://` addresses, also to that of
    /// `other`.
    ///
    /// # Errors
    /// Fails if a file cannot be read or used.
    pub(crate) fn load_security(&mut self, other: Option<&mut Nsqd>) -> Result<(), Failure> {
        let (lookupds, mut nsqds) = (&mut self.lookupd_http_address, Vec::from_iter(other));
        nsqds.extend(&mut self.nsqd_http_address);
        let https = nsqds.iter().any(|nsqd| nsqd.is_https()) || lookupds.iter().any(Lookupd::is_https);
        let (security, client) = self.security.load(https || self.tls_elsewhere)?;
        self.loaded = security;
        if let Some(client) = &client {
            nsqds.into_iter().for_each(|nsqd| *nsqd = nsqd.clone().secured(client));
            lookupds.iter_mut().for_each(|lookupd| *lookupd = lookupd.clone().secured(client));
        }
        self.https = client;
        Ok(())
    }

    /// Returns the flags that have another command of this program use the same brokers.
    pub(crate) fn flags(&self) -> Vec<String> {
        let tcp = self.nsqd_tcp_address.iter().map(|address| format!("--nsqd-tcp-address={address}"));
        let http = self.nsqd_http().into_iter().map(|nsqd| format!("--nsqd-http-address={nsqd}"));
        let lookupds = self.lookupd_http_address.iter().map(|it| format!("--lookupd-http-address={it}"));
        tcp.chain(http).chain(lookupds).chain(self.security.flags()).collect()
    }

    /// Returns the settings of connections to nsqd.
    pub(crate) fn connect(&self) -> ConnectConfig {
        ConnectConfig::default().with_security(self.loaded.clone())
    }

    /// Returns the TLS of other servers than nsqd's TCP port, if it is asked for.
    pub(crate) fn tls_client(&self) -> Option<&TlsClient> {
        self.https.as_ref()
    }

    /// Adds the TCP addresses of nsqds that are named by their HTTP addresses alone.
    ///
    /// # Errors
    /// Fails if one of them does not tell its TCP address.
    pub(crate) async fn complete(&mut self) -> Result<(), Failure> {
        if self.is_named() {
            return Ok(());
        }
        for http in &self.nsqd_http_address {
            self.nsqd_tcp_address.push(tcp_address(http, "--nsqd-tcp-address").await?);
        }
        Ok(())
    }

    /// Returns the HTTP APIs of all nsqds.
    ///
    /// # Errors
    /// Fails if nsqds are named by their TCP addresses alone.
    pub(crate) fn cluster(&self) -> Result<ClusterApis, Failure> {
        let (nsqds, lookupds) = (self.nsqd_http(), self.lookupd_http_address.clone());
        if nsqds.is_empty() && lookupds.is_empty() {
            let line = "this needs nsqd's HTTP address: name it with --nsqd-http-address";
            return Err(Failure::new(Exit::Usage, line));
        }
        let cluster = ClusterApis::new(nsqds, lookupds);
        Ok(match &self.https {
            Some(tls) => cluster.with_tls(tls.clone()),
            None => cluster,
        })
    }

    /// Returns the nsqds to connect to by address.
    pub(crate) fn nsqd(&self) -> Vec<Address> {
        match self.is_named() {
            false => vec!["127.0.0.1:4150".parse().expect("a valid address")],
            true => self.nsqd_tcp_address.clone(),
        }
    }

    /// Returns the known HTTP APIs of nsqds.
    pub(crate) fn nsqd_http(&self) -> Vec<Nsqd> {
        match !self.is_named() && self.nsqd_http_address.is_empty() {
            true => vec![self.http_api("127.0.0.1:4151").expect("a valid address")],
            false => self.nsqd_http_address.clone(),
        }
    }

    /// Returns the HTTP API of an nsqd that an nsqlookupd lists, with the settings for TLS; `None`
    /// if the address is none.
    pub(crate) fn http_api(&self, address: &str) -> Option<Nsqd> {
        let nsqd: Nsqd = address.parse().ok()?;
        Some(match &self.https {
            Some(tls) => nsqd.secured(tls),
            None => nsqd,
        })
    }
}

/// Asks an nsqd for its TCP address. `flag` would name it.
///
/// # Errors
/// Fails if nsqd does not answer, or has no TCP port.
pub(crate) async fn tcp_address(http: &Nsqd, flag: &str) -> Result<Address, Failure> {
    let unknown = |why: String| Failure::new(Exit::Unavailable, format!("{why}: name its TCP address with {flag}"));
    let info = http.info().await.map_err(|error| unknown(format!("cannot ask nsqd for its TCP port: {error}")))?;
    http.tcp_address(&info).ok_or_else(|| unknown(format!("nsqd at {http} has no TCP port")))
}
