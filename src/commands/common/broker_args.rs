//! Addresses of brokers: the same flags in every command that connects to one, with the names of nsq's programs.

use mqueue::client::{Address, Lookupd, Nsqd};

/// Addresses of nsqd and nsqlookupd.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Brokers")]
pub(crate) struct Args {
    /// TCP address of an nsqd; repeatable [default: 127.0.0.1:4150, unless an nsqlookupd is named]
    #[arg(long, value_name = "HOST:PORT", env = "NSQD_TCP_ADDRESS", value_delimiter = ',')]
    pub nsqd_tcp_address: Vec<Address>,

    /// HTTP address of an nsqd; repeatable [default: 127.0.0.1:4151, if the TCP address is the
    /// default]
    #[arg(long, value_name = "HOST:PORT", env = "NSQD_HTTP_ADDRESS", value_delimiter = ',')]
    pub nsqd_http_address: Vec<Nsqd>,

    /// HTTP address of an nsqlookupd to find nsqds; repeatable [default: none]
    #[arg(long, value_name = "HOST:PORT", env = "LOOKUPD_HTTP_ADDRESS", value_delimiter = ',')]
    pub lookupd_http_address: Vec<Lookupd>,
}

impl Args {
    /// Returns true if an address to connect to is named.
    pub(crate) fn is_named(&self) -> bool {
        !self.nsqd_tcp_address.is_empty() || !self.lookupd_http_address.is_empty()
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
            true => vec!["127.0.0.1:4151".parse().expect("a valid address")],
            false => self.nsqd_http_address.clone(),
        }
    }
}
