//! The look for a group before it is opened: NSQ creates a group that is subscribed to, and a GET
//! must not create one unless it asks for that.

use axum::http::StatusCode;
use futures_util::future::join_all;

use super::jobs::GroupKey;
use crate::commands::common::broker_args::Args;
use crate::commands::common::json_response::RequestError;
use mqueue::client::{Nsqd, StatsFilter};

/// Checks that a group exists on an nsqd.
///
/// # Errors
/// 404 if it does not exist, or cannot be looked for because no HTTP address is known; 503 if an
/// nsqd or nsqlookupd does not answer.
pub(super) async fn look_for(broker: &Args, key: &GroupKey) -> Result<(), RequestError> {
    let mut failed = None;
    let lookups = join_all(broker.lookupd_http_address.iter().map(|lookupd| lookupd.lookup(&key.stream))).await;
    let mut nsqds: Vec<Nsqd> = broker.nsqd_http();
    for lookup in lookups {
        match lookup {
            Ok(found) => nsqds.extend(found.producers.iter().filter_map(|it| broker.http_api(&it.http_address()))),
            Err(error) => failed = Some(error.to_string()),
        }
    }
    for looked in join_all(nsqds.iter().map(|nsqd| has_group(nsqd, key))).await {
        match looked {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
    }
    if let Some(reason) = failed {
        return Err(RequestError::unavailable(format!("cannot see whether the group exists: {reason}")));
    }
    let GroupKey { stream, group } = key;
    let line = match broker.nsqd_http().len() < broker.nsqd().len() {
        true => format!(
            "group {group} of stream {stream} is not known, and not every nsqd's HTTP address is (--nsqd-http-address): \
             create=true creates it if it does not exist"
        ),
        false => format!("group {group} of stream {stream} does not exist: create=true creates it"),
    };
    Err(RequestError::new(StatusCode::NOT_FOUND, line))
}

async fn has_group(nsqd: &Nsqd, key: &GroupKey) -> Result<bool, String> {
    let filter = StatsFilter::default().with_topic(&key.stream).with_channel(&key.group);
    let stats = nsqd.stats(&filter).await.map_err(|error| error.to_string())?;
    let mut topics = stats.topics.iter().filter(|topic| topic.topic_name == key.stream.as_str());
    Ok(topics.any(|topic| topic.channels.iter().any(|channel| channel.channel_name == key.group.as_str())))
}
