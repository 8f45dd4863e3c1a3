//! Lookup of the channels that a new topic has on other nodes, by nsqlookupd's HTTP API
//! (`nsqd/nsqd.go`, `GetTopic`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use reqwest::Client;
use reqwest::redirect::Policy;

use super::ANSWER_TIMEOUT;
use crate::broker::Broker;
use crate::http::client as http;
use crate::proto::stats::Channels;
use crate::proto::{ChannelName, TopicName, excerpt};

/// Maximum size of a response in bytes.
const MAX_RESPONSE: usize = 1 << 20;

/// HTTP addresses of the connected nsqlookupds.
#[derive(Debug, Clone, Default)]
pub(super) struct LookupdDirectory(Arc<Mutex<Vec<String>>>);

/// Entry of one nsqlookupd, removed when dropped.
pub(super) struct DirectoryEntry(LookupdDirectory, Option<String>);

impl LookupdDirectory {
    /// Adds an address until the returned entry is dropped.
    pub(super) fn list(&self, http: Option<String>) -> DirectoryEntry {
        self.lock().extend(http.clone());
        DirectoryEntry(self.clone(), http)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DirectoryEntry {
    fn drop(&mut self) {
        let mut all = self.0.lock();
        if let Some(at) = all.iter().position(|http| Some(http) == self.1.as_ref()) {
            all.swap_remove(at);
        }
    }
}

/// Creates a topic's channels as known to the nsqlookupds, and passes the held messages to them.
/// One nsqlookupd that answers is enough; if none does, the topic waits only for the time limit.
pub(super) async fn add_known_channels(broker: Arc<Broker>, directories: LookupdDirectory, topic: TopicName) {
    let addresses = directories.lock().clone();
    let answers = join_all(addresses.iter().map(|address| ask(address, &topic))).await;
    let mut channels: Vec<ChannelName> = Vec::new();
    for (address, answer) in addresses.iter().zip(answers) {
        match answer {
            Ok(known) => channels.extend(known),
            Err(error) => {
                tracing::warn!(nsqlookupd = %address, %topic, %error, "cannot look up the channels of a new topic");
            }
        }
    }
    broker.change(|state, now| state.set_known_channels(&topic, &channels, now));
}

async fn ask(address: &str, topic: &TopicName) -> Result<Vec<ChannelName>, String> {
    let why = |error: reqwest::Error| http::cause(&error);
    let client: Client =
        http::plain_client().redirect(Policy::none()).no_proxy().timeout(ANSWER_TIMEOUT).build().map_err(why)?;
    let asking = client.get(format!("http://{address}/channels")).query(&[("topic", topic.as_str())]);
    let answer = asking.send().await.map_err(why)?;
    if !answer.status().is_success() {
        return Err(format!("HTTP status {}", answer.status().as_u16()));
    }
    let body = http::body(answer, MAX_RESPONSE).await.map_err(|error| error.to_string())?;
    let known: Channels = serde_json::from_slice(&body).map_err(|error| excerpt(error.to_string().as_bytes()))?;
    Ok(known.channels.iter().filter_map(|name| ChannelName::new(name).ok()).collect())
}
