//! `mqueue ls`: streams and groups with their messages, rates and consumers.
//!
//! ```text
//!  ClusterApis ─▶ two states, --watch apart ─▶ StreamListing, GroupListing ─▶ a table, or JSON
//!  sockets of this machine ─────────────────────────▲
//! ```

pub(crate) mod args;
mod rows;
mod table;

use std::time::Duration;

use serde_json::json;

use self::rows::{StreamListing, stream_rows};
use super::common::exit::{Exit, Failure};
use super::common::silent_brokers::silent_brokers;
use super::common::stdout;
use crate::commands::ls::args::Args;
use mqueue::client::StatsFilter;
use mqueue::cluster::{ClusterState, QueueRates};

/// The longest time over which rates are measured.
const MAX_WATCH: Duration = Duration::from_secs(3600);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.broker.cluster()?;
    let filter = StatsFilter::default();
    let first = cluster.observe(&filter).await;
    let (state, rates) = match args.watch.min(MAX_WATCH) {
        Duration::ZERO => (first, None),
        watch => {
            tokio::time::sleep_until((first.at + watch).into()).await;
            let state = cluster.observe(&filter).await;
            let rates = state.rates(&first);
            (state, Some(rates))
        }
    };
    let silent = silent_brokers(&state)?;
    silent.iter().for_each(|error| tracing::warn!("{error}: its messages are not counted"));
    let rows = stream_rows(&state.streams(), &rates.clone().unwrap_or_default(), &args.sockets.groups());
    let is_asked = |row: &&StreamListing| match &args.only {
        Some(only) => row.stream == *only,
        None => args.all || args.json || row.is_shown,
    };
    let rows: Vec<&StreamListing> = rows.iter().filter(is_asked).collect();
    if let (Some(only), []) = (&args.only, &rows[..]) {
        return Err(Failure::new(Exit::Failure, format!("no nsqd that answered has a stream {only}")).into());
    }
    stdout::print(&text(&args, &state, &rows, rates.as_ref()))?;
    Ok(if silent.is_empty() { Exit::Success } else { Exit::Failure })
}

fn text(args: &Args, state: &ClusterState, rows: &[&StreamListing], rates: Option<&QueueRates>) -> String {
    if args.json {
        let nsqd = |nsqd: &mqueue::cluster::NsqdState| {
            let error = nsqd.answer.as_ref().err().map(ToString::to_string);
            json!({"http": nsqd.api.to_string(), "version": nsqd.stats().map(|stats| &stats.version), "error": error})
        };
        let nsqds: Vec<_> = state.nsqds.iter().map(nsqd).collect();
        let lookupd_errors: Vec<_> = state.lookupd_errors.iter().map(ToString::to_string).collect();
        return format!("{}\n", json!({"streams": rows, "nsqds": nsqds, "lookupd_errors": lookupd_errors}));
    }
    if rows.is_empty() {
        return "no streams\n".to_owned();
    }
    table::text(rows, rates.is_some())
}
