//! A cluster at one moment as `ls`, `top` and the web page show it, and the same again at each
//! interval.
//!
//! ```text
//!  ClusterApis ── observe ──▶ two states ─▶ rates ─┐
//!  sockets of this machine ────────────────────────┴─▶ ClusterListing ─▶ every subscriber
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::{Notify, watch};

use super::exit::{Exit, Failure};
use super::message_ages::MessageAges;
use super::socket_args;
use super::stream_listing::{StreamListing, stream_rows};
use mqueue::client::StatsFilter;
use mqueue::cluster::{ClusterApis, ClusterObserver, ClusterState, NsqdState};

/// The time for which a look waits for nsqds that have not been late.
const GRACE: Duration = Duration::from_secs(1);

/// A cluster at one moment: plain data, for a table as well as for JSON.
#[derive(Debug, Serialize)]
pub(crate) struct ClusterListing {
    pub(crate) streams: Vec<StreamListing>,
    pub(crate) nsqds: Vec<NsqdListing>,
    /// Errors of the nsqlookupds that did not answer: nsqds that only they know are missing.
    pub(crate) lookupd_errors: Vec<String>,
    /// The time of the answers; in JSON, seconds since 1970.
    #[serde(serialize_with = "unix_seconds")]
    pub(crate) at: SystemTime,
}

fn unix_seconds<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_f64((since.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// One nsqd.
#[derive(Debug, Serialize)]
pub(crate) struct NsqdListing {
    /// The address of the HTTP API.
    pub(crate) http: String,
    pub(crate) version: Option<String>,
    /// The reason why its messages are not counted.
    pub(crate) error: Option<String>,
}

impl ClusterListing {
    /// Lists a state. Rates are those since the `earlier` state, ages of messages those of `ages`.
    pub(crate) fn new(
        state: &ClusterState,
        earlier: Option<&ClusterState>,
        ages: &mut MessageAges,
        sockets: &socket_args::Args,
    ) -> Self {
        let rates = earlier.map(|earlier| state.rates(earlier)).unwrap_or_default();
        Self {
            streams: stream_rows(state.streams(), &rates, &ages.look(state), &sockets.groups()),
            nsqds: state.nsqds.iter().map(NsqdListing::new).collect(),
            lookupd_errors: state.lookupd_errors.iter().map(ToString::to_string).collect(),
            at: SystemTime::now(),
        }
    }

    /// Returns the exit code of a command that shows the listing: a failure if a broker is missing.
    pub(crate) fn exit(&self) -> Exit {
        let is_complete = self.lookupd_errors.is_empty() && self.nsqds.iter().all(|nsqd| nsqd.error.is_none());
        if is_complete { Exit::Success } else { Exit::Failure }
    }

    /// Checks that the listing shows anything.
    ///
    /// # Errors
    /// Fails with the first error if no nsqd answered.
    pub(crate) fn check_that_one_answered(&self) -> Result<(), Failure> {
        if self.nsqds.iter().any(|nsqd| nsqd.error.is_none()) {
            return Ok(());
        }
        let mut errors = self.nsqds.iter().filter_map(|nsqd| nsqd.error.as_ref()).chain(&self.lookupd_errors);
        let line = errors.next().map_or("the nsqlookupds know no nsqd", String::as_str);
        Err(Failure::new(Exit::Unavailable, line))
    }
}

impl NsqdListing {
    fn new(nsqd: &NsqdState) -> Self {
        Self {
            http: nsqd.api.to_string(),
            version: nsqd.stats().map(|stats| stats.version.clone()),
            error: nsqd.answer.as_ref().err().map(ToString::to_string),
        }
    }
}

/// A listing that is made again at each interval, once for all subscribers.
#[derive(Debug, Clone)]
pub(crate) struct ClusterWatch {
    latest: watch::Receiver<Arc<ClusterListing>>,
    asked: Arc<Notify>,
}

impl ClusterWatch {
    /// Observes the cluster once, and then in a task of its own that ends with the last clone and
    /// subscriber. An nsqd that is late delays the first listing by a second, and no other one.
    pub(crate) async fn start(cluster: ClusterApis, sockets: socket_args::Args, interval: Duration) -> Self {
        let mut ages = MessageAges::default();
        let mut observer = ClusterObserver::new(cluster, StatsFilter::default(), GRACE);
        let mut earlier = observer.next().await;
        let (sender, latest) = watch::channel(Arc::new(ClusterListing::new(&earlier, None, &mut ages, &sockets)));
        let asked = Arc::new(Notify::new());
        let watch = Self { latest, asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep_until((earlier.at + interval).into()) => {}
                    () = asked.notified() => {}
                }
                let state = observer.next().await;
                let listing = ClusterListing::new(&state, Some(&earlier), &mut ages, &sockets);
                sender.send_replace(Arc::new(listing));
                earlier = state;
            }
        });
        watch
    }

    /// Returns a receiver that has the latest listing, and is told of each new one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<ClusterListing>> {
        self.latest.clone()
    }

    /// Observes the cluster now: an action has changed it.
    pub(crate) fn refresh(&self) {
        self.asked.notify_one();
    }
}
