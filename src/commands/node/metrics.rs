//! Metrics of a node: those of its group as in every consumer, and those of the generator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::expvar::NodeVars;
use crate::commands::common::metrics::Metrics;
use crate::commands::common::metrics::families::{self, Labels};
use crate::commands::common::metrics::group_meter::{self, GroupMeter};
use crate::commands::common::metrics::publish_meter::write_published;
use crate::commands::common::metrics::status_server::StatusPages;
use mqueue::proto::TopicName;

/// Returns the pages of a node of this stream, whose store is NSQ or Redis.
pub(super) fn pages(
    group: &Arc<GroupMeter>,
    vars: &Arc<NodeVars>,
    stream: &TopicName,
    is_on_redis: bool,
) -> StatusPages {
    let (shown, connected, counted) = (group.clone(), vars.clone(), vars.clone());
    let labels = vec![("stream", stream.to_string())];
    let metrics = Metrics::new(|registry| {
        // the generator has no subscription, but still the token's connection
        let is = |flag: &AtomicBool| usize::from(flag.load(Ordering::Relaxed));
        group_meter::register(registry, move || {
            let mut figures = shown.figures().with_connections(is(&connected.has_token_connection));
            if is_on_redis {
                figures.in_flight = connected.in_flight.load(Ordering::Relaxed);
                figures = figures.with_connections(is(&connected.has_consumer_connection));
            }
            vec![figures]
        });
        families::register(registry, move |writer| {
            let (epoch, none) = (counted.epoch.load(Ordering::Relaxed), Labels::new());
            write_published(writer, &labels, counted.published.load(Ordering::Relaxed))?;
            let generating = if epoch > 0 { 1.0 } else { 0.0 };
            writer.gauges("node_generating", "1 while this node generates events", [(&none, generating)])?;
            let help = "The epoch that this node generates in; 0 while it does not generate";
            writer.gauges("node_epoch", help, [(&none, epoch as f64)])?;
            let terms = counted.terms.load(Ordering::Relaxed);
            writer.counters("node_terms", "Times that this node became the generator", [(&none, terms)])
        });
    });
    let (group, vars) = (group.clone(), vars.clone());
    StatusPages::new(metrics, move || health(&group, &vars, is_on_redis))
}

/// Returns why a node can neither generate nor handle events.
fn health(group: &GroupMeter, vars: &NodeVars, is_on_redis: bool) -> Result<(), String> {
    let generates = vars.only_generates || vars.epoch.load(Ordering::Relaxed) > 0;
    match (vars.has_token_connection.load(Ordering::Relaxed), is_on_redis) {
        (false, false) => Err("no connection to the token's nsqd".to_owned()),
        (false, true) => Err("no connection to Redis for the lease".to_owned()),
        (true, _) if generates => Ok(()),
        (true, false) => group.health(),
        (true, true) if vars.has_consumer_connection.load(Ordering::Relaxed) => Ok(()),
        (true, true) => Err("no connection to Redis for the list".to_owned()),
    }
}
