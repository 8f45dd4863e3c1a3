//! Messages that are redriven to one group on nsqd, which gives every message to all groups of a stream: they have a stream of their own, with
//! that group alone, and the group's consumers read it, too.
//!
//! ```text
//!  errors --redrive ─▶ foo.mail.5f0c….retry ─▶ group mail ─▶ consumers of group mail of foo
//! ```
//!
//! A consumer subscribes there only while messages are there: SUB would create the stream, and one more subscription takes part of what may be
//! in flight.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::commands::common::broker_args::Args;
use mqueue::client::{Address, Control, Nsqd, StatsFilter};
use mqueue::proto::{ChannelName, TopicName};

/// How often consumers look whether something was redriven to their group.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
const END: &str = ".retry";
const MAX_NAME: usize = 64;

/// The stream of messages that are redriven to `group` of `stream`: both names, as far as there is room, and a hash that tells `a.b` and `c`
/// from `a` and `b.c`.
pub(crate) fn stream_of(stream: &TopicName, group: &ChannelName) -> TopicName {
    let hash = format!(".{:016x}{END}", fnv(stream.as_str().bytes().chain([0]).chain(group.as_str().bytes())));
    let bare = |name: &str| name.trim_end_matches("#ephemeral").to_owned();
    let mut names = format!("{}.{}", bare(stream.as_str()), bare(group.as_str()));
    names.truncate(MAX_NAME - hash.len());
    TopicName::new(&(names + &hash)).expect("parts of names, and hexadecimal digits")
}

/// FNV-1a, which is the same everywhere and always.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Has a consumer of `group` read what was redriven to it, until it stops. Where nsqd's HTTP address is not known nothing is seen.
pub(crate) async fn follow(control: Control, broker: Args, stream: TopicName, group: ChannelName) {
    let retries = stream_of(&stream, &group);
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
                // also where a connection was lost
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

/// The nsqds that have this group of the stream, each with its messages, whether they wait or are in flight.
async fn look(broker: &Args, stream: &TopicName, group: &ChannelName) -> Vec<(Address, i64)> {
    let lookups = join_all(broker.lookupd_http_address.iter().map(|lookupd| lookupd.lookup(stream))).await;
    let listed = lookups.iter().flatten().flat_map(|lookup| &lookup.producers);
    let listed = listed.filter_map(|it| Some((it.http_address().parse().ok()?, Some(it.tcp_address().parse().ok()?))));
    let mut nsqds: Vec<(Nsqd, Option<Address>)> = listed.collect();
    match (&broker.nsqd()[..], &broker.nsqd_http()[..]) {
        // it may have another port than it knows of
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
        // what is there under this name must be found by later versions
        assert_eq!(of("foo", "mail"), "foo.mail.5da61d505f6a517e.retry");
    }
}
