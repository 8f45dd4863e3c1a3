//! The broker of a run, an nsqd that is named or a broker in this process, and a folder for the socket.

use std::path::PathBuf;

use crate::commands::common::embedded_broker::{EmbeddedBroker, TempFolder};
use crate::commands::common::run_broker::BrokerAddresses;
use crate::commands::pipeline::args::Args;
use mqueue::client::{Nsqd, StatsFilter};
use mqueue::proto::TopicName;

/// Addresses of the broker, and the resources held for the run.
pub(super) struct PipelineBroker {
    pub(super) tcp: String,
    http: Option<Nsqd>,
    /// The folder for the socket.
    pub(super) folder: PathBuf,
    /// Prefix of the stream names, so that a run shares no stream with another.
    prefix: String,
    embedded: Option<EmbeddedBroker>,
    _own_folder: Option<TempFolder>,
}

impl PipelineBroker {
    /// Finds the nsqd that is named, or starts a broker in this process.
    pub(super) async fn find(args: &Args) -> anyhow::Result<Self> {
        let (found, embedded) = BrokerAddresses::find_or_start(&args.broker, "mqueue-pipeline").await?;
        let (tcp, http) = (found.tcp[0].to_string(), found.http.into_iter().next());
        if let Some(embedded) = embedded {
            let folder = embedded.folder().to_owned();
            return Ok(Self { tcp, http, folder, prefix: String::new(), embedded: Some(embedded), _own_folder: None });
        }
        let own = TempFolder::new("mqueue-pipeline")?;
        let (folder, prefix) = (own.path().to_owned(), format!("p{:08x}-", fastrand::u32(..)));
        Ok(Self { tcp, http, folder, prefix, embedded: None, _own_folder: Some(own) })
    }

    /// Returns true if the broker runs in this process.
    pub(super) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Returns the streams between the hops; the last is the one counted.
    pub(super) fn streams(&self, stages: u8) -> Vec<TopicName> {
        let names = (1..=stages).map(|n| format!("stage-{n}")).chain(["final".to_owned()]);
        names.map(|name| TopicName::new(&format!("{}{name}", self.prefix)).expect("a valid name")).collect()
    }

    /// Returns the backlog of each stream; `None` if unknown.
    pub(super) async fn queues(&self, streams: &[TopicName]) -> Vec<Option<i64>> {
        let Some(http) = &self.http else { return vec![None; streams.len()] };
        let filter = StatsFilter { topic: None, channel: None, clients: false };
        let Ok(stats) = http.stats(&filter).await else { return vec![None; streams.len()] };
        let depth = |stream: &TopicName| {
            let topic = stats.topics.iter().find(|topic| topic.topic_name == stream.as_str())?;
            Some(topic.depth + topic.channels.iter().map(|channel| channel.depth).sum::<i64>())
        };
        streams.iter().map(depth).collect()
    }

    /// Stops the broker, or deletes the streams.
    pub(super) async fn clear(self, streams: &[TopicName]) {
        if let Some(embedded) = self.embedded {
            return embedded.end().await;
        }
        let Some(http) = self.http else { return };
        for stream in streams {
            if let Err(error) = http.delete_topic(stream).await {
                tracing::debug!("stream {stream} stays: {error}");
            }
        }
    }
}
