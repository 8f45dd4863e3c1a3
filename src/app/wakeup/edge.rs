//! Hearing at once that a message came: an ephemeral subscription to each stream with a sleeping group.
//!
//! It ends with the first message: whoever sleeps is poked by then, and an ephemeral channel that is read by nobody would fill up.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::client::{Address, Consumer, ConsumerConfig};
use crate::proto::{ChannelName, TopicName};

/// The subscriptions.
#[derive(Debug)]
pub(super) struct Edges {
    channel: ChannelName,
    heard: UnboundedSender<String>,
    tasks: TaskTracker,
    subscribed: BTreeMap<(Address, String), AbortOnDropHandle<()>>,
}

impl Edges {
    /// Nothing is subscribed; `heard` is told each stream that a message came to.
    pub(super) fn new(heard: UnboundedSender<String>) -> Self {
        let name = format!("wakeup-{:08x}#ephemeral", fastrand::u32(..));
        let channel = ChannelName::new(&name).expect("letters, digits and a dash");
        Self { channel, heard, tasks: TaskTracker::new(), subscribed: BTreeMap::new() }
    }

    /// Subscribes to these streams and to no others.
    pub(super) fn set(&mut self, wanted: BTreeSet<(Address, String)>) {
        self.subscribed.retain(|edge, task| wanted.contains(edge) && !task.is_finished());
        for (address, stream) in wanted {
            let (channel, heard) = (self.channel.clone(), self.heard.clone());
            self.subscribed.entry((address, stream)).or_insert_with_key(|(address, stream)| {
                let listening = listen(address.clone(), stream.clone(), channel, heard);
                AbortOnDropHandle::new(self.tasks.spawn(listening))
            });
        }
    }
}

/// Waits for a message of the stream and says that one came. Dropped, it unsubscribes.
async fn listen(address: Address, stream: String, channel: ChannelName, heard: UnboundedSender<String>) {
    let Ok(topic) = TopicName::new(&stream) else { return };
    let mut config = ConsumerConfig::new(topic, channel);
    config.nsqd.push(address);
    config.flow.max_in_flight = 1;
    match Consumer::connect(config).await {
        Ok(mut consumer) => {
            if let Some(delivery) = consumer.recv().await {
                delivery.finish();
                let _ = heard.send(stream);
            }
        }
        // polling still wakes it
        Err(error) => tracing::debug!("cannot listen to {stream}: {error}"),
    }
}
