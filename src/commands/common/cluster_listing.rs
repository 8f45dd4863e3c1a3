//! A cluster at one moment as views show it: plain data, for a table as well as for JSON.

use serde::Serialize;

use super::socket_args;
use super::stream_listing::{StreamListing, stream_rows};
use mqueue::cluster::{ClusterState, NsqdState};

/// The streams and nsqds of a cluster.
#[derive(Debug, Serialize)]
pub(crate) struct ClusterListing {
    pub(crate) streams: Vec<StreamListing>,
    pub(crate) nsqds: Vec<NsqdListing>,
    /// Errors of the nsqlookupds that did not answer: nsqds that only they know are missing.
    pub(crate) lookupd_errors: Vec<String>,
}

/// One nsqd.
#[derive(Debug, Serialize)]
pub(crate) struct NsqdListing {
    /// The address of the HTTP API.
    pub(crate) http: String,
    pub(crate) version: Option<String>,
    /// The reason why its messages are not counted.
    pub(crate) error: Option<String>,
}

impl ClusterListing {
    /// Lists a state. Rates are those since the `earlier` state.
    pub(crate) fn new(state: &ClusterState, earlier: Option<&ClusterState>, sockets: &socket_args::Args) -> Self {
        let rates = earlier.map(|earlier| state.rates(earlier)).unwrap_or_default();
        Self {
            streams: stream_rows(&state.streams(), &rates, &sockets.groups()),
            nsqds: state.nsqds.iter().map(NsqdListing::new).collect(),
            lookupd_errors: state.lookupd_errors.iter().map(ToString::to_string).collect(),
        }
    }
}

impl NsqdListing {
    fn new(nsqd: &NsqdState) -> Self {
        Self {
            http: nsqd.api.to_string(),
            version: nsqd.stats().map(|stats| stats.version.clone()),
            error: nsqd.answer.as_ref().err().map(ToString::to_string),
        }
    }
}
