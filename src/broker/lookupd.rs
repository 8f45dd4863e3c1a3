//! Registers with nsqlookupds, so that they know which topics and channels are here (`nsqd/lookup.go`, and nsqlookupd's protocol).
//!
//! ```text
//!  "  V1" IDENTIFY ─▶ REGISTER topic [channel] for each ─▶ PING every 15 s, and what came or went in between
//! ```
//!
//! A connection that fails is made anew, with all that is here; nsqlookupd forgets what came over one when it ends.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::http::Identity;
use super::{Broker, VERSION};
use crate::proto::{ChannelName, TopicName};

/// How often nsqlookupd is told that all is well.
const PING: Duration = Duration::from_secs(15);
/// How long nsqlookupd may take for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// The longest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// A topic, or one of its channels.
type Registration = (TopicName, Option<ChannelName>);
type Catalog = watch::Receiver<BTreeSet<Registration>>;

/// Keeps all nsqlookupds up to date; never ends.
pub(super) async fn keep_registered(broker: Arc<Broker>, identity: Identity) {
    let mut addresses = broker.lookupds.subscribe();
    let (catalog, _) = watch::channel(BTreeSet::new());
    let mut tasks: HashMap<String, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let wanted = addresses.borrow_and_update().clone();
        tasks.retain(|address, _| wanted.contains(address));
        if !wanted.is_empty() {
            catalog.send_replace(broker.look(|state| {
                let of_topic = |name: &TopicName, channels: Vec<ChannelName>| {
                    let name = name.clone();
                    std::iter::once(None).chain(channels.into_iter().map(Some)).map(move |c| (name.clone(), c))
                };
                state.catalog().flat_map(|(name, channels)| of_topic(name, channels.cloned().collect())).collect()
            }));
        }
        for address in wanted {
            tasks.entry(address).or_insert_with_key(|address| {
                let staying = stay_registered(address.clone(), identity.clone(), catalog.subscribe());
                AbortOnDropHandle::new(tokio::spawn(staying))
            });
        }
        tokio::select! {
            changed = addresses.changed() => changed.expect("the broker keeps the sender"),
            () = broker.catalog_changed.notified() => {}
        }
    }
}

/// Keeps one nsqlookupd up to date.
async fn stay_registered(address: String, identity: Identity, mut catalog: Catalog) {
    let mut trouble = None;
    loop {
        let ended = match Lookupd::connect(&address, &identity).await {
            Ok(mut lookupd) => {
                tracing::info!("registered with nsqlookupd {address}");
                trouble = None;
                lookupd.keep(&mut catalog).await
            }
            Err(error) => Err(error),
        };
        let error = ended.err().map_or_else(|| "it closed the connection".to_owned(), |error| error.to_string());
        if trouble.as_ref() != Some(&error) {
            tracing::warn!("nsqlookupd {address}: {error}: it is tried again");
            trouble = Some(error);
        }
        sleep(ANSWER).await;
    }
}

/// A connection to an nsqlookupd.
struct Lookupd {
    stream: TcpStream,
    told: BTreeSet<Registration>,
}

impl Lookupd {
    async fn connect(address: &str, identity: &Identity) -> io::Result<Self> {
        let mut stream = timeout(ANSWER, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        stream.write_all(b"  V1").await?;
        let mut lookupd = Self { stream, told: BTreeSet::new() };
        let who = json!({
            "broadcast_address": identity.broadcast_address,
            "hostname": identity.hostname,
            "tcp_port": identity.tcp_port,
            "http_port": identity.http_port,
            "version": VERSION,
        });
        let who = who.to_string();
        let mut command = b"IDENTIFY\n".to_vec();
        command.extend_from_slice(&u32::try_from(who.len()).expect("a short text").to_be_bytes());
        command.extend_from_slice(who.as_bytes());
        lookupd.ask(&command).await?;
        Ok(lookupd)
    }

    /// Tells what comes and goes, until the connection fails.
    async fn keep(&mut self, catalog: &mut Catalog) -> io::Result<()> {
        loop {
            let now = catalog.borrow_and_update().clone();
            for gone in self.told.difference(&now).cloned().collect::<Vec<_>>() {
                self.tell("UNREGISTER", &gone).await?;
            }
            for new in now.difference(&self.told).cloned().collect::<Vec<_>>() {
                self.tell("REGISTER", &new).await?;
            }
            self.told = now;
            tokio::select! {
                changed = catalog.changed() => changed.map_err(io::Error::other)?,
                () = sleep(PING) => drop(self.ask(b"PING\n").await?),
            }
        }
    }

    async fn tell(&mut self, verb: &str, (topic, channel): &Registration) -> io::Result<()> {
        let command = match channel {
            Some(channel) => format!("{verb} {topic} {channel}\n"),
            None => format!("{verb} {topic}\n"),
        };
        self.ask(command.as_bytes()).await.map(drop)
    }

    /// Says a command and takes its answer; an error is one that begins with E_.
    async fn ask(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let asking = async {
            self.stream.write_all(command).await?;
            let length = self.stream.read_u32().await? as usize;
            if length > MAX_ANSWER {
                return Err(io::Error::other(format!("an answer of {length} bytes: is this its TCP port?")));
            }
            let mut answer = vec![0; length];
            self.stream.read_exact(&mut answer).await?;
            Ok(answer)
        };
        let answer = timeout(ANSWER, asking).await??;
        match answer.starts_with(b"E_") {
            true => Err(io::Error::other(answer.escape_ascii().to_string())),
            false => Ok(answer),
        }
    }
}
