//! Registration of topics and channels with nsqlookupds (`nsqd/lookup.go`, and nsqlookupd's
//! protocol).
//!
//! ```text
//!  "  V1" IDENTIFY ─▶ REGISTER topic [channel] for each ─▶ PING every 15 s, and what came or went in between
//! ```
//!
//! A failed connection is replaced by a new one, over which everything is registered again;
//! nsqlookupd forgets the registrations of a connection when it ends.
//!
//! A new topic gets the channels that it has on other nodes, before its first message goes to any
//! channel.

mod channels;
mod connection;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use self::channels::LookupdDirectory;
use self::connection::LookupdConnection;
use super::Broker;
use super::http::Identity;
use crate::io_error::describe;
use crate::proto::{ChannelName, TopicName};

/// Time limit for a response of nsqlookupd, and delay before a new connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Registration of a topic, or of one of its channels.
type Registration = (TopicName, Option<ChannelName>);
type CatalogWatch = watch::Receiver<BTreeSet<Registration>>;

/// Keeps the registrations with all nsqlookupds up to date; never returns.
pub(super) async fn keep_registered(broker: Arc<Broker>, identity: Identity) {
    let mut addresses = broker.lookupds.subscribe();
    let (catalog, _) = watch::channel(BTreeSet::new());
    let directories = LookupdDirectory::default();
    let mut tasks: HashMap<String, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let wanted = addresses.borrow_and_update().clone();
        tasks.retain(|address, _| wanted.contains(address));
        if !wanted.is_empty() {
            catalog.send_replace(broker.with_state(|state| {
                let of_topic = |name: &TopicName, channels: Vec<ChannelName>| {
                    let name = name.clone();
                    std::iter::once(None).chain(channels.into_iter().map(Some)).map(move |c| (name.clone(), c))
                };
                state.catalog().flat_map(|(name, channels)| of_topic(name, channels.cloned().collect())).collect()
            }));
        }
        for address in wanted {
            tasks.entry(address).or_insert_with_key(|address| {
                let directories = directories.clone();
                let staying = stay_registered(address.clone(), identity.clone(), directories, catalog.subscribe());
                AbortOnDropHandle::new(tokio::spawn(staying))
            });
        }
        for topic in broker.change(|state, _| state.take_topics_awaiting_channels()) {
            tokio::spawn(channels::add_known_channels(broker.clone(), directories.clone(), topic));
        }
        tokio::select! {
            changed = addresses.changed() => changed.expect("the broker keeps the sender"),
            () = broker.catalog_changed.notified() => {}
        }
    }
}

/// Keeps the registrations with one nsqlookupd up to date.
async fn stay_registered(
    address: String,
    identity: Identity,
    directories: LookupdDirectory,
    mut catalog: CatalogWatch,
) {
    let mut last_error = None;
    loop {
        let ended = match LookupdConnection::connect(&address, &identity).await {
            Ok(mut lookupd) => {
                tracing::info!(nsqlookupd = %address, "registered with nsqlookupd");
                last_error = None;
                let _listed = directories.list(lookupd.http.clone());
                lookupd.keep(&mut catalog).await
            }
            Err(error) => Err(error),
        };
        let error = ended.err().map_or_else(|| "connection closed".to_owned(), |error| describe(&error));
        if last_error.as_ref() != Some(&error) {
            tracing::warn!(nsqlookupd = %address, %error, "registration with nsqlookupd failed; retrying");
            last_error = Some(error);
        }
        sleep(ANSWER_TIMEOUT).await;
    }
}
