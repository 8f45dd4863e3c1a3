//! The broker of a run, an nsqd that is named or a broker in this process, and a folder for the
//! socket.

use std::path::Path;

use crate::commands::common::embedded_broker::TempFolder;
use crate::commands::common::run_broker::RunBroker;
use crate::commands::pipeline::args::Args;
use mqueue::client::{Address, ConnectConfig, StatsFilter};
use mqueue::proto::TopicName;

/// The broker, and the folder for the socket.
pub(super) struct PipelineBroker {
    broker: RunBroker,
    /// Prefix of the stream names, so that a run shares no stream with another.
    prefix: String,
    /// The folder for the socket where the broker has none.
    own_folder: Option<TempFolder>,
}

impl PipelineBroker {
    /// Finds the nsqd that is named, or starts a broker in this process.
    pub(super) async fn find(args: &Args) -> anyhow::Result<Self> {
        let mut broker = RunBroker::find_or_start(&args.broker, "mqueue-pipeline").await?;
        // the hops use one nsqd
        broker.addresses.tcp.truncate(1);
        broker.addresses.http.truncate(1);
        if broker.is_started() {
            return Ok(Self { broker, prefix: String::new(), own_folder: None });
        }
        let own_folder = Some(TempFolder::new("mqueue-pipeline")?);
        Ok(Self { broker, prefix: format!("p{:08x}-", fastrand::u32(..)), own_folder })
    }

    /// Returns true if the broker runs in this process.
    pub(super) fn is_embedded(&self) -> bool {
        self.broker.is_started()
    }

    /// Settings of the connections to them.
    pub(super) fn connect(&self) -> ConnectConfig {
        self.broker.addresses.connect.clone()
    }

    /// The nsqd's TCP address.
    pub(super) fn tcp(&self) -> &Address {
        &self.broker.addresses.tcp[0]
    }

    /// The folder for the socket.
    pub(super) fn folder(&self) -> &Path {
        let own = self.own_folder.as_ref().map(TempFolder::path);
        own.or(self.broker.folder()).expect("a broker in this process has a folder")
    }

    /// Returns the streams between the hops; the last is the one counted.
    pub(super) fn streams(&self, stages: u8) -> Vec<TopicName> {
        let names = (1..=stages).map(|n| format!("stage-{n}")).chain(["final".to_owned()]);
        names.map(|name| TopicName::new(&format!("{}{name}", self.prefix)).expect("a valid name")).collect()
    }

    /// Returns the backlog of each stream; `None` if unknown.
    pub(super) async fn queues(&self, streams: &[TopicName]) -> Vec<Option<i64>> {
        let Some(http) = self.broker.addresses.http.first() else { return vec![None; streams.len()] };
        let filter = StatsFilter::default();
        let Ok(stats) = http.stats(&filter).await else { return vec![None; streams.len()] };
        let depth = |stream: &TopicName| {
            let topic = stats.topics.iter().find(|topic| topic.topic_name == stream.as_str())?;
            Some(topic.depth + topic.channels.iter().map(|channel| channel.depth).sum::<i64>())
        };
        streams.iter().map(depth).collect()
    }

    /// Stops the broker, or deletes the streams.
    pub(super) async fn clear(self, streams: &[TopicName]) {
        self.broker.end(streams).await;
    }
}
