//! Brokers that did not answer, for commands that look at a whole cluster.

use mqueue::cluster::ClusterState;

use super::exit::{Exit, Failure};

/// Returns a line for each nsqd and nsqlookupd that did not answer: its error, and for an nsqd these
/// words about its messages.
///
/// # Errors
/// Fails with the first of them if no nsqd answered.
pub(crate) fn silent_brokers(state: &ClusterState, words: &str) -> Result<Vec<String>, Failure> {
    if state.stats().next().is_some() {
        let nsqds = state.nsqds.iter().filter_map(|nsqd| nsqd.answer.as_ref().err());
        let nsqds = nsqds.map(|error| format!("{error}: {words}"));
        let lookupds = state.lookupd_errors.iter();
        return Ok(nsqds
            .chain(lookupds.map(|error| format!("{error}: nsqds that only it knows are missing")))
            .collect());
    }
    let line = state.errors().next().map_or_else(|| "the nsqlookupds know no nsqd".to_owned(), ToString::to_string);
    Err(Failure::new(Exit::Unavailable, line))
}
