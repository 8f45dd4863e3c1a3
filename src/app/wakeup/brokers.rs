//! The nsqds and nsqlookupds, each asked on its own: one that is slow or silent delays no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::observe::Poll;
use crate::cli::broker;
use crate::client::{Address, HttpError, Lookupd, Nsqd, StatsFilter};
use crate::proto::stats::{Lookup, Producer, Stats};

/// How long an nsqd that no nsqlookupd names any more may be silent before it is forgotten (nsqlookupd's own patience).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// What is said where there is no nsqd to ask.
const NOBODY: &str = "nsqlookupd names no nsqd: start one with --lookupd-tcp-address";

/// One nsqd: where it is asked, and where it is subscribed at.
#[derive(Debug)]
struct Broker {
    http: Nsqd,
    /// It was given by address.
    is_named: bool,
    tcp: Option<Address>,
    trouble: Trouble,
    /// Its last answer, and when it came. Silence is no empty queue.
    last: Option<(Stats, Instant)>,
    is_asked: bool,
}

/// One nsqlookupd, and the nsqds (their HTTP addresses) that it named last.
#[derive(Debug)]
struct Directory {
    http: Lookupd,
    trouble: Trouble,
    nsqds: BTreeSet<String>,
    answered: Option<Instant>,
    is_asked: bool,
}

/// What went wrong the last time, and since when. Its beginning is said, and its end.
#[derive(Debug, Default)]
struct Trouble(Option<(String, Instant)>);

/// An answer, and whose.
#[derive(Debug)]
enum Answer {
    Nsqd { name: String, took: Duration, told: Result<(Option<Address>, Stats), HttpError> },
    Lookupd { index: usize, told: Result<BTreeSet<String>, HttpError> },
}

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// An nsqd's statistics.
    Stats { took: Duration },
    /// An nsqd or nsqlookupd did not answer well.
    Failed,
    /// An nsqlookupd's list.
    Nodes,
}

/// One of them, as people are told.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Health {
    pub(super) program: &'static str,
    pub(super) http: String,
    /// Where it is subscribed at.
    pub(super) tcp: Option<String>,
    /// How long ago it answered well, in seconds.
    pub(super) last_answer: Option<f64>,
    pub(super) trouble: Option<String>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Brokers {
    nsqds: BTreeMap<String, Broker>,
    directories: Vec<Directory>,
    asking: JoinSet<Answer>,
    /// That there is nobody to ask was said.
    nobody_said: bool,
    /// Troubles are kept, and not said.
    is_quiet: bool,
}

impl Brokers {
    /// Those that were given. If quiet, the caller says what is wrong.
    pub(super) fn new(args: &broker::Args, is_quiet: bool) -> Self {
        let directory = |http| Directory {
            http,
            trouble: Trouble::default(),
            nsqds: BTreeSet::new(),
            answered: None,
            is_asked: false,
        };
        let directories = args.lookupd_http_address.iter().cloned().map(directory).collect();
        let named = args.nsqd_http().into_iter().map(|http| (http.to_string(), Broker::new(http, true)));
        Self { nsqds: named.collect(), directories, asking: JoinSet::new(), nobody_said: is_quiet, is_quiet }
    }

    /// Asks all that have answered.
    pub(super) fn ask(&mut self) {
        for (index, directory) in self.directories.iter_mut().enumerate().filter(|(_, d)| !d.is_asked) {
            directory.is_asked = true;
            let http = directory.http.clone();
            self.asking.spawn(async move {
                let nodes = http.nodes().await;
                let nsqds = |nodes: Lookup| nodes.producers.iter().map(Producer::http_address).collect();
                Answer::Lookupd { index, told: nodes.map(nsqds) }
            });
        }
        self.nsqds.values_mut().for_each(|broker| broker.ask(&mut self.asking));
    }

    /// True while an answer is due. Each has a deadline.
    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Takes in the next answer; `None` if none is due. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Option<News> {
        let answer = self.asking.join_next().await?.expect("asking does not panic");
        Some(match answer {
            Answer::Nsqd { name, took, told } => self.take_stats(&name, took, told),
            Answer::Lookupd { index, told } => self.take_nodes(index, told),
        })
    }

    /// What all nsqds have told.
    pub(super) fn poll(&self) -> Poll {
        let mut poll = Poll::default();
        for (name, broker) in &self.nsqds {
            let tcp = broker.tcp.as_ref().filter(|_| broker.trouble.0.is_none());
            broker.last.iter().for_each(|(stats, _)| poll.add(name, tcp, stats));
        }
        poll
    }

    /// The HTTP API of the nsqd that is subscribed to here.
    pub(super) fn http(&self, tcp: &Address) -> Option<Nsqd> {
        self.nsqds.values().find(|broker| broker.tcp.as_ref() == Some(tcp)).map(|broker| broker.http.clone())
    }

    /// Why no nsqd answers; `None` if one does.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.nsqds.values().any(|broker| broker.trouble.0.is_none() && broker.last.is_some()) {
            return None;
        }
        let first = self.health(Instant::now()).find_map(|health| health.trouble);
        Some(first.unwrap_or_else(|| NOBODY.to_owned()))
    }

    /// How each of them is doing.
    pub(super) fn health(&self, now: Instant) -> impl Iterator<Item = Health> {
        let text = |trouble: &Trouble| trouble.0.as_ref().map(|(text, _)| text.clone());
        let age = move |then: Instant| (now.saturating_duration_since(then).as_secs_f64() * 1000.0).round() / 1000.0;
        let nsqds = self.nsqds.iter().map(move |(name, broker)| Health {
            program: "nsqd",
            http: name.clone(),
            tcp: broker.tcp.as_ref().map(ToString::to_string),
            last_answer: broker.last.as_ref().map(|(_, then)| age(*then)),
            trouble: text(&broker.trouble),
        });
        let directories = self.directories.iter().map(move |directory| Health {
            program: "nsqlookupd",
            http: directory.http.to_string(),
            tcp: None,
            last_answer: directory.answered.map(age),
            trouble: text(&directory.trouble),
        });
        nsqds.chain(directories)
    }

    fn take_stats(&mut self, name: &str, took: Duration, told: Result<(Option<Address>, Stats), HttpError>) -> News {
        let Some(broker) = self.nsqds.get_mut(name) else { return News::Failed };
        broker.is_asked = false;
        broker.trouble.is_now(told.as_ref().err(), format_args!("nsqd at {name}"), self.is_quiet);
        match told {
            Ok((tcp, stats)) => {
                (broker.tcp, broker.last) = (tcp, Some((stats, Instant::now())));
                News::Stats { took }
            }
            Err(_) => {
                // it may come back as another
                broker.tcp = None;
                self.forget();
                News::Failed
            }
        }
    }

    fn take_nodes(&mut self, index: usize, told: Result<BTreeSet<String>, HttpError>) -> News {
        let directory = &mut self.directories[index];
        directory.is_asked = false;
        directory.trouble.is_now(told.as_ref().err(), format_args!("nsqlookupd at {}", directory.http), self.is_quiet);
        let Ok(nsqds) = told else { return News::Failed };
        for name in &nsqds {
            if self.nsqds.contains_key(name) {
                continue;
            }
            let Ok(http) = name.parse() else { continue };
            tracing::info!("found nsqd at {name}");
            let broker = self.nsqds.entry(name.clone()).or_insert(Broker::new(http, false));
            broker.ask(&mut self.asking);
        }
        (directory.nsqds, directory.answered) = (nsqds, Some(Instant::now()));
        if self.nsqds.is_empty() && !self.nobody_said {
            tracing::warn!("{NOBODY}");
        }
        self.nobody_said = self.nsqds.is_empty() || self.is_quiet;
        News::Nodes
    }

    /// Forgets nsqds that are gone for good.
    fn forget(&mut self) {
        let is_listed = |name: &String| self.directories.iter().any(|directory| directory.nsqds.contains(name));
        self.nsqds.retain(|name, broker| {
            let stays = broker.is_named || is_listed(name) || !broker.trouble.lasts(FORGOTTEN_AFTER);
            if !stays {
                tracing::info!("nsqd at {name} is silent, and nsqlookupd does not name it any more: forgotten");
            }
            stays
        });
    }
}

impl Broker {
    fn new(http: Nsqd, is_named: bool) -> Self {
        Self { http, is_named, tcp: None, trouble: Trouble::default(), last: None, is_asked: false }
    }

    fn ask(&mut self, asking: &mut JoinSet<Answer>) {
        if self.is_asked {
            return;
        }
        self.is_asked = true;
        let (http, tcp) = (self.http.clone(), self.tcp.clone());
        asking.spawn(async move {
            let start = Instant::now();
            let told = tell(&http, tcp).await;
            Answer::Nsqd { name: http.to_string(), took: start.elapsed(), told }
        });
    }
}

/// An nsqd's statistics, and where it is subscribed at.
async fn tell(http: &Nsqd, tcp: Option<Address>) -> Result<(Option<Address>, Stats), HttpError> {
    let tcp = match tcp {
        Some(tcp) => Some(tcp),
        None => {
            let info = http.info().await?;
            // the host that was named is one that can be reached; what nsqd calls itself need not be
            let name = http.to_string();
            let host = name.rsplit_once(':').map_or("", |(host, _)| host);
            format!("{host}:{}", info.tcp_port).parse().ok()
        }
    };
    Ok((tcp, http.stats(&StatsFilter::default()).await?))
}

impl Trouble {
    fn is_now(&mut self, error: Option<&HttpError>, who: impl Display, is_quiet: bool) {
        match (error, &mut self.0) {
            (Some(error), None) => {
                if !is_quiet {
                    tracing::warn!("{error}");
                }
                self.0 = Some((error.to_string(), Instant::now()));
            }
            (Some(error), Some((text, _))) => *text = error.to_string(),
            (None, Some(_)) => {
                tracing::info!("{who} answers again");
                self.0 = None;
            }
            (None, None) => {}
        }
    }

    fn lasts(&self, long: Duration) -> bool {
        self.0.as_ref().is_some_and(|(_, since)| since.elapsed() > long)
    }
}
