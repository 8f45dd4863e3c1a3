//! The letters in their stream: their number, and an iteration over each of them once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::timeout;

use super::parts::Parts;
use super::{LetterName, LetterSelection};
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::run_broker::BrokerAddresses;
use mqueue::client::{Consumer, ConsumerConfig, Delivery, Nsqd, StatsFilter};
use mqueue::plural;
use mqueue::proto::stats::TopicStats;
use mqueue::proto::{ChannelName, MessageId, TopicName};
use mqueue::worker::DeadLetter;

/// The most messages in flight; nsqd allows 2500.
pub(crate) const MAX_IN_FLIGHT: u32 = 200;
/// The least messages in flight: the parts of one letter.
const MIN_IN_FLIGHT: u32 = 16;
/// `msg_timeout` in milliseconds: after a kill of this program, letters stay in flight for this
/// long.
const MSG_TIMEOUT_MS: i64 = 10_000;
/// Time without a letter after which there are no more.
const LAST_LETTER_TIMEOUT: Duration = Duration::from_secs(2);
/// Requeue delay of a letter that is not selected, so that it does not come again at once.
const SET_ASIDE_DELAY: Duration = Duration::from_secs(10);
/// The same if a single letter is looked for, which ends as soon as it is found.
const BRIEF_SET_ASIDE_DELAY: Duration = Duration::from_secs(1);

/// The numbers of letters by nsqd's statistics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LetterCount {
    /// Letters that the group has, or will get.
    pub(crate) letters: u64,
    /// Letters in flight or deferred.
    away: u64,
    /// Letters of other groups, if this group does not exist yet.
    others: Vec<(String, u64)>,
}

impl LetterCount {
    fn add(&mut self, topic: &TopicStats, group: &ChannelName) {
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        let own = topic.channels.iter().find(|channel| channel.channel_name == group.as_str());
        match own {
            Some(own) => {
                self.letters += number(own.depth) + number(topic.depth);
                self.away += number(own.in_flight_count) + number(own.deferred_count);
            }
            None if topic.channels.is_empty() => self.letters += number(topic.depth),
            None => {
                let others = topic.channels.iter().map(|it| (it.channel_name.clone(), number(it.depth)));
                self.others.extend(others.filter(|(_, depth)| *depth > 0));
            }
        }
    }

    /// Returns a hint about letters that are not counted.
    pub(crate) fn elsewhere(&self, stream: &TopicName, group: &ChannelName) -> Option<String> {
        if self.away > 0 {
            return Some(format!(
                "{} of {stream} not included: in flight or deferred, as after another run of this command; try again",
                plural::count(self.away, "letter")
            ));
        }
        let (name, depth) = self.others.first()?;
        Some(format!(
            "group {group} is new; group {name} of {stream} has {}: read them with --group {name}",
            plural::count(*depth, "letter")
        ))
    }
}

/// Counts the letters. Fails if an nsqd does not answer, because it may have letters.
pub(crate) async fn count(nsqds: &[Nsqd], stream: &TopicName, group: &ChannelName) -> anyhow::Result<LetterCount> {
    let filter = StatsFilter::default().with_topic(stream);
    let mut counted = LetterCount::default();
    for nsqd in nsqds {
        let stats = nsqd.stats(&filter).await.map_err(|e| Failure::new(Exit::Unavailable, e))?;
        stats
            .topics
            .iter()
            .filter(|topic| topic.topic_name == stream.as_str())
            .for_each(|topic| counted.add(topic, group));
    }
    Ok(counted)
}

/// A letter in flight.
pub(crate) struct Letter {
    /// One delivery, or one for each part.
    pub(crate) deliveries: Vec<Delivery>,
    /// `None` if the message is not a dead letter.
    pub(crate) letter: Option<DeadLetter>,
}

impl Letter {
    fn new(delivery: Delivery) -> Self {
        Self { letter: DeadLetter::decode(&delivery.message().body), deliveries: vec![delivery] }
    }

    /// Returns the body of the original message; of a message that is not a dead letter, its own
    /// body.
    pub(crate) fn body(&self) -> &[u8] {
        self.letter.as_ref().map_or(&self.deliveries[0].message().body[..], |letter| &letter.body[..])
    }

    pub(crate) fn id(&self) -> String {
        self.letter.as_ref().map_or_else(|| self.deliveries[0].message().id.to_string(), |letter| letter.id.clone())
    }

    /// Returns true if this is the name of the letter.
    pub(crate) fn is(&self, name: &LetterName) -> bool {
        LetterName::of(self.letter.as_ref(), &self.id()) == *name
    }

    /// Returns true if the body, the reason or the group contains the text.
    fn has(&self, text: &str) -> bool {
        matches(self.letter.as_ref(), self.body(), text)
    }

    /// Removes the letter from its stream (FIN).
    pub(crate) fn finish(self) {
        self.deliveries.into_iter().for_each(Delivery::finish);
    }

    /// Requeues the letter.
    pub(crate) fn give_back(self) {
        self.deliveries.into_iter().for_each(Delivery::release);
    }
}

/// Returns true if the body, the reason or the group of a letter contains the text. `None` is a
/// message that is no letter.
pub(crate) fn matches(letter: Option<&DeadLetter>, body: &[u8], text: &str) -> bool {
    let told = letter.is_some_and(|letter| letter.reason.contains(text) || letter.group.as_str().contains(text));
    told || memchr::memmem::find(body, text.as_bytes()).is_some()
}

/// The letters, each once.
pub(crate) struct Letters {
    consumer: Consumer,
    filter: Option<String>,
    only: Option<LetterName>,
    total: u64,
    seen: HashSet<MessageId>,
    parts: Parts,
    /// The number of letters that were received and not selected.
    pub(crate) passed: u64,
}

impl Letters {
    /// Begins to receive the letters, of which there are `total`.
    ///
    /// # Errors
    /// Fails if no nsqd can be reached.
    pub(crate) async fn connect(
        brokers: &BrokerAddresses,
        selection: &LetterSelection,
        total: u64,
    ) -> anyhow::Result<Self> {
        let mut config = ConsumerConfig::new(selection.dead_letters.clone(), selection.group.clone());
        config.nsqd = brokers.tcp.clone();
        config.connect = brokers.connect.clone();
        // with a rate, few letters are in flight while they wait; the parts of a large letter must
        // be in flight together
        config.flow.max_in_flight =
            selection.rate.map_or(selection.max_in_flight, |rate| rate.clamp(MIN_IN_FLIGHT, MAX_IN_FLIGHT));
        // requeued letters are no failures
        config.flow.max_backoff = Duration::ZERO;
        config.connect.identify.msg_timeout = Some(MSG_TIMEOUT_MS);
        let consumer = Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?;
        Ok(Self {
            consumer,
            filter: selection.filter.clone(),
            only: selection.only.clone(),
            total,
            seen: HashSet::new(),
            parts: Parts::default(),
            passed: 0,
        })
    }

    /// Returns the next selected letters; none when all were received. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Vec<Letter> {
        while (self.seen.len() as u64) < self.total {
            let Ok(deliveries) = timeout(LAST_LETTER_TIMEOUT, self.consumer.recv_many(MAX_IN_FLIGHT as usize)).await
            else {
                break;
            };
            let mut wanted = Vec::new();
            for delivery in deliveries {
                let is_new = self.seen.insert(delivery.message().id);
                let letter = Letter::new(delivery);
                let Some(letter) = self.parts.join(letter) else { continue };
                match is_new && self.is_selected(&letter) {
                    true => wanted.push(letter),
                    false => self.set_aside(letter, is_new),
                }
            }
            if !wanted.is_empty() {
                return wanted;
            }
        }
        Vec::new()
    }

    fn is_selected(&self, letter: &Letter) -> bool {
        self.filter.as_ref().is_none_or(|text| letter.has(text)) && self.only.as_ref().is_none_or(|it| letter.is(it))
    }

    fn set_aside(&mut self, letter: Letter, is_new: bool) {
        self.passed += u64::from(is_new);
        let delay = if self.only.is_some() { BRIEF_SET_ASIDE_DELAY } else { SET_ASIDE_DELAY };
        letter.deliveries.into_iter().for_each(|delivery| delivery.requeue_untried(delay));
    }

    /// Takes the parts of letters whose other parts did not come.
    pub(crate) fn incomplete(&mut self) -> Vec<Letter> {
        self.parts.take_incomplete()
    }

    /// Leaves a letter in its stream.
    pub(crate) fn leave(&mut self, letter: Letter) {
        self.set_aside(letter, true);
    }

    /// Stops the consumer, after all its replies are written.
    pub(crate) async fn end(&mut self) {
        self.consumer.stop();
        while self.consumer.recv().await.is_some() {}
    }
}
