//! Retry streams: messages redriven to one group. nsqd gives every message of a stream to all its
//! groups, so redriven messages go to a stream of their own, which has that group alone, and the
//! group's consumers read both streams.
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
pub(crate) use mqueue::wake::retry_name::stream_of;

/// Interval at which consumers look for messages redriven to their group.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Has a consumer of `group` read its retry stream until it stops. An nsqd whose HTTP address is
/// unknown is not checked.
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
                    tracing::info!(%stream, %group, %nsqd, "reading messages redriven to this group, from stream {retries}");
                }
                // also subscribes again after a lost connection
                control.subscribe_also(&retries, &nsqd);
            } else if reading.remove(&nsqd) {
                control.unsubscribe(&retries, &nsqd);
            }
        }
        tokio::select! {
            () = sleep(LOOK_INTERVAL) => {}
            () = control.stopping() => return,
        }
    }
}

/// Lists the nsqds that have this group of the stream, each with its number of messages: backlog,
/// in flight and deferred.
async fn look(broker: &Args, stream: &TopicName, group: &ChannelName) -> Vec<(Address, i64)> {
    let lookups = join_all(broker.lookupd_http_address.iter().map(|lookupd| lookupd.lookup(stream))).await;
    let listed = lookups.iter().flatten().flat_map(|lookup| &lookup.producers);
    let listed =
        listed.filter_map(|it| Some((broker.http_api(&it.http_address())?, Some(it.tcp_address().parse().ok()?))));
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
    let filter = StatsFilter::default().with_topic(stream).with_channel(group);
    let stats = http
        .stats(&filter)
        .await
        .inspect_err(|error| tracing::debug!("cannot read statistics of stream {stream}: {error}"));
    let stats = stats.ok()?;
    let topics = stats.topics.iter().filter(|topic| topic.topic_name == stream.as_str());
    let channel = topics.flat_map(|topic| &topic.channels).find(|channel| channel.channel_name == group.as_str())?;
    let tcp = match tcp {
        Some(tcp) => tcp.clone(),
        None => http.tcp_address(&http.info().await.ok()?)?,
    };
    Some((tcp, channel.depth.saturating_add(channel.in_flight_count).saturating_add(channel.deferred_count)))
}
