//! Being listed: a subscription to each nsqd by which other hosts see this one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::hosts::{CHANNEL, TOPIC, WakeHost};
use crate::client::{Address, ArrivalWatch, ConnectConfig, Error};
use crate::proto::{ChannelName, Identify, TopicName};

/// The heartbeat interval: nsqd lists a host that is cut off for two of them.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The pause after a connection that failed or ended.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The subscriptions by which this host is listed.
#[derive(Debug)]
pub struct HostListing {
    connect: ConnectConfig,
    entries: BTreeMap<Address, HostEntry>,
    /// True once the log has said that an nsqd refuses the subscription.
    is_logged: Arc<AtomicBool>,
}

/// The entry in one nsqd's list.
#[derive(Debug)]
struct HostEntry {
    host: WakeHost,
    task: AbortOnDropHandle<()>,
    is_established: Arc<AtomicBool>,
    /// The entry with another description, which stays until this one is established.
    before: Option<AbortOnDropHandle<()>>,
}

impl HostListing {
    /// Creates an empty set; `connect` has the settings of the connections.
    pub fn new(connect: ConnectConfig) -> Self {
        Self { connect, entries: BTreeMap::new(), is_logged: Arc::default() }
    }

    /// Has exactly these nsqds list this host.
    pub fn set(&mut self, nsqds: BTreeSet<Address>, host: &WakeHost) {
        self.entries.retain(|nsqd, _| nsqds.contains(nsqd));
        for nsqd in nsqds {
            let before = match self.entries.remove(&nsqd) {
                Some(mut entry) if entry.host == *host => {
                    entry.before = entry.before.filter(|_| !entry.is_established.load(Ordering::Relaxed));
                    self.entries.insert(nsqd, entry);
                    continue;
                }
                Some(entry) if entry.is_established.load(Ordering::Relaxed) => Some(entry.task),
                Some(entry) => entry.before,
                None => None,
            };
            let entry = self.begin(nsqd.clone(), host, before);
            self.entries.insert(nsqd, entry);
        }
    }

    fn begin(&self, nsqd: Address, host: &WakeHost, before: Option<AbortOnDropHandle<()>>) -> HostEntry {
        let is_established = Arc::<AtomicBool>::default();
        let mut connect = self.connect.clone();
        let (client_id, hostname) = (Some(host.client_id()), Some(host.name.clone()));
        connect.identify = Identify { client_id, hostname, ..connect.identify };
        let (established, is_logged) = (is_established.clone(), self.is_logged.clone());
        let task = tokio::spawn(async move {
            loop {
                let ended = stay_listed(&nsqd, &connect, &established).await;
                established.store(false, Ordering::Relaxed);
                match ended {
                    Err(error) if error.is_refusal() && !is_logged.swap(true, Ordering::Relaxed) => tracing::warn!(
                        "cannot be listed with the other hosts: {error}: they do not see this one, \
                         which costs additional starts"
                    ),
                    Err(error) => tracing::debug!("the entry in the list of hosts ended: {error}"),
                    Ok(()) => {}
                }
                sleep(RETRY_PAUSE).await;
            }
        });
        HostEntry { host: host.clone(), task: AbortOnDropHandle::new(task), is_established, before }
    }
}

async fn stay_listed(nsqd: &Address, connect: &ConnectConfig, established: &AtomicBool) -> Result<(), Error> {
    let mut entry = ArrivalWatch::connect_with_heartbeat(nsqd, connect, HEARTBEAT).await?;
    let topic = TopicName::new(TOPIC).expect("a valid name");
    entry.subscribe(topic, ChannelName::new(CHANNEL).expect("a valid name")).await?;
    established.store(true, Ordering::Relaxed);
    entry.stay().await
}
