//! Letters leave the queue: each when what is to be done with it is done, and safe.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::letters::{Letter, Letters};
use super::routes::{Route, Routes, Stays};
use super::{Action, say};
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::run_broker::BrokerAddresses;
use crate::commands::common::schedule::Schedule;
use crate::commands::errors::args::Args;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::shutdown::Shutdown;

/// How long publishing a letter may take.
const PUBLISH: Duration = Duration::from_secs(30);

/// Does it with all of them, as far as that can be done.
pub(super) async fn run(
    letters: &mut Letters,
    action: Action,
    args: &Args,
    brokers: &BrokerAddresses,
    shutdown: &Shutdown,
) -> anyhow::Result<Exit> {
    let redriving = match action {
        Action::Redrive => {
            let routes = Routes::new(args, brokers)?;
            let config = PublisherConfig { timeout: PUBLISH, ..PublisherConfig::default() };
            let publisher = Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?;
            Some((publisher, routes))
        }
        Action::Get | Action::Drop => None,
    };
    let mut acting = Acting {
        redriving,
        schedule: args.rate.map(|rate| Schedule::new(Instant::now(), rate.into())),
        done: 0,
        stay: BTreeMap::new(),
        trouble: None,
    };
    let mut is_through = false;
    while acting.trouble.is_none() && !shutdown.draining.is_cancelled() {
        let batch = tokio::select! {
            batch = letters.next() => batch,
            () = shutdown.draining.cancelled() => break,
        };
        if batch.is_empty() {
            is_through = true;
            break;
        }
        acting.take(batch, action, letters, shutdown).await;
    }
    let parts = letters.incomplete();
    if action == Action::Drop && is_through {
        acting.finish(parts);
    } else if !parts.is_empty() {
        tracing::warn!("{} parts of letters have no other parts, and stay", parts.len());
        letters.passed += parts.len() as u64;
        parts.into_iter().for_each(Letter::give_back);
    }
    letters.end().await;
    if let Some((publisher, _)) = acting.redriving {
        publisher.close().await;
    }
    let left = if is_through { format!("{} left", letters.passed) } else { "the rest is still there".to_owned() };
    let stay: String = acting.stay.iter().map(|(why, count)| format!(", {}", why.of(*count))).collect();
    say(&format!("{} {}, {left}{stay}", acting.done, action.done()));
    match acting.trouble {
        Some(trouble) => Err(Failure::new(Exit::Failure, trouble).into()),
        None if is_through => Ok(Exit::of_work(acting.done, acting.stay.values().sum())),
        None => Ok(Exit::Interrupted),
    }
}

struct Acting {
    redriving: Option<(Publisher, Routes)>,
    /// When each is due, if there is a rate.
    schedule: Option<Schedule>,
    done: u64,
    /// Letters that are not redriven, by the reason.
    stay: BTreeMap<Stays, u64>,
    /// Why it cannot go on.
    trouble: Option<String>,
}

impl Acting {
    async fn take(&mut self, batch: Vec<Letter>, action: Action, letters: &mut Letters, shutdown: &Shutdown) {
        match action {
            Action::Get => self.print(batch),
            Action::Drop => self.finish(batch),
            Action::Redrive => self.redrive(batch, letters, shutdown).await,
        }
    }

    fn finish(&mut self, batch: Vec<Letter>) {
        self.done += batch.len() as u64;
        batch.into_iter().for_each(Letter::finish);
    }

    /// Prints all, and only then removes them.
    fn print(&mut self, batch: Vec<Letter>) {
        let mut out = io::stdout().lock();
        let lines: Vec<u8> = batch.iter().flat_map(|letter| letter.body().iter().copied().chain([b'\n'])).collect();
        match out.write_all(&lines).and_then(|()| out.flush()) {
            Ok(()) => self.finish(batch),
            Err(error) => {
                batch.into_iter().for_each(Letter::give_back);
                self.trouble = Some(format!("cannot print: {error}: what was not printed is still there"));
            }
        }
    }

    /// Publishes them, and removes those that the broker has taken.
    async fn redrive(&mut self, batch: Vec<Letter>, letters: &mut Letters, shutdown: &Shutdown) {
        let Some((_, routes)) = &mut self.redriving else { return };
        if let Err(why) = routes.look().await {
            batch.into_iter().for_each(Letter::give_back);
            self.trouble = Some(format!("cannot see the groups: {why}: what was not published is still there"));
            return;
        }
        let mut own = Vec::with_capacity(batch.len());
        for letter in batch {
            match routes.of(&letter) {
                Ok(route) => own.push((letter, route)),
                Err(why) => {
                    *self.stay.entry(why).or_default() += 1;
                    letters.pass(letter);
                }
            }
        }
        for (_, route) in &own {
            if let Err(why) = routes.prepare(route).await {
                own.into_iter().for_each(|(letter, _)| letter.give_back());
                self.trouble = Some(format!("{why}: what was not published is still there"));
                return;
            }
        }
        if self.schedule.is_none() {
            let published = join_all(own.iter().map(|(letter, route)| self.publish(letter, route))).await;
            own.into_iter().zip(published).for_each(|((letter, _), published)| self.settle(letter, published));
            return;
        }
        for (letter, route) in own {
            let is_over = self.wait_for_turn(shutdown).await || self.trouble.is_some();
            match is_over {
                true => letter.give_back(),
                false => {
                    let published = self.publish(&letter, &route).await;
                    self.settle(letter, published);
                }
            }
        }
    }

    /// True if the command is to end instead.
    async fn wait_for_turn(&self, shutdown: &Shutdown) -> bool {
        let Some(schedule) = self.schedule else { return false };
        tokio::select! {
            () = tokio::time::sleep_until(schedule.at(self.done).into()) => shutdown.draining.is_cancelled(),
            () = shutdown.draining.cancelled() => true,
        }
    }

    async fn publish(&self, letter: &Letter, route: &Route) -> Result<(), String> {
        let (publisher, routes) = self.redriving.as_ref().expect("redrive has them");
        let letter = letter.letter.as_ref().expect("the others were left alone");
        routes.publish(publisher, letter, route).await
    }

    fn settle(&mut self, letter: Letter, published: Result<(), String>) {
        match published {
            Ok(()) => {
                self.done += 1;
                letter.finish();
            }
            Err(error) => {
                letter.give_back();
                self.trouble = Some(format!("{error}: what was not published is still there"));
            }
        }
    }
}
