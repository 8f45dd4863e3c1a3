//! Which brokers: the same flags on every command that has one, named as nsq's own programs name them.

use mqueue::client::{Address, Lookupd, Nsqd};

/// Where NSQ is.
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
    /// True if somebody said where to connect to.
    pub(crate) fn is_named(&self) -> bool {
        !self.nsqd_tcp_address.is_empty() || !self.lookupd_http_address.is_empty()
    }

    /// nsqds to connect to by address.
    pub(crate) fn nsqd(&self) -> Vec<Address> {
        match self.is_named() {
            false => vec!["127.0.0.1:4150".parse().expect("a valid address")],
            true => self.nsqd_tcp_address.clone(),
        }
    }

    /// nsqds' HTTP APIs, as far as they are known.
    pub(crate) fn nsqd_http(&self) -> Vec<Nsqd> {
        match !self.is_named() && self.nsqd_http_address.is_empty() {
            true => vec!["127.0.0.1:4151".parse().expect("a valid address")],
            false => self.nsqd_http_address.clone(),
        }
    }
}
