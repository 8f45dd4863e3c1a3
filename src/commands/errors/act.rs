//! `--get`, `--redrive` and `--drop`: each letter is finished only when its action is complete and
//! safe.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::letters::{Letter, Letters};
use super::routes::{NotRedriven, Route, Routes};
use super::{ErrorsAction, print_status};
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::run_broker::BrokerAddresses;
use crate::commands::common::schedule::Schedule;
use crate::commands::errors::args::Args;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::shutdown::Shutdown;

/// Timeout of publishing a letter.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the action on all letters, until one fails.
pub(super) async fn run(
    letters: &mut Letters,
    action: ErrorsAction,
    args: &Args,
    brokers: &BrokerAddresses,
    shutdown: &Shutdown,
) -> anyhow::Result<Exit> {
    let redriving = match action {
        ErrorsAction::Redrive => {
            let routes = Routes::new(args, brokers)?;
            let config = PublisherConfig::default().with_connect(args.broker.connect()).with_timeout(PUBLISH_TIMEOUT);
            let publisher = Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?;
            Some((publisher, routes))
        }
        ErrorsAction::Get | ErrorsAction::Drop => None,
    };
    let mut run = ActionRun {
        redriving,
        schedule: args.rate.map(|rate| Schedule::new(Instant::now(), rate.into())),
        done: 0,
        stay: BTreeMap::new(),
        failure: None,
    };
    let mut has_seen_all = false;
    while run.failure.is_none() && !shutdown.draining.is_cancelled() {
        let batch = tokio::select! {
            batch = letters.next() => batch,
            () = shutdown.draining.cancelled() => break,
        };
        if batch.is_empty() {
            has_seen_all = true;
            break;
        }
        run.take(batch, action, letters, shutdown).await;
    }
    let parts = letters.incomplete();
    if action == ErrorsAction::Drop && has_seen_all {
        run.finish(parts);
    } else if !parts.is_empty() {
        tracing::warn!("{} parts of incomplete letters stay in the stream", parts.len());
        letters.passed += parts.len() as u64;
        parts.into_iter().for_each(Letter::give_back);
    }
    letters.end().await;
    if let Some((publisher, _)) = run.redriving {
        publisher.close().await;
    }
    let left = if has_seen_all { format!("{} left", letters.passed) } else { "the rest is still there".to_owned() };
    let stay: String = run.stay.iter().map(|(why, count)| format!(", {}", why.of(*count))).collect();
    print_status(&format!("{} {}, {left}{stay}", run.done, action.done()));
    match run.failure {
        Some(failure) => Err(Failure::new(Exit::Failure, failure).into()),
        None if has_seen_all => Ok(Exit::of_work(run.done, run.stay.values().sum())),
        None => Ok(Exit::Interrupted),
    }
}

/// The state of a run.
struct ActionRun {
    redriving: Option<(Publisher, Routes)>,
    /// When each letter is due, with `--rate`.
    schedule: Option<Schedule>,
    done: u64,
    /// The number of letters that are not redriven, by reason.
    stay: BTreeMap<NotRedriven, u64>,
    /// Why the run must stop.
    failure: Option<String>,
}

impl ActionRun {
    async fn take(&mut self, batch: Vec<Letter>, action: ErrorsAction, letters: &mut Letters, shutdown: &Shutdown) {
        match action {
            ErrorsAction::Get => self.print(batch),
            ErrorsAction::Drop => self.finish(batch),
            ErrorsAction::Redrive => self.redrive(batch, letters, shutdown).await,
        }
    }

    fn finish(&mut self, batch: Vec<Letter>) {
        self.done += batch.len() as u64;
        batch.into_iter().for_each(Letter::finish);
    }

    /// Prints all letters, and only then removes them.
    fn print(&mut self, batch: Vec<Letter>) {
        let mut out = io::stdout().lock();
        let lines: Vec<u8> = batch.iter().flat_map(|letter| letter.body().iter().copied().chain([b'\n'])).collect();
        match out.write_all(&lines).and_then(|()| out.flush()) {
            Ok(()) => self.finish(batch),
            Err(error) => {
                batch.into_iter().for_each(Letter::give_back);
                self.failure = Some(format!("cannot print: {error}: what was not printed is still there"));
            }
        }
    }

    /// Publishes the letters, and removes those that the broker acknowledged.
    async fn redrive(&mut self, batch: Vec<Letter>, letters: &mut Letters, shutdown: &Shutdown) {
        let Some((_, routes)) = &mut self.redriving else { return };
        if let Err(why) = routes.refresh().await {
            batch.into_iter().for_each(Letter::give_back);
            self.failure = Some(format!("cannot read the groups: {why}: what was not published is still there"));
            return;
        }
        let mut own = Vec::with_capacity(batch.len());
        for letter in batch {
            match routes.of(&letter) {
                Ok(route) => own.push((letter, route)),
                Err(why) => {
                    *self.stay.entry(why).or_default() += 1;
                    letters.leave(letter);
                }
            }
        }
        for (_, route) in &own {
            if let Err(why) = routes.prepare(route).await {
                own.into_iter().for_each(|(letter, _)| letter.give_back());
                self.failure = Some(format!("{why}: what was not published is still there"));
                return;
            }
        }
        if self.schedule.is_none() {
            let published = join_all(own.iter().map(|(letter, route)| self.publish(letter, route))).await;
            own.into_iter().zip(published).for_each(|((letter, _), published)| self.record(letter, published));
            return;
        }
        for (letter, route) in own {
            let is_over = self.wait_for_turn(shutdown).await || self.failure.is_some();
            match is_over {
                true => letter.give_back(),
                false => {
                    let published = self.publish(&letter, &route).await;
                    self.record(letter, published);
                }
            }
        }
    }

    /// Waits until the next letter is due. Returns true if shutdown began meanwhile.
    async fn wait_for_turn(&self, shutdown: &Shutdown) -> bool {
        let Some(schedule) = self.schedule else { return false };
        tokio::select! {
            () = tokio::time::sleep_until(schedule.at(self.done).into()) => shutdown.draining.is_cancelled(),
            () = shutdown.draining.cancelled() => true,
        }
    }

    async fn publish(&self, letter: &Letter, route: &Route) -> Result<(), String> {
        let (publisher, routes) = self.redriving.as_ref().expect("set for redrive");
        let letter = letter.letter.as_ref().expect("routes skip other messages");
        routes.publish(publisher, letter, route).await
    }

    fn record(&mut self, letter: Letter, published: Result<(), String>) {
        match published {
            Ok(()) => {
                self.done += 1;
                letter.finish();
            }
            Err(error) => {
                letter.give_back();
                self.failure = Some(format!("{error}: what was not published is still there"));
            }
        }
    }
}
