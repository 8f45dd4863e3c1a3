//! Where a letter goes back to: to the one group that gave it up, in the one stream that was named, unless somebody asked for more.
//!
//! What stands in a letter is data: whoever may publish to `foo.dead` can write any stream and group into it.

use std::collections::BTreeSet;

use super::letters::Letter;
use crate::app::brokers::Brokers;
use crate::app::{Exit, Failure};
use crate::cli::errors::Args;
use crate::client::{Nsqd, PublishError, Publisher, StatsFilter};
use crate::proto::{ChannelName, TopicName};
use crate::worker::DeadLetter;

/// Where to redrive to, by the flags and by what the brokers have.
pub(super) struct Routes {
    stream: TopicName,
    asked: Asked,
    brokers: Vec<(Nsqd, BTreeSet<ChannelName>)>,
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
#[derive(Debug)]
pub(super) enum Route {
    /// To a whole stream.
    Stream(TopicName),
    /// To one group, by the broker that has it.
    Group(Nsqd, ChannelName),
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
        let brokers = brokers.http.iter().map(|broker| (broker.clone(), BTreeSet::new())).collect();
        Ok(Self { stream: args.stream.clone(), asked, brokers })
    }

    /// Looks which groups there are. A group may come at any time, so this is done before each batch.
    pub(super) async fn look(&mut self) -> Result<(), String> {
        if let Asked::Stream(_) = self.asked {
            return Ok(());
        }
        let filter = StatsFilter { topic: Some(self.stream.clone()), channel: None, clients: false };
        for (broker, groups) in &mut self.brokers {
            let stats = broker.stats(&filter).await.map_err(|e| e.to_string())?;
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
        let broker = self.brokers.iter().find(|(_, groups)| groups.contains(&letter.group));
        let (broker, _) = broker.ok_or(Stays::NoGroup)?;
        let is_alone = self.brokers.iter().flat_map(|(_, groups)| groups).all(|group| *group == letter.group);
        Ok(match is_alone || self.asked == Asked::AllGroups {
            true => Route::Stream(self.stream.clone()),
            false => Route::Group(broker.clone(), letter.group.clone()),
        })
    }

    /// Publishes a letter on its way. Fails with a line that says why, and what to do.
    pub(super) async fn publish(
        &self,
        publisher: &Publisher,
        letter: &DeadLetter,
        route: &Route,
    ) -> Result<(), String> {
        let (broker, group) = match route {
            Route::Stream(stream) => {
                let published = publisher.publish(stream, letter.body.clone()).await;
                return published.map_err(|error: PublishError| format!("cannot publish: {error}"));
            }
            Route::Group(broker, group) => (broker, group),
        };
        let published = broker.publish_to_channel(&self.stream, group, letter.body.clone()).await;
        published.map_err(|error| match error.is_unknown_request() {
            true => format!("stream {} has other groups than {group}, and nsqd at {broker} gives a message to all of them: with --to-all-groups those that had handled it get it again", self.stream),
            false => format!("cannot publish: {error}"),
        })
    }
}
