//! The letters in their stream: how many there are, and each of them once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::timeout;

use super::parts::Parts;
use crate::commands::common::exit::Failure;
use crate::commands::errors::args::Args;
use mqueue::client::{Address, Consumer, ConsumerConfig, Delivery, Nsqd, StatsFilter};
use mqueue::plural;
use mqueue::proto::stats::TopicStats;
use mqueue::proto::{ChannelName, MessageId, TopicName};
use mqueue::worker::DeadLetter;

/// Messages taken at once; nsqd lets 2500 be in flight.
const MAX_IN_FLIGHT: u32 = 200;
/// The least to be taken at once: the parts of a letter.
const MIN_IN_FLIGHT: u32 = 16;
/// How long a letter may be out, in milliseconds: for so long letters are away after this was killed.
const MSG_TIMEOUT_MS: i64 = 10_000;
/// When no letter comes for so long, there are no more.
const LAST_LETTER_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long a letter that is not wanted stays away, so that it is not seen again at once.
const SET_ASIDE_DELAY: Duration = Duration::from_secs(10);

/// What the statistics say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LetterCount {
    /// Letters that the group has, or will have.
    pub(super) letters: u64,
    /// Out with somebody, or to come later.
    away: u64,
    /// Letters that other groups have, and this one never had.
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

    /// What a person should know of letters that are not counted.
    pub(super) fn elsewhere(&self, stream: &TopicName, group: &ChannelName) -> Option<String> {
        if self.away > 0 {
            return Some(format!(
                "{} of {stream} not seen: with another look at them, or to come back within seconds",
                plural::count(self.away, "letter")
            ));
        }
        let (name, depth) = self.others.first()?;
        Some(format!(
            "group {group} begins now, and group {name} of {stream} has {}: --group {name} takes what it has",
            plural::count(*depth, "letter")
        ))
    }
}

/// Counts. Fails if an nsqd does not answer: it may have letters.
pub(super) async fn count(nsqds: &[Nsqd], stream: &TopicName, group: &ChannelName) -> anyhow::Result<LetterCount> {
    let filter = StatsFilter { topic: Some(stream.clone()), channel: None, clients: false };
    let mut counted = LetterCount::default();
    for nsqd in nsqds {
        let stats =
            nsqd.stats(&filter).await.map_err(|e| Failure::new(crate::commands::common::exit::Exit::Unavailable, e))?;
        stats
            .topics
            .iter()
            .filter(|topic| topic.topic_name == stream.as_str())
            .for_each(|topic| counted.add(topic, group));
    }
    Ok(counted)
}

/// A letter that is out of the queue until it is answered.
pub(super) struct Letter {
    /// One, or one for each part.
    pub(super) deliveries: Vec<Delivery>,
    /// None if it is no dead letter, but somebody's message.
    pub(super) letter: Option<DeadLetter>,
}

impl Letter {
    fn new(delivery: Delivery) -> Self {
        Self { letter: DeadLetter::decode(&delivery.message().body), deliveries: vec![delivery] }
    }

    /// What was published: its own body, or that of the message that was given up.
    pub(super) fn body(&self) -> &[u8] {
        self.letter.as_ref().map_or(&self.deliveries[0].message().body[..], |letter| &letter.body[..])
    }

    pub(super) fn id(&self) -> String {
        self.letter.as_ref().map_or_else(|| self.deliveries[0].message().id.to_string(), |letter| letter.id.clone())
    }

    /// True if it has the text where one looks for it.
    fn has(&self, text: &str) -> bool {
        let letter = self.letter.as_ref();
        let told = letter.is_some_and(|letter| letter.reason.contains(text) || letter.group.as_str().contains(text));
        told || memchr::memmem::find(self.body(), text.as_bytes()).is_some()
    }

    /// It is done with.
    pub(super) fn finish(self) {
        self.deliveries.into_iter().for_each(Delivery::finish);
    }

    /// It goes back to where it was.
    pub(super) fn give_back(self) {
        self.deliveries.into_iter().for_each(Delivery::release);
    }
}

/// The letters, each once.
pub(super) struct Letters {
    consumer: Consumer,
    filter: Option<String>,
    total: u64,
    seen: HashSet<MessageId>,
    parts: Parts,
    /// Were seen and not wanted.
    pub(super) passed: u64,
}

impl Letters {
    pub(super) async fn connect(
        nsqds: &[Address],
        stream: &TopicName,
        args: &Args,
        total: u64,
    ) -> anyhow::Result<Self> {
        let mut config = ConsumerConfig::new(stream.clone(), args.group.clone());
        config.nsqd = nsqds.to_vec();
        // with a rate few are out while they wait for their turn; a large letter is in parts, which have to be out together
        config.flow.max_in_flight =
            args.rate.map_or(MAX_IN_FLIGHT.max(args.limit), |rate| rate.clamp(MIN_IN_FLIGHT, MAX_IN_FLIGHT));
        // a letter that is set aside is no failure
        config.flow.max_backoff = Duration::ZERO;
        config.connect.identify.msg_timeout = Some(MSG_TIMEOUT_MS);
        let consumer = Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?;
        Ok(Self {
            consumer,
            filter: args.filter.clone(),
            total,
            seen: HashSet::new(),
            parts: Parts::default(),
            passed: 0,
        })
    }

    /// The next letters that are wanted; none when all were seen. Cancel-safe.
    pub(super) async fn next(&mut self) -> Vec<Letter> {
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
                match is_new && self.filter.as_ref().is_none_or(|text| letter.has(text)) {
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

    fn set_aside(&mut self, letter: Letter, is_new: bool) {
        self.passed += u64::from(is_new);
        letter.deliveries.into_iter().for_each(|delivery| delivery.put_off(SET_ASIDE_DELAY));
    }

    /// Parts of letters whose other parts did not come.
    pub(super) fn incomplete(&mut self) -> Vec<Letter> {
        self.parts.take_incomplete()
    }

    /// A letter that is no dead letter is not touched.
    pub(super) fn leave(&mut self, letter: Letter) {
        self.set_aside(letter, true);
    }

    /// Ends, when all answers are on their way.
    pub(super) async fn end(&mut self) {
        self.consumer.stop();
        while self.consumer.recv().await.is_some() {}
    }
}
