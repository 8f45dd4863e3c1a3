//! Where a letter goes back to: to the one group that gave it up, in the one stream that was named, unless somebody asked for more.
//!
//! What stands in a letter is data: whoever may publish to `foo.dead` can write any stream and group into it.

use std::collections::BTreeSet;
use std::fmt;

use super::letters::Letter;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::retry_stream::{self, LOOK};
use crate::commands::common::run_broker::Brokers;
use crate::commands::errors::args::Args;
use mqueue::client::{Nsqd, PublishError, Publisher, StatsFilter};
use mqueue::proto::{ChannelName, TopicName};
use mqueue::worker::DeadLetter;

/// Where to redrive to, by the flags and by what the brokers have.
pub(super) struct Routes {
    stream: TopicName,
    asked: Asked,
    brokers: Vec<Broker>,
    /// Streams for one group that exist, by the nsqd's address.
    ready: BTreeSet<(String, TopicName)>,
}

/// An nsqd, with the groups of the stream there.
struct Broker {
    http: Nsqd,
    groups: BTreeSet<ChannelName>,
    /// It can give a message to one group; `None` before it was asked.
    serves_one: Option<bool>,
}

/// The run that the flags ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// The group that gave the message up.
    OwnGroup,
    /// All groups of the stream.
    AllGroups,
    /// All groups of another stream.
    Stream(TopicName),
}

/// Where one letter goes.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// To a whole stream.
    Stream(TopicName),
    /// To one group, by the broker that has it.
    Group(Nsqd, ChannelName),
    /// To one group, by a stream that has only this one, on the nsqd that has it.
    Retries(Nsqd, ChannelName, TopicName),
}

/// Why a letter stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stays {
    NoLetter,
    OtherStream,
    NoGroup,
}

impl Stays {
    /// The words for this count of them.
    pub(super) fn of(self, count: u64) -> String {
        match self {
            Self::NoLetter => format!("{count} of them no dead letters"),
            Self::OtherStream => format!("{count} of them name another stream (--to STREAM sends them somewhere)"),
            Self::NoGroup => {
                format!("{count} of them name a group that the stream does not have (--to STREAM sends them somewhere)")
            }
        }
    }
}

impl Routes {
    /// Fails if the groups of some nsqd cannot be seen, where they matter.
    pub(super) fn new(args: &Args, brokers: &Brokers) -> Result<Self, Failure> {
        let asked = match &args.to {
            Some(stream) => Asked::Stream(stream.clone()),
            None if args.to_all_groups => Asked::AllGroups,
            None => Asked::OwnGroup,
        };
        if asked == Asked::OwnGroup && brokers.http.len() < brokers.tcp.len() {
            let line = "the groups of every nsqd have to be known: name each one's HTTP address with --nsqd-http-address, or say --to-all-groups";
            return Err(Failure::new(Exit::Usage, line));
        }
        let broker = |http: &Nsqd| Broker { http: http.clone(), groups: BTreeSet::new(), serves_one: None };
        let brokers = brokers.http.iter().map(broker).collect();
        Ok(Self { stream: args.stream.clone(), asked, brokers, ready: BTreeSet::new() })
    }

    /// Looks which groups there are. A group may come at any time, so this is done before each batch.
    pub(super) async fn look(&mut self) -> Result<(), String> {
        if let Asked::Stream(_) = self.asked {
            return Ok(());
        }
        let filter = StatsFilter { topic: Some(self.stream.clone()), channel: None, clients: false };
        for Broker { http, groups, serves_one } in &mut self.brokers {
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

    /// Where this letter goes.
    pub(super) fn of(&self, letter: &Letter) -> Result<Route, Stays> {
        let letter = letter.letter.as_ref().ok_or(Stays::NoLetter)?;
        if let Asked::Stream(stream) = &self.asked {
            return Ok(Route::Stream(stream.clone()));
        }
        if letter.stream != self.stream {
            return Err(Stays::OtherStream);
        }
        let broker = self.brokers.iter().find(|broker| broker.groups.contains(&letter.group)).ok_or(Stays::NoGroup)?;
        let is_alone = self.brokers.iter().flat_map(|broker| &broker.groups).all(|group| *group == letter.group);
        let (http, group) = (broker.http.clone(), letter.group.clone());
        Ok(match broker.serves_one {
            _ if is_alone || self.asked == Asked::AllGroups => Route::Stream(self.stream.clone()),
            Some(true) => Route::Group(http, group),
            Some(false) | None => Route::Retries(http, group, retry_stream::stream_of(&self.stream, &letter.group)),
        })
    }

    /// Has what this way needs: a stream with this group, and with no other. Fails with a line that says why.
    pub(super) async fn prepare(&mut self, route: &Route) -> Result<(), String> {
        let Route::Retries(nsqd, group, stream) = route else { return Ok(()) };
        let key = (nsqd.to_string(), stream.clone());
        if self.ready.contains(&key) {
            return Ok(());
        }
        let filter = StatsFilter { topic: Some(stream.clone()), channel: None, clients: false };
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
            "group {group} gets them by stream {stream}, which those of its mqueue consumers look for every {LOOK:?} that know this nsqd's HTTP address"
        );
        self.ready.insert(key);
        Ok(())
    }

    /// Publishes a letter on its way. Fails with a line that says why.
    pub(super) async fn publish(
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
