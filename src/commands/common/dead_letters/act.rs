//! Actions on dead letters: each letter is finished only when its action is complete and safe.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::letters::{Letter, Letters};
use super::routes::{NotRedriven, RedriveTarget, Route, Routes};
use super::{LetterAction, LetterSelection};
use crate::commands::common::exit::Failure;
use crate::commands::common::run_broker::BrokerAddresses;
use crate::commands::common::schedule::Schedule;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::io_error::describe;
use mqueue::shutdown::Shutdown;

/// Timeout of publishing a letter.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// The outcome of an action.
#[derive(Debug)]
pub(crate) struct ActionOutcome {
    /// The number of letters that are done.
    pub(crate) done: u64,
    /// The number of letters that were not selected, if all were seen.
    pub(crate) left: Option<u64>,
    /// The number of selected letters that were not redriven, by reason.
    pub(crate) stay: BTreeMap<NotRedriven, u64>,
    /// The reason why the action stopped.
    pub(crate) failure: Option<String>,
}

impl ActionOutcome {
    /// Returns the number of selected letters that were not redriven.
    pub(crate) fn stayed(&self) -> u64 {
        self.stay.values().sum()
    }

    /// Describes the outcome: `20 published again, 1 left`.
    pub(crate) fn describe(&self, action: LetterAction) -> String {
        let left = match self.left {
            Some(left) => format!("{left} left"),
            None => "the rest is still there".to_owned(),
        };
        let stay: String = self.stay.iter().map(|(why, count)| format!(", {}", why.of(*count))).collect();
        format!("{} {}, {left}{stay}", self.done, action.done())
    }
}

/// Runs the action on all letters, until one fails.
///
/// # Errors
/// Fails if nothing could be begun.
pub(crate) async fn run(
    letters: &mut Letters,
    action: LetterAction,
    selection: &LetterSelection,
    target: RedriveTarget,
    brokers: &BrokerAddresses,
    shutdown: &Shutdown,
) -> anyhow::Result<ActionOutcome> {
    let redriving = match action {
        LetterAction::Redrive => {
            let routes = Routes::new(&selection.stream, target, brokers)?;
            let config = PublisherConfig::default().with_connect(brokers.connect.clone()).with_timeout(PUBLISH_TIMEOUT);
            let publisher = Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?;
            Some((publisher, routes))
        }
        LetterAction::Get | LetterAction::Drop => None,
    };
    let mut run = ActionRun {
        redriving,
        schedule: selection.rate.map(|rate| Schedule::new(Instant::now(), rate.into())),
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
        // it is known how many there were, and all others would be passed over in vain
        if selection.only.is_some() {
            break;
        }
    }
    let parts = letters.incomplete();
    if action == LetterAction::Drop && has_seen_all {
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
    let left = has_seen_all.then_some(letters.passed);
    Ok(ActionOutcome { done: run.done, left, stay: run.stay, failure: run.failure })
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
    async fn take(&mut self, batch: Vec<Letter>, action: LetterAction, letters: &mut Letters, shutdown: &Shutdown) {
        match action {
            LetterAction::Get => self.print(batch),
            LetterAction::Drop => self.finish(batch),
            LetterAction::Redrive => self.redrive(batch, letters, shutdown).await,
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
                self.failure = Some(format!("cannot print: {}: what was not printed is still there", describe(&error)));
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
