//! `mqueue ls`: streams and groups with their messages, rates and consumers.
//!
//! ```text
//!  ClusterApis ─▶ two states, --watch apart ─▶ ClusterListing ─▶ a table, or JSON
//!  sockets of this machine ─────────────────────────▲
//! ```

pub(crate) mod args;
mod table;

use std::time::Duration;

use super::common::cluster_listing::ClusterListing;
use super::common::exit::{Exit, Failure};
use super::common::message_ages::MessageAges;
use super::common::silent_brokers::silent_brokers;
use super::common::stdout;
use super::common::stream_listing::StreamListing;
use crate::commands::ls::args::Args;
use mqueue::client::StatsFilter;
use mqueue::cluster::ClusterObserver;

/// The longest time over which rates are measured.
const MAX_WATCH: Duration = Duration::from_secs(3600);

/// The time that nsqds have to answer, before --watch begins.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.broker.cluster()?;
    let mut observer = ClusterObserver::new(cluster, StatsFilter::default(), GRACE);
    let first = observer.next().await;
    let (state, earlier) = match args.watch.min(MAX_WATCH) {
        Duration::ZERO => (first, None),
        watch => {
            tokio::time::sleep_until((first.at + watch).into()).await;
            (observer.next().await, Some(first))
        }
    };
    let silent = silent_brokers(&state, "its messages are not counted")?;
    let mut ages = MessageAges::default();
    if let Some(earlier) = &earlier {
        ages.look(earlier);
    }
    let mut listing = ClusterListing::new(&state, earlier.as_ref(), &mut ages, &args.sockets);
    listing.streams.retain(|row: &StreamListing| match &args.only {
        Some(only) => row.stream == *only,
        None => args.all || args.json || row.is_shown,
    });
    if let (Some(only), []) = (&args.only, &listing.streams[..]) {
        return Err(Failure::new(Exit::Failure, format!("no nsqd that answered has a stream {only}")).into());
    }
    let mut text = match &listing.streams[..] {
        _ if args.json => serde_json::to_string(&listing)?,
        [] => "no streams".to_owned(),
        streams => table::text(streams, earlier.is_some()),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for line in &silent {
        // JSON has them as "nsqds" and "lookupd_errors"
        if args.json {
            tracing::warn!("{line}");
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    stdout::print(&text)?;
    Ok(if silent.is_empty() { Exit::Success } else { Exit::Failure })
}
