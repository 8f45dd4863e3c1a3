//! Retry streams: messages redriven to one group. nsqd gives every message of a stream to all its groups, so redriven
//! messages go to a stream of their own, which has that group alone, and the group's consumers read both streams.
//!
//! ```text
//!  errors --redrive ─▶ foo.mail.5f0c….retry ─▶ group mail ─▶ consumers of group mail of foo
//! ```
//!
//! A consumer subscribes there only while the retry stream has messages: SUB would create the
//! stream, and every subscription takes a share of max-in-flight.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::commands::common::broker_args::Args;
use mqueue::client::{Address, Control, Nsqd, StatsFilter};
use mqueue::proto::{ChannelName, TopicName};

/// Interval at which consumers look for messages redriven to their group.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
const END: &str = ".retry";
const MAX_NAME: usize = 64;

/// Returns the name of the retry stream of `group` of `stream`: both names, as far as there is
/// room, and a hash that tells `a.b` and `c` from `a` and `b.c`.
pub(crate) fn stream_of(stream: &TopicName, group: &ChannelName) -> TopicName {
    let hash = format!(".{:016x}{END}", fnv(stream.as_str().bytes().chain([0]).chain(group.as_str().bytes())));
    let bare = |name: &str| name.trim_end_matches("#ephemeral").to_owned();
    let mut names = format!("{}.{}", bare(stream.as_str()), bare(group.as_str()));
    names.truncate(MAX_NAME - hash.len());
    TopicName::new(&(names + &hash)).expect("parts of names, and hexadecimal digits")
}

/// FNV-1a, a hash that is the same on every machine and in every version.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Has a consumer of `group` read its retry stream until it stops. An nsqd whose HTTP address is unknown is not checked.
pub(crate) async fn follow(control: Control, broker: Args, stream: TopicName, group: ChannelName) {
    let retries = stream_of(&stream, &group);
    if broker.nsqd_http().len() < broker.nsqd().len() {
        tracing::info!(
            %stream, %group,
            "not every nsqd's HTTP address is known (--nsqd-http-address): what `mqueue errors --redrive` gives this group alone there is not read"
        );
    }
    let mut reading: HashSet<Address> = HashSet::new();
    loop {
        let looked = tokio::select! {
            looked = look(&broker, &retries, &group) => looked,
            () = control.stopping() => return,
        };
        for (nsqd, messages) in looked {
            if messages > 0 {
                if reading.insert(nsqd.clone()) {
                    tracing::info!(%stream, %group, %nsqd, "reading what was redriven to this group, in stream {retries}");
                }
                // also subscribes again after a lost connection
                control.also(&retries, &nsqd);
            } else if reading.remove(&nsqd) {
                control.leave(&retries, &nsqd);
            }
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = control.stopping() => return,
        }
    }
}

/// Lists the nsqds that have this group of the stream, each with its number of messages: backlog, in flight and deferred.
async fn look(broker: &Args, stream: &TopicName, group: &ChannelName) -> Vec<(Address, i64)> {
    let lookups = join_all(broker.lookupd_http_address.iter().map(|lookupd| lookupd.lookup(stream))).await;
    let listed = lookups.iter().flatten().flat_map(|lookup| &lookup.producers);
    let listed = listed.filter_map(|it| Some((it.http_address().parse().ok()?, Some(it.tcp_address().parse().ok()?))));
    let mut nsqds: Vec<(Nsqd, Option<Address>)> = listed.collect();
    match (&broker.nsqd()[..], &broker.nsqd_http()[..]) {
        // the TCP address given may differ from the one that nsqd reports
        ([tcp], [http]) => nsqds.push((http.clone(), Some(tcp.clone()))),
        (_, many) => nsqds.extend(many.iter().map(|http| (http.clone(), None))),
    }
    let looks = nsqds.iter().map(|(http, tcp)| look_at(http, tcp.as_ref(), stream, group));
    join_all(looks).await.into_iter().flatten().collect()
}

async fn look_at(
    http: &Nsqd,
    tcp: Option<&Address>,
    stream: &TopicName,
    group: &ChannelName,
) -> Option<(Address, i64)> {
    let filter = StatsFilter { topic: Some(stream.clone()), channel: Some(group.clone()), clients: false };
    let stats = http.stats(&filter).await.inspect_err(|error| tracing::debug!("cannot look for {stream}: {error}"));
    let stats = stats.ok()?;
    let topics = stats.topics.iter().filter(|topic| topic.topic_name == stream.as_str());
    let channel = topics.flat_map(|topic| &topic.channels).find(|channel| channel.channel_name == group.as_str())?;
    let tcp = match tcp {
        Some(tcp) => tcp.clone(),
        None => http.tcp_address(&http.info().await.ok()?)?,
    };
    Some((tcp, channel.depth.saturating_add(channel.in_flight_count).saturating_add(channel.deferred_count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_of_each_stream_has_a_stream_of_its_own_with_a_valid_name() {
        let long = "x".repeat(64);
        let of = |stream: &str, group: &str| {
            let (stream, group) = (TopicName::new(stream).unwrap(), ChannelName::new(group).unwrap());
            stream_of(&stream, &group).as_str().to_owned()
        };
        let pairs = [("a.b", "c"), ("a", "b.c"), (&long, "a"), (&long, "b"), (&long[1..], "a"), ("a#ephemeral", "b.c")];
        let names: HashSet<String> = pairs.iter().map(|(stream, group)| of(stream, group)).collect();
        assert_eq!(names.len(), pairs.len(), "{names:?}");
        // the name must not change: later versions look for existing streams by it
        assert_eq!(of("foo", "mail"), "foo.mail.5da61d505f6a517e.retry");
    }
}
