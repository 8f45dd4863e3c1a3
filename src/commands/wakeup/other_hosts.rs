//! The other hosts that wake the same groups: finding them, and being listed with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::args::Args;
use crate::commands::common::waker::SocketWaker;
use mqueue::client::Address;
use mqueue::plural::count;
use mqueue::proto::is_host;
use mqueue::wake::aggregate::QueueTotals;
use mqueue::wake::host_listing::HostListing;
use mqueue::wake::hosts::{HostMembership, WakeHost};

/// The maximum of names in a log line.
const MAX_LOGGED: usize = 20;

/// This host, and its entry in the lists of nsqds.
pub(super) struct OtherHosts {
    own: WakeHost,
    membership: HostMembership,
    listing: HostListing,
    /// False if this host sees no others: without subscriptions, or for a single poll.
    is_enabled: bool,
    asks: bool,
    /// The hosts of the last log line.
    logged: BTreeSet<String>,
}

impl OtherHosts {
    /// Creates this host's description; `id` is the process's number.
    pub(super) fn new(args: &Args, id: &str) -> Self {
        let is_enabled = !(args.no_edge || args.once || args.dry_run);
        let name = args.hostname.clone().unwrap_or_else(machine_name);
        let own = WakeHost { id: id.to_owned(), name, weight: args.weight, sockets: Default::default() };
        Self {
            own,
            membership: HostMembership::default(),
            listing: HostListing::new(args.broker.connect()),
            is_enabled,
            // a host that comes back must know the others before it pokes
            asks: is_enabled,
            logged: BTreeSet::new(),
        }
    }

    /// True if the next polls are to ask for the list of hosts.
    pub(super) fn asks(&self) -> bool {
        self.asks
    }

    /// Takes the answers of a poll, before its decisions.
    pub(super) fn polled(&mut self, poll: &QueueTotals, listed: Vec<Arc<WakeHost>>, waker: &mut SocketWaker) {
        if !self.is_enabled {
            return;
        }
        let now = Instant::now();
        waker.hosts.are(listed, now);
        let listens = poll.wakeups.iter().any(|id| *id != self.own.id);
        let is_member = self.membership.saw(listens || waker.hosts.others().next().is_some(), now);
        self.asks = is_member || poll.has_host_list;
        self.log(waker);
    }

    /// Has these nsqds list this host with its sockets, after the decisions, if there are others.
    pub(super) fn list(&mut self, nsqds: BTreeSet<Address>, waker: &SocketWaker) {
        if !self.is_enabled {
            return;
        }
        let is_member = self.membership.is_listed();
        if is_member {
            self.own.sockets = waker.socket_counts();
        }
        self.listing.set(if is_member { nsqds } else { BTreeSet::new() }, &self.own);
    }

    /// Returns this host.
    pub(super) fn own(&self) -> &WakeHost {
        &self.own
    }

    fn log(&mut self, waker: &SocketWaker) {
        let mut names: BTreeSet<String> = waker.hosts.others().map(|host| host.name.clone()).collect();
        if !names.is_empty() {
            names.insert(self.own.name.clone());
        }
        if names == self.logged {
            return;
        }
        match names.len() {
            0 => tracing::info!("no other host wakes these groups now"),
            1 => tracing::info!("several wakeups of this host, {}, wake these groups now", self.own.name),
            len => {
                let mut text: Vec<&str> = names.iter().take(MAX_LOGGED).map(String::as_str).collect();
                text.extend((len > MAX_LOGGED).then_some("…"));
                tracing::info!("{} wake these groups now: {}", count(len, "host"), text.join(", "));
            }
        }
        self.logged = names;
    }
}

/// Returns this machine's name.
fn machine_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| is_host(name)).unwrap_or_else(|| "localhost".to_owned())
}
