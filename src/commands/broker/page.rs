//! `--web`: the page of `mqueue web`, served by the broker's process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::commands::broker::args::Args;
use crate::commands::common::broker_args;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::socket_args;
use crate::commands::common::web::args::AccessArgs;
use crate::commands::common::web::{WebServer, WebSettings};
use mqueue::broker::TlsRequired;
use mqueue::broker::server::BrokerServer;
use mqueue::http::BrowserGuard;
use mqueue::proto::HostPort;

/// The time between two looks at the broker.
const INTERVAL: Duration = Duration::from_secs(1);

/// The page, and who may look and act.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Page")]
pub(crate) struct PageArgs {
    /// Serve the page of `mqueue web` on this address, or on 127.0.0.1:4180 without a value; with
    /// --tls-cert, over TLS [default: no page]
    #[arg(
        long,
        env = "MQUEUE_WEB",
        value_name = "HOST:PORT",
        num_args = 0..=1,
        default_missing_value = "127.0.0.1:4180"
    )]
    pub web: Option<HostPort>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub access: AccessArgs,
}

/// Binds the page's address, if there is one.
///
/// # Errors
/// Fails if the address is not available, the flags miss one, or the broker serves no HTTP on TCP.
pub(super) async fn bind(args: &Args, server: &BrokerServer) -> Result<Option<WebServer>, Failure> {
    let Some(listen) = &args.page.web else { return Ok(None) };
    let usage = |line: String| Failure::new(Exit::Usage, line);
    let Some(http) = server.http.iter().find_map(|bound| bound.address()) else {
        return Err(usage("--web needs the HTTP API on a TCP address: name it with --http-address".to_owned()));
    };
    if server.broker.config().tls_required == TlsRequired::Yes {
        let line = "--web reads the HTTP API without TLS, which --tls-required and --tls-client-auth-policy forbid: give \
                    --tls-required=tcp-https, which allows it";
        return Err(usage(line.to_owned()));
    }
    let nsqd = reachable(http).to_string().parse().map_err(|error| usage(format!("{error}")))?;
    let brokers = broker_args::Args::of_nsqd(nsqd);
    let settings = WebSettings {
        cluster: brokers.cluster()?,
        brokers,
        wakeup: None,
        sockets: socket_args::Args::default(),
        interval: INTERVAL,
        access: args.page.access.clone(),
        guard: args.http_guard.extend(BrowserGuard::default()),
        tls: args.security.page_tls().map_err(|error| usage(error.to_string()))?,
    };
    WebServer::bind(listen, settings).await.map(Some)
}

/// Returns the address at which this machine reaches a server that listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_on_all_addresses_is_reached_by_loopback() {
        for (bound, reached) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(reachable(bound.parse().unwrap()), reached.parse().unwrap(), "{bound}");
        }
    }
}
