//! Brokers that did not answer, for commands that look at a whole cluster.

use mqueue::cluster::ClusterState;

use super::exit::{Exit, Failure};

/// Returns the errors of the nsqds and nsqlookupds that did not answer, one line each.
///
/// # Errors
/// Fails with the first of them if no nsqd answered.
pub(crate) fn silent_brokers(state: &ClusterState) -> Result<Vec<String>, Failure> {
    let silent: Vec<String> = state.errors().map(ToString::to_string).collect();
    if state.stats().next().is_some() {
        return Ok(silent);
    }
    let line = silent.into_iter().next().unwrap_or_else(|| "the nsqlookupds know no nsqd".to_owned());
    Err(Failure::new(Exit::Unavailable, line))
}
