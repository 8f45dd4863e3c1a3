//! The subscription of `mqueue tail`, which takes no message from others.
//!
//! A stream without a group keeps its messages for the first one. An ephemeral group would be the
//! first, and take them with it when it ends.

use mqueue::client::{Address, ConsumerConfig, StatsFilter};
use mqueue::cluster::{ClusterState, NsqdState};
use mqueue::proto::{ChannelName, TopicCounts, TopicName};

use crate::commands::common::confirm::is_confirmed;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::tail::args::Args;

/// Returns the consumer's settings; `None` if the user does not want to take the messages of a
/// stream without a group.
///
/// # Errors
/// Fails if no nsqd has the stream.
pub(super) async fn config(args: &Args, max_in_flight: u32) -> Result<Option<ConsumerConfig>, Failure> {
    let name = format!("tail-{:016x}#ephemeral", fastrand::u64(..));
    let group = ChannelName::new(&name).expect("a valid name");
    let mut config = ConsumerConfig::new(args.stream.clone(), group)
        .with_connect(args.broker.connect())
        .with_max_in_flight(max_in_flight);
    config.lookupd = args.broker.lookupd_http_address.clone();
    config.nsqd = args.broker.nsqd();
    let Ok(cluster) = args.broker.cluster() else {
        tracing::warn!(
            "without --nsqd-http-address it is not known whether {} has a group; if not, its messages are taken from the first one",
            args.stream
        );
        return Ok(Some(config));
    };
    let state = cluster.observe(&StatsFilter::default().with_topic(&args.stream)).await;
    state.errors().for_each(|error| {
        tracing::warn!("{error}: it is not known whether {} has a group there", args.stream);
    });
    if state.stats().next().is_none() {
        return Ok(Some(config));
    }
    let places: Vec<_> = state.nsqds.iter().filter_map(|nsqd| Some((nsqd, topic(nsqd, &args.stream)?))).collect();
    if places.is_empty() {
        let line = format!("no nsqd that answered has a stream {0}: mqueue create {0}/GROUP creates it", args.stream);
        return Err(Failure::new(Exit::Failure, line));
    }
    if !args.broker.is_named() {
        config.nsqd = addresses(&state, &places)?;
    }
    let ungrouped: Vec<_> = places.iter().filter(|(_, topic)| topic.channels.is_empty()).collect();
    if ungrouped.is_empty() {
        return Ok(Some(config));
    }
    let held = ungrouped.iter().map(|(_, topic)| topic.depth).sum::<u64>();
    let what =
        format!("tail {}, which has no group yet, and take its messages ({held} now) from the first one", args.stream,);
    Ok(is_confirmed(&what, args.yes)?.then_some(config))
}

fn topic<'a>(nsqd: &'a NsqdState, stream: &TopicName) -> Option<&'a TopicCounts> {
    nsqd.stats()?.topics.iter().find(|topic| topic.name == *stream)
}

/// Returns the TCP addresses of the nsqds that have the stream: a subscription to others would
/// create it there.
fn addresses(state: &ClusterState, places: &[(&NsqdState, &TopicCounts)]) -> Result<Vec<Address>, Failure> {
    let address = |nsqd: &NsqdState| nsqd.api.tcp_address(&nsqd.answer.as_ref().ok()?.0);
    let addresses: Vec<Address> = places.iter().filter_map(|(nsqd, _)| address(nsqd)).collect();
    match addresses.is_empty() {
        true => {
            let names: Vec<String> = state.nsqds.iter().map(|nsqd| nsqd.api.to_string()).collect();
            let line =
                format!("nsqd at {} has no TCP port: name its TCP address with --nsqd-tcp-address", names.join(", "));
            Err(Failure::new(Exit::Unavailable, line))
        }
        false => Ok(addresses),
    }
}
