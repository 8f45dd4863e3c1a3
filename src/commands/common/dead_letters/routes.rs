//! The routes of redriven letters: each goes to the group that gave it up, in the given stream,
//! unless a flag says otherwise.
//!
//! A letter's fields are untrusted data: anybody who may publish to `foo.dead` can name any stream
//! and group.

use std::collections::BTreeSet;
use std::fmt;

use super::letters::Letter;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::retry_stream::{self, LOOK_INTERVAL};
use crate::commands::common::run_broker::BrokerAddresses;
use mqueue::client::{Nsqd, PublishError, Publisher, StatsFilter};
use mqueue::proto::{ChannelName, TopicName};
use mqueue::worker::DeadLetter;

/// Computes the routes from the flags and the brokers' groups.
pub(crate) struct Routes {
    stream: TopicName,
    target: RedriveTarget,
    brokers: Vec<RedriveBroker>,
    /// The single-group streams that are prepared, by the nsqd's address.
    ready: BTreeSet<(String, TopicName)>,
}

/// An nsqd and its groups of the stream.
struct RedriveBroker {
    http: Nsqd,
    groups: BTreeSet<ChannelName>,
    /// Whether the broker can publish to a single group; `None` before it was asked.
    serves_one: Option<bool>,
}

/// The target of redriven letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RedriveTarget {
    /// The group that gave the message up.
    OwnGroup,
    /// All groups of the stream.
    AllGroups,
    /// All groups of another stream.
    Stream(TopicName),
}

/// The route of one letter.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// To a whole stream.
    Stream(TopicName),
    /// To one group, by a broker that can publish to a single group.
    Group(Nsqd, ChannelName),
    /// To one group, by a stream that has only this group, on the nsqd that has the group.
    Retries(Nsqd, ChannelName, TopicName),
}

/// Why a letter is not redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NotRedriven {
    NotADeadLetter,
    OtherStream,
    UnknownGroup,
}

impl NotRedriven {
    /// Formats the reason with the number of letters.
    pub(crate) fn of(self, count: u64) -> String {
        match self {
            Self::NotADeadLetter => format!("{count} of them not dead letters"),
            Self::OtherStream => format!("{count} of them name another stream (--to STREAM sends them somewhere)"),
            Self::UnknownGroup => {
                format!("{count} of them name a group that the stream does not have (--to STREAM sends them somewhere)")
            }
        }
    }
}

impl Routes {
    /// Fails if the HTTP address of an nsqd is missing, where its groups matter.
    pub(crate) fn new(stream: &TopicName, target: RedriveTarget, brokers: &BrokerAddresses) -> Result<Self, Failure> {
        if target == RedriveTarget::OwnGroup && brokers.http.len() < brokers.tcp.len() {
            let line = "the groups of every nsqd have to be known: name each one's HTTP address with --nsqd-http-address, or give --to-all-groups";
            return Err(Failure::new(Exit::Usage, line));
        }
        let broker = |http: &Nsqd| RedriveBroker { http: http.clone(), groups: BTreeSet::new(), serves_one: None };
        let brokers = brokers.http.iter().map(broker).collect();
        Ok(Self { stream: stream.clone(), target, brokers, ready: BTreeSet::new() })
    }

    /// Reads the groups from the brokers. Groups may be created at any time, so call it before each
    /// batch.
    pub(crate) async fn refresh(&mut self) -> Result<(), String> {
        if let RedriveTarget::Stream(_) = self.target {
            return Ok(());
        }
        let filter = StatsFilter::default().with_topic(&self.stream);
        for RedriveBroker { http, groups, serves_one } in &mut self.brokers {
            if serves_one.is_none() {
                *serves_one = Some(http.can_publish_to_channel().await.map_err(|e| e.to_string())?);
            }
            let stats = http.stats(&filter).await.map_err(|e| e.to_string())?;
            let topics = stats.topics.iter().filter(|topic| topic.topic_name == self.stream.as_str());
            let names = topics.flat_map(|topic| &topic.channels).map(|channel| &channel.channel_name);
            *groups =
                names.filter_map(|name| ChannelName::new(name).ok()).filter(|name| !name.is_ephemeral()).collect();
        }
        Ok(())
    }

    /// Returns the route of a letter, or why it is not redriven.
    pub(crate) fn of(&self, letter: &Letter) -> Result<Route, NotRedriven> {
        let letter = letter.letter.as_ref().ok_or(NotRedriven::NotADeadLetter)?;
        if let RedriveTarget::Stream(stream) = &self.target {
            return Ok(Route::Stream(stream.clone()));
        }
        if letter.stream != self.stream {
            return Err(NotRedriven::OtherStream);
        }
        let broker = self
            .brokers
            .iter()
            .find(|broker| broker.groups.contains(&letter.group))
            .ok_or(NotRedriven::UnknownGroup)?;
        let is_alone = self.brokers.iter().flat_map(|broker| &broker.groups).all(|group| *group == letter.group);
        let (http, group) = (broker.http.clone(), letter.group.clone());
        Ok(match broker.serves_one {
            _ if is_alone || self.target == RedriveTarget::AllGroups => Route::Stream(self.stream.clone()),
            Some(true) => Route::Group(http, group),
            Some(false) | None => Route::Retries(http, group, retry_stream::stream_of(&self.stream, &letter.group)),
        })
    }

    /// Creates the stream with a single group, for a route that needs it. Fails if the stream has
    /// another group.
    pub(crate) async fn prepare(&mut self, route: &Route) -> Result<(), String> {
        let Route::Retries(nsqd, group, stream) = route else { return Ok(()) };
        let key = (nsqd.to_string(), stream.clone());
        if self.ready.contains(&key) {
            return Ok(());
        }
        let filter = StatsFilter::default().with_topic(stream);
        let prepared = async {
            nsqd.create_topic(stream).await?;
            nsqd.create_channel(stream, group).await?;
            nsqd.stats(&filter).await
        };
        let stats = prepared.await.map_err(|error| format!("cannot create stream {stream}: {error}"))?;
        let topics = stats.topics.iter().filter(|topic| topic.topic_name == stream.as_str());
        let is_durable = |name: &String| ChannelName::new(name).is_ok_and(|name| !name.is_ephemeral());
        let mut names = topics.flat_map(|topic| &topic.channels).map(|channel| &channel.channel_name);
        if let Some(other) = names.find(|name| *name != group.as_str() && is_durable(name)) {
            return Err(format!(
                "stream {stream}, which is for group {group} alone, has a group {other}: handle what waits there, then delete it"
            ));
        }
        tracing::info!(
            "group {group} gets them by stream {stream}, which those of its mqueue consumers look for every {LOOK_INTERVAL:?} that know this nsqd's HTTP address"
        );
        self.ready.insert(key);
        Ok(())
    }

    /// Publishes a letter by its route.
    pub(crate) async fn publish(
        &self,
        publisher: &Publisher,
        letter: &DeadLetter,
        route: &Route,
    ) -> Result<(), String> {
        let body = letter.body.clone();
        let published = match route {
            Route::Stream(stream) => {
                let published = publisher.publish(stream, body).await;
                return published.map_err(|error: PublishError| format!("cannot publish: {error}"));
            }
            Route::Group(broker, group) => broker.publish_to_channel(&self.stream, group, body).await,
            Route::Retries(nsqd, _, stream) => nsqd.publish(stream, body).await,
        };
        published.map_err(|error| format!("cannot publish: {error}"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => write!(f, "stream {stream}"),
            Self::Group(_, group) => write!(f, "group {group}"),
            Self::Retries(_, group, stream) => write!(f, "group {group} by stream {stream}"),
        }
    }
}
