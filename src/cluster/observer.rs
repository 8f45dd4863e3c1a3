//! Repeated observations of a cluster, none of which waits long for an nsqd that is late.
//!
//! ```text
//!  next() ─▶ ask who is not asked already ─▶ wait until the prompt ones have answered ─▶ ClusterState
//!                 ▲                                                                          │
//!                 └── late ones go on, and count in a later observation ─────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{timeout, timeout_at};

use super::apis::{ClusterApis, ClusterState, NsqdAnswer, NsqdState, keep_first_of_each, late};
use crate::client::{HttpError, Nsqd, StatsFilter};
use crate::proto::stats::Lookup;

/// The time for which an answer stands for a later one that is late.
const MAX_AGE: Duration = Duration::from_secs(5);
/// The largest number of prompt nsqds that are asked at the same time. It bounds the answers in
/// memory.
const MAX_REQUESTS: usize = 16;

/// Observes a cluster again and again. An nsqd or nsqlookupd that is late delays an observation once,
/// by the grace; from then on its answers count when they come.
#[derive(Debug)]
pub struct ClusterObserver {
    apis: Arc<ClusterApis>,
    filter: Arc<StatsFilter>,
    grace: Duration,
    requests: JoinSet<PeerAnswer>,
    turns: Arc<Semaphore>,
    /// The nsqds, in the order of the state, and what is known of each.
    order: Vec<Nsqd>,
    nsqds: BTreeMap<String, ObservedNsqd>,
    lookupds: Vec<ObservedLookupd>,
}

/// An nsqd.
#[derive(Debug, Default)]
struct ObservedNsqd {
    is_asked: bool,
    /// True if it was late the last time: nothing waits for it.
    is_slow: bool,
    /// The last answer, unless an error came since.
    last: Option<(NsqdAnswer, Instant)>,
    /// The error that came since the last observation.
    error: Option<HttpError>,
}

/// An nsqlookupd.
#[derive(Debug, Default)]
struct ObservedLookupd {
    is_asked: bool,
    is_slow: bool,
    error: Option<HttpError>,
    /// The time of the last answer.
    answered: Option<Instant>,
}

/// The result of a request.
#[derive(Debug)]
enum PeerAnswer {
    Nsqd { address: String, is_slow: bool, answer: Result<NsqdAnswer, HttpError> },
    Lookupd { number: usize, is_slow: bool, nodes: Result<Lookup, HttpError> },
}

impl ClusterObserver {
    /// Begins to observe. An observation waits `grace` for those that have not been late.
    pub fn new(apis: ClusterApis, filter: StatsFilter, grace: Duration) -> Self {
        let lookupds = apis.lookupds().iter().map(|_| ObservedLookupd::default()).collect();
        Self {
            apis: Arc::new(apis),
            filter: Arc::new(filter),
            grace,
            requests: JoinSet::new(),
            turns: Arc::new(Semaphore::new(MAX_REQUESTS)),
            order: Vec::new(),
            nsqds: BTreeMap::new(),
            lookupds,
        }
    }

    /// Asks every nsqd for its counts. One that is late has its last answer, if that is at most 5 s
    /// old, and otherwise an error.
    ///
    /// # Cancel safety
    /// Requests go on, and count in the next observation.
    pub async fn next(&mut self) -> ClusterState {
        self.ask_lookupds();
        self.wait(|observer| observer.lookupds.iter().any(|it| it.is_asked && !it.is_slow)).await;
        self.lookupds.iter_mut().for_each(|it| it.is_slow |= it.is_asked);
        self.ask_nsqds();
        self.wait(|observer| observer.nsqds.values().any(|it| it.is_asked && !it.is_slow)).await;
        self.nsqds.values_mut().for_each(|it| it.is_slow |= it.is_asked);
        self.state()
    }

    /// Takes answers while `is_waiting`, for the grace, and then those that are there.
    async fn wait(&mut self, is_waiting: impl Fn(&Self) -> bool) {
        let deadline = (Instant::now() + self.grace).into();
        while is_waiting(self) {
            match timeout_at(deadline, self.requests.join_next()).await {
                Ok(Some(answer)) => self.take(answer),
                Ok(None) | Err(_) => break,
            }
        }
        while let Some(answer) = self.requests.try_join_next() {
            self.take(answer);
        }
    }

    /// Takes an answer. A panic goes on here.
    fn take(&mut self, answer: Result<PeerAnswer, JoinError>) {
        match answer {
            Ok(PeerAnswer::Nsqd { address, is_slow, answer }) => {
                // one that the nsqlookupds know no longer
                let Some(nsqd) = self.nsqds.get_mut(&address) else { return };
                (nsqd.is_asked, nsqd.is_slow) = (false, is_slow);
                match answer {
                    Ok(answer) => (nsqd.last, nsqd.error) = (Some((answer, Instant::now())), None),
                    Err(error) => (nsqd.last, nsqd.error) = (None, Some(error)),
                }
            }
            Ok(PeerAnswer::Lookupd { number, is_slow, nodes }) => {
                let Some(lookupd) = self.lookupds.get_mut(number) else { return };
                (lookupd.is_asked, lookupd.is_slow) = (false, is_slow);
                match self.apis.found(number, nodes) {
                    Ok(()) => (lookupd.answered, lookupd.error) = (Some(Instant::now()), None),
                    Err(error) => lookupd.error = Some(error),
                }
            }
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // the program ends
            Err(_) => {}
        }
    }

    /// Asks the nsqlookupds that are due for their nsqds.
    fn ask_lookupds(&mut self) {
        for (number, lookupd) in self.lookupds.iter_mut().enumerate() {
            let Some(api) = self.apis.lookupds().get(number).filter(|_| !lookupd.is_asked) else { continue };
            if !self.apis.is_due(number) {
                continue;
            }
            lookupd.is_asked = true;
            let (api, grace) = (api.clone(), self.grace);
            self.requests.spawn(async move {
                let begun = Instant::now();
                let nodes = api.nodes().await;
                PeerAnswer::Lookupd { number, is_slow: begun.elapsed() > grace, nodes }
            });
        }
    }

    /// Asks the nsqds that are not asked already.
    fn ask_nsqds(&mut self) {
        self.order = self.apis.all_nsqds();
        let mut before = std::mem::take(&mut self.nsqds);
        for api in &self.order {
            let address = api.to_string();
            let mut nsqd = before.remove(&address).unwrap_or_default();
            if !nsqd.is_asked {
                nsqd.is_asked = true;
                let (apis, api, filter, grace) = (self.apis.clone(), api.clone(), self.filter.clone(), self.grace);
                // a slow one must not keep a prompt one from being asked
                let turns = (!nsqd.is_slow).then(|| self.turns.clone());
                self.requests.spawn(async move {
                    let turn = match turns {
                        Some(turns) => turns.acquire_owned().await.ok(),
                        None => None,
                    };
                    let begun = Instant::now();
                    let mut asking = Box::pin(apis.ask(&api, &filter));
                    let answer = match timeout(grace, &mut asking).await {
                        Ok(answer) => answer,
                        Err(_) => {
                            drop(turn);
                            asking.await
                        }
                    };
                    PeerAnswer::Nsqd { address: api.to_string(), is_slow: begun.elapsed() > grace, answer }
                });
            }
            self.nsqds.insert(address, nsqd);
        }
    }

    /// Returns the answers that count now.
    fn state(&mut self) -> ClusterState {
        let now = Instant::now();
        let mut states = Vec::with_capacity(self.order.len());
        for api in &self.order {
            let address = api.to_string();
            let nsqd = self.nsqds.entry(address.clone()).or_default();
            let (answer, at) = match (nsqd.error.take(), &nsqd.last) {
                (Some(error), _) => (Err(error), now),
                (None, Some((answer, at))) if !nsqd.is_asked || now - *at <= MAX_AGE => (Ok(answer.clone()), *at),
                (None, _) => (Err(late("nsqd", address)), now),
            };
            states.push(NsqdState { api: api.clone(), answer, at });
        }
        keep_first_of_each(&mut states);
        let lookupd_errors = self.lookupds.iter_mut().enumerate().filter_map(|(number, lookupd)| {
            let is_known = lookupd.answered.is_some_and(|at| now - at <= 2 * MAX_AGE);
            let late = || Some(late("nsqlookupd", self.apis.lookupds().get(number)?.to_string()));
            lookupd.error.take().or_else(|| late().filter(|_| lookupd.is_asked && !is_known))
        });
        ClusterState { nsqds: states, lookupd_errors: lookupd_errors.collect(), at: now }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;

    const GRACE: Duration = Duration::from_millis(200);

    /// Answers requests as an nsqd with this topic, when `may_answer` says so; returns its address.
    async fn nsqd(topic: &'static str, may_answer: watch::Receiver<bool>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut may_answer = may_answer.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        may_answer.wait_for(|may| *may).await.unwrap();
                        let port = stream.local_addr().unwrap().port();
                        let body = format!(
                            r#"{{"version":"1","start_time":{port},"http_port":{port},"hostname":"h","topics":[{{"topic_name":"{topic}","channels":[],"depth":1,"message_count":1}}]}}"#
                        );
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all((head + &body).as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn topics(state: &ClusterState) -> Vec<Option<String>> {
        let first = |nsqd: &NsqdState| Some(nsqd.stats()?.topics.first()?.name.to_string());
        state.nsqds.iter().map(first).collect()
    }

    #[tokio::test]
    async fn a_silent_nsqd_delays_the_first_observation_alone_and_counts_when_it_answers() {
        let (open, answers) = watch::channel(true);
        let (gate, gated) = watch::channel(false);
        let addresses = [nsqd("a", answers.clone()).await, nsqd("b", gated).await, nsqd("c", answers).await];
        let apis = ClusterApis::new(addresses.iter().map(|it| it.parse().unwrap()).collect(), Vec::new());
        let mut observer = ClusterObserver::new(apis, StatsFilter::default(), GRACE);
        let shown = |names: [Option<&str>; 3]| names.map(|name| name.map(str::to_owned)).to_vec();
        let begun = Instant::now();
        let first = observer.next().await;
        assert_eq!(topics(&first), shown([Some("a"), None, Some("c")]));
        assert!(begun.elapsed() >= GRACE, "it may have answered");
        let error = first.errors().next().unwrap().to_string();
        assert_eq!(error, format!("cannot reach nsqd at {}: no answer in time", addresses[1]));
        let before = first.nsqds[0].at;
        let mut others = 0;
        // they are asked anew each time, and nothing waits for the silent one
        while others < 20 {
            let begun = Instant::now();
            let state = observer.next().await;
            assert_eq!(topics(&state), shown([Some("a"), None, Some("c")]));
            assert!(state.nsqds[0].at > before);
            others += u32::from(begun.elapsed() < GRACE);
        }
        gate.send_replace(true);
        while topics(&observer.next().await)[1].is_none() {
            tokio::task::yield_now().await;
        }
        // it is late again, and its last answer counts
        gate.send_replace(false);
        let state = observer.next().await;
        assert_eq!(topics(&state), shown([Some("a"), Some("b"), Some("c")]));
        drop(open);
    }
}
