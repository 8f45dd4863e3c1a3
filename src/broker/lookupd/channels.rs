//! Which channels a new topic is to have: those that nsqlookupds know of it (`nsqd/nsqd.go`, `GetTopic`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use reqwest::Client;
use reqwest::redirect::Policy;

use super::ANSWER;
use crate::broker::Broker;
use crate::http::client as http;
use crate::proto::stats::Channels;
use crate::proto::{ChannelName, TopicName, excerpt};

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Where the nsqlookupds that are connected answer questions.
#[derive(Debug, Clone, Default)]
pub(super) struct Directories(Arc<Mutex<Vec<String>>>);

/// One of them, for as long as it is connected.
pub(super) struct Listed(Directories, Option<String>);

impl Directories {
    /// Lists one until what is returned is dropped.
    pub(super) fn list(&self, http: Option<String>) -> Listed {
        self.lock().extend(http.clone());
        Listed(self.clone(), http)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut all = self.0.lock();
        if let Some(at) = all.iter().position(|http| Some(http) == self.1.as_ref()) {
            all.swap_remove(at);
        }
    }
}

/// Gives a topic its channels, and lets its messages go to them. One nsqlookupd that answers is enough; none costs no more than the time
/// that one has for its answer.
pub(super) async fn settle(broker: Arc<Broker>, directories: Directories, topic: TopicName) {
    let addresses = directories.lock().clone();
    let answers = join_all(addresses.iter().map(|address| ask(address, &topic))).await;
    let mut channels: Vec<ChannelName> = Vec::new();
    for (address, answer) in addresses.iter().zip(answers) {
        match answer {
            Ok(known) => channels.extend(known),
            Err(error) => tracing::warn!("cannot ask nsqlookupd {address} for the channels of {topic}: {error}"),
        }
    }
    broker.change(|state, now| state.settle(&topic, &channels, now));
}

async fn ask(address: &str, topic: &TopicName) -> Result<Vec<ChannelName>, String> {
    let why = |error: reqwest::Error| http::cause(&error);
    let client: Client =
        http::plain_client().redirect(Policy::none()).no_proxy().timeout(ANSWER).build().map_err(why)?;
    let asking = client.get(format!("http://{address}/channels")).query(&[("topic", topic.as_str())]);
    let answer = asking.send().await.map_err(why)?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status().as_u16()));
    }
    let body = http::body(answer, MAX_ANSWER).await.map_err(|error| error.to_string())?;
    let known: Channels = serde_json::from_slice(&body).map_err(|error| excerpt(error.to_string().as_bytes()))?;
    Ok(known.channels.iter().filter_map(|name| ChannelName::new(name).ok()).collect())
}
