//! The listing as events: all of it for a viewer that comes, then the streams that changed.
//!
//! ```text
//!  ClusterWatch ─▶ follow ─┬─▶ History
//!                          └─▶ PageUpdate (one for all viewers) ─▶ each viewer, the latest only
//! ```
//!
//! A viewer that is too slow for each update misses some, and then receives all streams again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use super::history::{ChartSpan, ChartValues, History, MAX_SERIES, SeriesKey};
use crate::commands::common::cluster_listing::{ClusterListing, ClusterWatch, NsqdListing};
use crate::commands::common::message_ages::MessageAge;
use crate::commands::common::stream_listing::{GroupListing, StreamListing};
use mqueue::proto::TopicName;

/// The latest listing for viewers, and the past.
#[derive(Debug)]
pub(super) struct PageFeed {
    updates: watch::Receiver<Arc<PageUpdate>>,
    history: Arc<Mutex<History>>,
    start: Instant,
}

/// A listing as events.
#[derive(Debug)]
pub(super) struct PageUpdate {
    /// The number of the listing.
    pub(super) number: u64,
    /// The event with what changed since the listing before.
    changes: Bytes,
    listing: Arc<ClusterListing>,
    /// The event with all streams, made when the first viewer asks for it.
    all: OnceLock<Bytes>,
}

/// The streams of the listing before, as JSON.
#[derive(Debug, Default)]
struct KnownRows {
    streams: BTreeMap<TopicName, String>,
    nsqds: String,
}

impl PageFeed {
    /// Follows the cluster from now on, in a task that ends with the watch.
    pub(super) fn follow(watch: &ClusterWatch, interval: Duration) -> Self {
        let start = Instant::now();
        let history = Arc::new(Mutex::new(History::new(interval)));
        let mut listings = watch.subscribe();
        let mut known = KnownRows::default();
        let first = listings.borrow_and_update().clone();
        let mut left_out = record(&history, start, &first, 0);
        let first = known.update(0, first);
        let (sender, updates) = watch::channel(Arc::new(first));
        let past = history.clone();
        tokio::spawn(async move {
            let mut number = 0;
            while listings.changed().await.is_ok() && !sender.is_closed() {
                let listing = listings.borrow_and_update().clone();
                left_out = record(&past, start, &listing, left_out);
                number += 1;
                sender.send_replace(Arc::new(known.update(number, listing)));
            }
        });
        Self { updates, history, start }
    }

    /// Returns a receiver of the updates that has not seen the latest one.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<PageUpdate>> {
        let mut updates = self.updates.clone();
        updates.mark_changed();
        updates
    }

    /// Returns the values of a chart.
    pub(super) fn chart(&self, key: &SeriesKey, span: ChartSpan) -> ChartValues {
        self.history().chart(key, span, self.now())
    }

    /// Returns the depths of the last `seconds`, for every series.
    pub(super) fn recent_depths(&self, seconds: usize) -> BTreeMap<String, Vec<Option<u64>>> {
        self.history().recent_depths(seconds, self.now())
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_secs()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the values of a listing. Returns the number of streams and groups without charts, which is
/// logged when there begin to be some.
fn record(history: &Mutex<History>, start: Instant, listing: &ClusterListing, before: usize) -> usize {
    let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
    let left_out = history.record(start.elapsed().as_secs(), listing);
    if left_out > 0 && before == 0 {
        tracing::info!("{MAX_SERIES} streams and groups have charts, which is the most; {left_out} others have none");
    }
    left_out
}

impl PageUpdate {
    /// Returns the event for a viewer that has seen the listing `last`.
    pub(super) fn event_after(&self, last: Option<u64>) -> Bytes {
        match last.is_some_and(|last| last + 1 == self.number) {
            true => self.changes.clone(),
            false => self.all.get_or_init(|| self.all_streams()).clone(),
        }
    }

    fn all_streams(&self) -> Bytes {
        let document = UpdateDocument {
            number: self.number,
            at: unix_millis(&self.listing),
            nsqds: Some(&self.listing.nsqds),
            lookupd_errors: Some(&self.listing.lookupd_errors),
            streams: self.listing.streams.iter().map(ShownStream::new).collect(),
            gone: Vec::new(),
        };
        event("all", &document)
    }
}

impl KnownRows {
    /// Makes the update of a listing, and keeps its rows for the next one.
    fn update(&mut self, number: u64, listing: Arc<ClusterListing>) -> PageUpdate {
        let mut changed = Vec::new();
        let mut before = std::mem::take(&mut self.streams);
        for stream in &listing.streams {
            let row = ShownStream::new(stream);
            let text = json(&row);
            if before.remove(&stream.stream).as_ref() != Some(&text) {
                changed.push(row);
            }
            self.streams.insert(stream.stream.clone(), text);
        }
        let nsqds = json(&(&listing.nsqds, &listing.lookupd_errors));
        let is_same = self.nsqds == nsqds;
        self.nsqds = nsqds;
        let document = UpdateDocument {
            number,
            at: unix_millis(&listing),
            nsqds: (!is_same).then_some(&listing.nsqds),
            lookupd_errors: (!is_same).then_some(&listing.lookupd_errors),
            streams: changed,
            gone: before.keys().map(TopicName::as_str).collect(),
        };
        let changes = event("changes", &document);
        PageUpdate { number, changes, listing, all: OnceLock::new() }
    }
}

/// Formats a server-sent event.
pub(super) fn event(name: &str, document: &impl Serialize) -> Bytes {
    let mut text = String::new();
    let _ = write!(text, "event: {name}\ndata: {}\n\n", json(document));
    text.into()
}

fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("its keys are text")
}

fn unix_millis(listing: &ClusterListing) -> u64 {
    let since = listing.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// The data of an event. What is not there has not changed.
#[derive(Serialize)]
struct UpdateDocument<'a> {
    number: u64,
    /// The time of the listing, in milliseconds since 1970.
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nsqds: Option<&'a Vec<NsqdListing>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookupd_errors: Option<&'a Vec<String>>,
    streams: Vec<ShownStream<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<&'a str>,
}

/// A stream with its groups. A field that is not there is 0, false or empty.
#[derive(Serialize)]
struct ShownStream<'a> {
    stream: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    depth: u64,
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    published: Option<f64>,
    #[serde(skip_serializing_if = "is_zero")]
    dead_letters: u64,
    nsqds: u64,
    #[serde(skip_serializing_if = "is_zero")]
    paused_on: u64,
    /// A stream of dead letters or of redriven messages, whose own stream exists.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hidden: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<ShownGroup<'a>>,
}

/// A group.
#[derive(Serialize)]
struct ShownGroup<'a> {
    group: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    depth: u64,
    #[serde(skip_serializing_if = "is_zero")]
    in_flight: u64,
    #[serde(skip_serializing_if = "is_zero")]
    deferred: u64,
    /// The age of the oldest message in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<u64>,
    /// The oldest message may be older.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    older: bool,
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    finished: Option<f64>,
    #[serde(skip_serializing_if = "is_zero")]
    consumers: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    asleep: bool,
    nsqds: u64,
    #[serde(skip_serializing_if = "is_zero")]
    paused_on: u64,
    #[serde(skip_serializing_if = "is_zero")]
    requeued: u64,
    #[serde(skip_serializing_if = "is_zero")]
    timed_out: u64,
}

impl<'a> ShownStream<'a> {
    fn new(row: &'a StreamListing) -> Self {
        Self {
            stream: row.stream.as_str(),
            depth: row.state.depth,
            published: row.published_per_second.and_then(tenths),
            dead_letters: row.dead_letters,
            nsqds: row.state.nsqds,
            paused_on: row.state.paused_on,
            hidden: !row.is_shown,
            groups: row.groups.iter().map(ShownGroup::new).collect(),
        }
    }
}

impl<'a> ShownGroup<'a> {
    fn new(row: &'a GroupListing) -> Self {
        let state = &row.state;
        // the broker's own figure, or what was seen
        let seen = row.oldest.map(|age| (age.duration(), matches!(age, MessageAge::Over(_))));
        let oldest = state.oldest_ms.map(|millis| (Duration::from_millis(millis), false)).or(seen);
        Self {
            group: row.group.as_str(),
            depth: state.depth,
            in_flight: state.in_flight,
            deferred: state.deferred,
            oldest: oldest.map(|(age, _)| shown_age(age.as_secs())),
            older: oldest.is_some_and(|(_, is_older)| is_older),
            finished: row.finished_per_second.and_then(tenths),
            consumers: state.connections,
            asleep: row.asleep,
            nsqds: state.nsqds,
            paused_on: state.paused_on,
            requeued: state.requeue_count,
            timed_out: state.timeout_count,
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Rounds an age in seconds as the page shows it: rows whose messages only grow older are the same
/// for a while.
fn shown_age(seconds: u64) -> u64 {
    let unit = [86_400, 3600, 60].into_iter().find(|unit| seconds >= 2 * unit).unwrap_or(1);
    seconds / unit * unit
}

/// Rounds a rate: rows whose rates differ by less are the same. `None` for a rate of 0.
fn tenths(rate: f64) -> Option<f64> {
    let rounded = (rate * 10.0).round() / 10.0;
    (rounded > 0.0).then_some(rounded)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use mqueue::cluster::{ClusterGroup, ClusterStream};
    use serde_json::Value;

    use super::*;

    fn listing(streams: &[(&str, u64)]) -> Arc<ClusterListing> {
        let stream = |(name, depth): &(&str, u64)| {
            let mut state = ClusterGroup::default();
            (state.depth, state.nsqds, state.paused_on) = (*depth, 3, 1);
            let group = GroupListing {
                group: "g".parse().unwrap(),
                state,
                finished_per_second: Some(0.04),
                oldest: Some(MessageAge::Over(Duration::from_secs(185))),
                asleep: false,
            };
            StreamListing {
                stream: name.parse().unwrap(),
                state: ClusterStream::default(),
                published_per_second: Some(12.345),
                oldest: None,
                dead_letters: 0,
                groups: vec![group],
                is_shown: true,
            }
        };
        let nsqd = NsqdListing { http: "a:4151".to_owned(), version: None, error: Some("it is away".to_owned()) };
        Arc::new(ClusterListing {
            streams: streams.iter().map(stream).collect(),
            nsqds: vec![nsqd],
            lookupd_errors: Vec::new(),
            at: SystemTime::now(),
        })
    }

    /// The name and the document of an event.
    fn parse(event: &Bytes) -> (String, Value) {
        let text = std::str::from_utf8(event).unwrap();
        let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        assert!(data.ends_with("\n\n") && !data.trim_end().contains('\n'), "{text:?}");
        (name.to_owned(), serde_json::from_str(data).unwrap())
    }

    #[test]
    fn a_viewer_gets_all_streams_and_then_those_that_changed() {
        let mut known = KnownRows::default();
        let first = known.update(0, listing(&[("a", 1), ("b", 1)]));
        let (name, all) = parse(&first.event_after(None));
        assert_eq!((name.as_str(), all["streams"].as_array().unwrap().len()), ("all", 2));
        let expected = serde_json::json!({
            "stream": "a", "in": 12.3, "nsqds": 0,
            "groups": [{"group": "g", "depth": 1, "oldest": 180, "older": true, "nsqds": 3, "paused_on": 1}],
        });
        assert_eq!(all["streams"][0], expected);
        assert_eq!(all["nsqds"][0]["error"], "it is away");
        let second = known.update(1, listing(&[("b", 2), ("c", 1)]));
        let (name, changes) = parse(&second.event_after(Some(0)));
        let names: Vec<&Value> = changes["streams"].as_array().unwrap().iter().map(|row| &row["stream"]).collect();
        assert_eq!(
            (name.as_str(), names, &changes["gone"]),
            ("changes", vec![&"b".into(), &"c".into()], &serde_json::json!(["a"]))
        );
        assert_eq!(changes["nsqds"], Value::Null, "they are the same");
        let third = known.update(2, listing(&[("b", 2), ("c", 1)]));
        assert_eq!(parse(&third.event_after(Some(1))).1["streams"], serde_json::json!([]));
        let (name, all) = parse(&third.event_after(Some(0)));
        assert_eq!((name.as_str(), all["streams"].as_array().unwrap().len()), ("all", 2), "it has missed one");
        assert_eq!(third.event_after(None), third.event_after(Some(7)));
    }
}
