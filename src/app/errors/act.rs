//! Letters leave the queue: each when what is to be done with it is done, and safe.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::letters::{Letter, Letters};
use super::{Action, say};
use crate::app::brokers::Brokers;
use crate::app::{Exit, Failure};
use crate::cli::errors::Args;
use crate::client::{PublishError, Publisher, PublisherConfig};
use crate::pace::Schedule;
use crate::shutdown::Shutdown;

/// How long publishing a letter may take.
const PUBLISH: Duration = Duration::from_secs(30);

/// Does it with all of them, as far as that can be done.
pub(super) async fn run(
    letters: &mut Letters,
    action: Action,
    args: &Args,
    brokers: &Brokers,
    shutdown: &Shutdown,
) -> anyhow::Result<Exit> {
    let publisher = match action {
        Action::Redrive => {
            let config = PublisherConfig { timeout: PUBLISH, ..PublisherConfig::default() };
            Some(Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?)
        }
        Action::Get | Action::Drop => None,
    };
    let mut acting = Acting {
        publisher,
        schedule: args.rate.map(|rate| Schedule::new(Instant::now(), rate.into())),
        done: 0,
        foreign: 0,
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
    letters.end().await;
    if let Some(publisher) = acting.publisher {
        publisher.close().await;
    }
    let left = if is_through { format!("{} left", letters.passed) } else { "the rest is still there".to_owned() };
    let foreign =
        if acting.foreign > 0 { format!(", {} of them no dead letters", acting.foreign) } else { String::new() };
    say(&format!("{} {}, {left}{foreign}", acting.done, action.done()));
    match acting.trouble {
        Some(trouble) => Err(Failure::new(Exit::Failure, trouble).into()),
        None if is_through => Ok(Exit::Success),
        None => Ok(Exit::Interrupted),
    }
}

struct Acting {
    publisher: Option<Publisher>,
    /// When each is due, if there is a rate.
    schedule: Option<Schedule>,
    done: u64,
    /// Messages that are no dead letters: where they came from is not known.
    foreign: u64,
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

    /// Publishes them, and removes those that nsqd has taken.
    async fn redrive(&mut self, batch: Vec<Letter>, letters: &mut Letters, shutdown: &Shutdown) {
        let (own, foreign): (Vec<_>, Vec<_>) = batch.into_iter().partition(|letter| letter.letter.is_some());
        self.foreign += foreign.len() as u64;
        foreign.into_iter().for_each(|letter| letters.pass(letter));
        if self.schedule.is_none() {
            let published = join_all(own.iter().map(|letter| self.publish(letter))).await;
            own.into_iter().zip(published).for_each(|(letter, published)| self.settle(letter, published));
            return;
        }
        for letter in own {
            let is_over = self.wait_for_turn(shutdown).await || self.trouble.is_some();
            match is_over {
                true => letter.give_back(),
                false => {
                    let published = self.publish(&letter).await;
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

    async fn publish(&self, letter: &Letter) -> Result<(), PublishError> {
        let publisher = self.publisher.as_ref().expect("redrive has one");
        let letter = letter.letter.as_ref().expect("the others were left alone");
        publisher.publish(&letter.stream, letter.body.clone()).await
    }

    fn settle(&mut self, letter: Letter, published: Result<(), PublishError>) {
        match published {
            Ok(()) => {
                self.done += 1;
                letter.finish();
            }
            Err(error) => {
                letter.give_back();
                self.trouble = Some(format!("cannot publish: {error}: what was not published is still there"));
            }
        }
    }
}
