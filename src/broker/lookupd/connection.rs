//! Connection to an nsqlookupd by its TCP protocol.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{ANSWER_TIMEOUT, CatalogWatch, Registration};
use crate::broker::VERSION;
use crate::broker::http::Identity;
use crate::net::{self, NetStream};
use crate::proto::stats::Producer;
use crate::proto::{HostPort, excerpt};

/// Interval of PING commands.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum size of a response in bytes.
const MAX_RESPONSE: usize = 64 * 1024;

/// Connection to an nsqlookupd.
pub(super) struct LookupdConnection {
    stream: NetStream,
    told: BTreeSet<Registration>,
    /// Its HTTP address, as reported by itself.
    pub(super) http: Option<String>,
}

impl LookupdConnection {
    pub(super) async fn connect(address: &str, identity: &Identity) -> io::Result<Self> {
        let place: HostPort = address.parse().map_err(io::Error::other)?;
        let mut stream = net::connect(place.host_to_reach(), place.port(), ANSWER_TIMEOUT).await?;
        stream.write_all(b"  V1").await?;
        let mut lookupd = Self { stream, told: BTreeSet::new(), http: None };
        let identity = json!({
            "broadcast_address": identity.broadcast_address,
            "hostname": identity.hostname,
            "tcp_port": identity.broadcast_tcp_port,
            "http_port": identity.broadcast_http_port,
            "version": VERSION,
        });
        let identity = identity.to_string();
        let mut command = b"IDENTIFY\n".to_vec();
        command.extend_from_slice(&u32::try_from(identity.len()).expect("a short text").to_be_bytes());
        command.extend_from_slice(identity.as_bytes());
        let itself = lookupd.request(&command).await?;
        let itself: Option<Producer> = serde_json::from_slice(&itself).ok();
        lookupd.http = itself.map(|itself| itself.http_address()).filter(|http| http.parse::<HostPort>().is_ok());
        Ok(lookupd)
    }

    /// Registers and unregisters topics and channels as they change, until the connection fails.
    pub(super) async fn keep(&mut self, catalog: &mut CatalogWatch) -> io::Result<()> {
        loop {
            let now = catalog.borrow_and_update().clone();
            for gone in self.told.difference(&now).cloned().collect::<Vec<_>>() {
                self.register("UNREGISTER", &gone).await?;
            }
            for new in now.difference(&self.told).cloned().collect::<Vec<_>>() {
                self.register("REGISTER", &new).await?;
            }
            self.told = now;
            tokio::select! {
                changed = catalog.changed() => changed.map_err(io::Error::other)?,
                () = sleep(PING_INTERVAL) => drop(self.request(b"PING\n").await?),
            }
        }
    }

    async fn register(&mut self, verb: &str, (topic, channel): &Registration) -> io::Result<()> {
        let command = match channel {
            Some(channel) => format!("{verb} {topic} {channel}\n"),
            None => format!("{verb} {topic}\n"),
        };
        self.request(command.as_bytes()).await.map(drop)
    }

    /// Sends a command and reads its response; fails if that begins with `E_`.
    async fn request(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let asking = async {
            self.stream.write_all(command).await?;
            let length = self.stream.read_u32().await? as usize;
            if length > MAX_RESPONSE {
                return Err(io::Error::other(format!(
                    "a response of {length} bytes is too long: is this its TCP port?"
                )));
            }
            let mut answer = vec![0; length];
            self.stream.read_exact(&mut answer).await?;
            Ok(answer)
        };
        let answer = timeout(ANSWER_TIMEOUT, asking).await??;
        match answer.starts_with(b"E_") {
            true => Err(io::Error::other(excerpt(&answer))),
            false => Ok(answer),
        }
    }
}
