//! `--create`: creates the stream and the group on every nsqd, without taking a message.
//!
//! A group gets the messages published after it was created, and wakeup sees only groups that
//! exist. So the group of a consumer that is asleep from the start is created when its socket
//! starts, with the consumer's own settings. SUB creates both names, and needs only the address
//! that the consumer connects to; without RDY nsqd delivers no message.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::commands::common::broker_args;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::consumer::args::{Args, CreateTries};
use mqueue::backoff::Backoff;
use mqueue::client::{Address, ArrivalWatch, Error, Lookupd};
use mqueue::proto::TopicName;
use mqueue::proto::stats::Producer;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;

/// The longest that the start of a unit waits for the first try: a boot must not wait for nsqd.
const FIRST_TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest and longest pause between tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Runs `--create` to its end.
pub(super) async fn run(args: &Args, tries: CreateTries) -> anyhow::Result<Exit> {
    if args.group.is_ephemeral() {
        let line = format!("cannot create the group {}: nsqd drops it at once, as it is ephemeral", args.group);
        return Err(Failure::new(Exit::Usage, line).into());
    }
    let shutdown = Shutdown::on_signals(Duration::ZERO)?;
    let mut creation = GroupCreation { args, done: BTreeSet::new() };
    let created = match tries {
        CreateTries::Once => tokio::select! {
            created = creation.try_all() => created.map(|()| true)?,
            () = shutdown.draining.cancelled() => false,
        },
        CreateTries::Retry => tokio::select! {
            () = creation.retry() => true,
            () = shutdown.draining.cancelled() => false,
        },
    };
    let Args { stream, group, .. } = args;
    let nsqds = match creation.done.len() {
        1 => "1 nsqd".to_owned(),
        count => format!("{count} nsqds"),
    };
    match created {
        true => tracing::info!(%stream, %group, "group exists on {nsqds}"),
        false => tracing::warn!(%stream, %group, "stopped; group exists on {nsqds}, not on all"),
    }
    Ok(match (created, tries) {
        (false, CreateTries::Once) => Exit::Interrupted,
        // systemd stops a unit that is no longer needed: no failure
        (true, CreateTries::Once) | (_, CreateTries::Retry) => Exit::Success,
    })
}

/// State of the creation: the settings, and the nsqds that have the group.
struct GroupCreation<'a> {
    args: &'a Args,
    done: BTreeSet<Address>,
}

impl GroupCreation<'_> {
    /// Tries until every nsqd has the group. Sends READY to systemd after the first try, whatever
    /// its result.
    async fn retry(&mut self) {
        let mut pauses = Backoff::new(PAUSES.0, PAUSES.1, fastrand::Rng::new());
        let mut logged = None;
        loop {
            let first = if logged.is_none() { FIRST_TRY_TIMEOUT } else { Duration::MAX };
            let tried =
                timeout(first, self.try_all()).await.map_err(|_| format!("no answer within {FIRST_TRY_TIMEOUT:?}"));
            let problem = match tried {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(silence) => Some(silence),
            };
            let Some(problem) = problem else {
                Notifier.status("the group exists");
                return Notifier.ready();
            };
            if logged.as_ref() != Some(&problem) {
                let Args { stream, group, .. } = self.args;
                tracing::warn!(%stream, %group, "cannot create the group: {problem}; trying again until it exists");
                Notifier.status(&format!("cannot create the group yet: {problem}"));
                Notifier.ready();
                logged = Some(problem);
            }
            sleep(pauses.next().unwrap_or(PAUSES.1)).await;
        }
    }

    /// Creates the group on every nsqd that does not have it yet.
    ///
    /// # Errors
    /// Returns one of the errors; the other nsqds have the group nevertheless.
    async fn try_all(&mut self) -> Result<(), Failure> {
        let (mut nsqds, mut failed) = addresses(&self.args.broker, &self.args.stream).await;
        nsqds.retain(|nsqd| !self.done.contains(nsqd));
        let created = join_all(nsqds.iter().map(|nsqd| self.create(nsqd))).await;
        for (nsqd, created) in nsqds.into_iter().zip(created) {
            match created {
                Ok(()) => drop(self.done.insert(nsqd)),
                Err(error) => failed = Some(Failure::unavailable(&error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn create(&self, nsqd: &Address) -> Result<(), Error> {
        let Args { stream, group, .. } = self.args;
        ArrivalWatch::connect(nsqd, &self.args.broker.connect()).await?.subscribe(stream.clone(), group.clone()).await
    }
}

/// Finds the nsqds that need the group, and an error if some could not be found. These are all
/// nsqds named, and of those that nsqlookupd knows, the ones that have the stream, or all of them
/// if none has it.
async fn addresses(broker: &broker_args::Args, stream: &TopicName) -> (BTreeSet<Address>, Option<Failure>) {
    let mut broker = broker.clone();
    if let Err(failure) = broker.complete().await {
        return (BTreeSet::new(), Some(failure));
    }
    let mut nsqds: BTreeSet<Address> = broker.nsqd().into_iter().collect();
    let mut failed = None;
    let mut found = BTreeSet::new();
    for listed in join_all(broker.lookupd_http_address.iter().map(|lookupd| listed(lookupd, stream))).await {
        match listed {
            Ok(listed) => found.extend(listed),
            Err(error) => failed = Some(Failure::unavailable(&error)),
        }
    }
    let any_has_it = found.iter().any(|(_, has_it)| *has_it);
    nsqds.extend(found.into_iter().filter(|(_, has_it)| *has_it || !any_has_it).map(|(nsqd, _)| nsqd));
    if nsqds.is_empty() && failed.is_none() {
        let line = "nsqlookupd names no nsqd yet: start one with --lookupd-tcp-address";
        failed = Some(Failure::new(Exit::Unavailable, line));
    }
    (nsqds, failed)
}

/// Lists the nsqds that an nsqlookupd knows; the flag is true if the nsqd has the stream.
async fn listed(lookupd: &Lookupd, stream: &TopicName) -> Result<Vec<(Address, bool)>, Error> {
    let (nodes, having) = (lookupd.nodes().await?, lookupd.lookup(stream).await?);
    let address = |producer: &Producer| producer.tcp_address().parse::<Address>().ok();
    let having: BTreeSet<Address> = having.producers.iter().filter_map(address).collect();
    let all = nodes.producers.iter().filter_map(address).chain(having.iter().cloned()).collect::<BTreeSet<_>>();
    Ok(all.into_iter().map(|nsqd| (nsqd.clone(), having.contains(&nsqd))).collect())
}
