//! `mqueue web`: a page that shows a cluster in a browser.

pub(crate) mod args;

use std::time::Duration;

use super::common::exit::{Exit, Failure};
use super::common::open_files;
use super::common::web::{WebServer, WebSettings};
use crate::commands::web::args::Args;
use mqueue::http::BrowserGuard;
use mqueue::net::tls::{ClientAuth, TlsVersion};
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// Time for requests in progress after Ctrl-C or SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(GRACE)?;
    let tls = args.server.load(ClientAuth::None, None, TlsVersion::default());
    let settings = WebSettings {
        cluster: args.broker.cluster()?,
        brokers: args.broker,
        wakeup: args.wakeup_http_address,
        sockets: args.sockets,
        interval: args.poll_interval,
        access: args.access,
        guard: args.http_guard.extend(BrowserGuard::default()),
        tls: tls.map_err(|e| Failure::new(Exit::Usage, e))?,
    };
    open_files::raise_limit();
    let server = WebServer::bind(&args.listen, settings).await?;
    tracing::info!("listening on {}", server.url()?);
    let notifier = Notifier;
    notifier.ready();
    server.run(shutdown).await;
    notifier.stopping();
    Ok(Exit::Success)
}
