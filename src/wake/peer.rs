//! One nsqd, or one nsqlookupd: how it is asked, and what it answered last.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::trouble::Trouble;
use crate::client::{Address, HttpError, Lookupd, Nsqd, StatsFilter};
use crate::proto::stats::{Lookup, Producer, Stats};

/// An answer, and whose.
#[derive(Debug)]
pub enum Answer {
    Nsqd { name: String, took: Duration, told: Result<Told, HttpError> },
    Lookupd { index: usize, told: Result<BTreeSet<String>, HttpError> },
}

/// What an nsqd tells: who it is, and its statistics.
pub type Told = Box<(Known, Stats)>;

/// Who an nsqd is, which it is asked once.
#[derive(Debug, Clone)]
pub struct Known {
    /// Where it is subscribed at.
    pub tcp: Option<Address>,
    pub itself: Itself,
}

/// What an nsqd says of itself: its machine, address and ports.
pub type Itself = (String, String, i32, i32);

/// One of them, as people are told.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Health {
    program: &'static str,
    http: String,
    /// Where it is subscribed at.
    tcp: Option<String>,
    /// How long ago it answered well, in seconds.
    last_answer: Option<f64>,
    pub trouble: Option<String>,
}

/// One nsqd: where it is asked, and where it is subscribed at.
#[derive(Debug)]
pub struct Broker {
    pub http: Nsqd,
    /// It was given by address.
    pub is_named: bool,
    pub known: Option<Known>,
    /// Who gave its last answer.
    pub itself: Option<Itself>,
    pub trouble: Trouble,
    /// Its last answer, and when it came. Silence is no empty queue.
    pub last: Option<(Stats, Instant)>,
    pub is_asked: bool,
}

impl Broker {
    pub fn new(http: Nsqd, is_named: bool) -> Self {
        Self { http, is_named, known: None, itself: None, trouble: Trouble::default(), last: None, is_asked: false }
    }

    /// Asks it, unless its answer is due.
    pub fn ask(&mut self, asking: &mut JoinSet<Answer>) {
        if self.is_asked {
            return;
        }
        self.is_asked = true;
        let (http, known) = (self.http.clone(), self.known.clone());
        asking.spawn(async move {
            let start = Instant::now();
            let told = tell(&http, known).await;
            Answer::Nsqd { name: http.to_string(), took: start.elapsed(), told }
        });
    }

    /// Where it is subscribed at.
    pub fn tcp(&self) -> Option<&Address> {
        self.known.as_ref()?.tcp.as_ref()
    }

    pub fn health(&self, now: Instant) -> Health {
        Health {
            program: "nsqd",
            http: self.http.to_string(),
            tcp: self.tcp().map(ToString::to_string),
            last_answer: self.last.as_ref().map(|(_, then)| seconds(*then, now)),
            trouble: self.trouble.text(),
        }
    }
}

async fn tell(http: &Nsqd, known: Option<Known>) -> Result<Told, HttpError> {
    let known = match known {
        Some(known) => known,
        None => {
            let info = http.info().await?;
            Known {
                tcp: http.tcp_address(&info),
                itself: (info.hostname, info.broadcast_address, info.tcp_port, info.http_port),
            }
        }
    };
    Ok(Box::new((known, http.stats(&StatsFilter::default()).await?)))
}

/// One nsqlookupd, and the nsqds (their HTTP addresses) that it named last.
#[derive(Debug)]
pub struct Directory {
    pub http: Lookupd,
    pub trouble: Trouble,
    pub nsqds: BTreeSet<String>,
    pub answered: Option<Instant>,
    pub is_asked: bool,
}

impl Directory {
    pub fn new(http: Lookupd) -> Self {
        Self { http, trouble: Trouble::default(), nsqds: BTreeSet::new(), answered: None, is_asked: false }
    }

    /// Asks it, unless its answer is due.
    pub fn ask(&mut self, index: usize, asking: &mut JoinSet<Answer>) {
        if self.is_asked {
            return;
        }
        self.is_asked = true;
        let http = self.http.clone();
        asking.spawn(async move {
            let nsqds = |nodes: Lookup| nodes.producers.iter().map(Producer::http_address).collect();
            Answer::Lookupd { index, told: http.nodes().await.map(nsqds) }
        });
    }

    pub fn health(&self, now: Instant) -> Health {
        Health {
            program: "nsqlookupd",
            http: self.http.to_string(),
            tcp: None,
            last_answer: self.answered.map(|then| seconds(then, now)),
            trouble: self.trouble.text(),
        }
    }
}

/// How long ago that was, to the millisecond.
fn seconds(then: Instant, now: Instant) -> f64 {
    (now.saturating_duration_since(then).as_secs_f64() * 1000.0).round() / 1000.0
}
