//! `mqueue send`: sends numbered messages on a schedule to a socket.
//!
//! ```text
//!  SendPlan (what is due when) ─▶ stream:    lines, a connection a second ─▶ its answer: taken, or again
//!                            └▶ datagrams: a packet each, never answered
//! ```

pub(crate) mod args;
mod datagram;
mod plan;
mod stats;
mod stream;

use std::io::{self, Write};

use self::plan::SendPlan;
use self::stats::SendStats;
use super::common::exit::Exit;
use crate::commands::producer::args::SummaryFormat;
use crate::commands::send::args::Args;
use mqueue::net::Endpoint;
use mqueue::shutdown::Shutdown;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.grace)?;
    let plan = SendPlan::begin(&args)?;
    let stats = SendStats::begin();
    let sending = async {
        match &args.to {
            Endpoint::Unix(_) | Endpoint::Tcp(_) => stream::send(&args.to, &plan, &stats, &shutdown.draining).await,
            Endpoint::Unixgram(_) | Endpoint::Udp(_) => {
                datagram::send(&args.to, &plan, &stats, &shutdown.draining).await
            }
        }
    };
    let interrupted = tokio::select! {
        biased;
        sent = sending => sent.map(|()| false)?,
        () = shutdown.now.cancelled() => true,
    };
    let summary = stats.summary();
    match args.report() {
        SummaryFormat::Text => {
            // an unread summary does not make the run a failure
            let _ = writeln!(io::stderr(), "{summary}");
        }
        SummaryFormat::Json => super::common::stdout::print(&format!("{}\n", serde_json::to_string(&summary)?))?,
        SummaryFormat::None => {}
    }
    Ok(match interrupted {
        true => Exit::Interrupted,
        false if summary.is_success() => Exit::Success,
        false => Exit::Failure,
    })
}
