//! Probes nsqlookupds and nsqds.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime};

use futures_util::future::{join, join_all};
use tokio::time::timeout;

use crate::commands::common::broker_args;
use crate::commands::doctor::observed::{
    ClockSkew, DeadLetterGrowth, LookupdEntry, NsqdReport, Observed, ProbedHttp, ProbedLookupd, ProbedTcp, TcpFailure,
};
use mqueue::client::{Address, ConnectConfig, Error, HttpError, Nsqd, StatsFilter, authenticate};
use mqueue::io_error::describe;
use mqueue::proto::TopicName;
use mqueue::proto::stats::{Producer, Stats};
use mqueue::worker::DeadLetter;

/// Probes every given broker, and every nsqd that an nsqlookupd lists.
pub(super) async fn ask(args: &broker_args::Args, deadline: Duration) -> Observed {
    let connect = args.connect();
    let mut lookupds = Vec::new();
    // an nsqd that is given by HTTP alone reports its TCP port
    let named = if args.nsqd_http_address.is_empty() { args.nsqd() } else { args.nsqd_tcp_address.clone() };
    let mut tcp: BTreeMap<Address, Option<LookupdEntry>> = named.into_iter().map(|address| (address, None)).collect();
    let mut http: BTreeMap<String, (Nsqd, Option<LookupdEntry>)> = BTreeMap::new();
    for nsqd in args.nsqd_http() {
        http.insert(nsqd.to_string(), (nsqd, None));
    }
    let asked = args.lookupd_http_address.iter().map(|lookupd| async move {
        let both = async { Ok::<_, HttpError>((lookupd.info().await?.version, lookupd.nodes().await?.producers)) };
        (lookupd.to_string(), within(deadline, both).await)
    });
    for (address, answer) in join_all(asked).await {
        let (answer, producers) = match answer {
            Ok((version, producers)) => (Ok(version), producers),
            Err(why) => (Err(why), Vec::new()),
        };
        for producer in &producers {
            let listed = Some(listed(&address, producer));
            if let Ok(address) = producer.tcp_address().parse() {
                tcp.entry(address).or_insert_with(|| listed.clone());
            }
            if let Some(nsqd) = args.http_api(&producer.http_address()) {
                http.entry(nsqd.to_string()).or_insert((nsqd, listed));
            }
        }
        lookupds.push(ProbedLookupd { address, answer, nsqds: producers.len() });
    }
    let https = join_all(http.into_values().map(|(nsqd, listed)| ask_http(nsqd, listed, deadline)));
    let tcps = join_all(tcp.clone().into_iter().map(|(address, listed)| ask_tcp(address, listed, &connect, deadline)));
    let (http, mut seen) = join(https, tcps).await;
    // the ports that only /info reports
    let reported = http.iter().filter_map(|http| Some((http.answer.as_ref().ok()?.tcp.clone()?, http.listed.clone())));
    let reported: BTreeMap<Address, Option<LookupdEntry>> = reported.collect();
    let more = reported.into_iter().filter(|(address, _)| !tcp.contains_key(address));
    seen.extend(join_all(more.map(|(address, listed)| ask_tcp(address, listed, &connect, deadline))).await);
    Observed { lookupds, http, tcp: seen, ..Observed::default() }
}

fn listed(lookupd: &str, producer: &Producer) -> LookupdEntry {
    let from = producer.remote_address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
    LookupdEntry { lookupd: lookupd.to_owned(), from, answers_there: false }
}

async fn ask_http(nsqd: Nsqd, mut listed: Option<LookupdEntry>, deadline: Duration) -> ProbedHttp {
    let address = nsqd.to_string();
    let answer = within(deadline, probe_nsqd(&nsqd)).await;
    if let (Err(_), Some(listed)) = (&answer, &mut listed) {
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        if let (false, Ok(there)) =
            (address.starts_with(&listed.from), format!("{}:{port}", listed.from).parse::<Nsqd>())
        {
            listed.answers_there = within(deadline, there.ping()).await.is_ok();
        }
    }
    let url = nsqd.url();
    let address = url.strip_prefix("http://").unwrap_or(&url).to_owned();
    ProbedHttp { address, listed, answer }
}

async fn probe_nsqd(nsqd: &Nsqd) -> Result<NsqdReport, HttpError> {
    let info = nsqd.info().await?;
    // the connection exists by now, so the clock is read within one round trip
    let asked = SystemTime::now();
    let date = nsqd.clock().await?;
    let skew = ClockSkew::of(date, asked, SystemTime::now());
    let stats = nsqd.stats(&StatsFilter::default()).await?;
    let tcp = nsqd.tcp_address(&info);
    Ok(NsqdReport { version: info.version, skew, tcp, stats })
}

async fn ask_tcp(
    address: Address,
    mut listed: Option<LookupdEntry>,
    config: &ConnectConfig,
    deadline: Duration,
) -> ProbedTcp {
    let config = config.clone().with_connect_timeout(deadline).with_max_frame(1 << 20);
    let ask = |address: Address| {
        let config = &config;
        async move {
            match timeout(deadline, authenticate(&address, config)).await {
                Ok(answer) => answer.map_err(TcpFailure::from),
                Err(_) => Err(late(deadline).into()),
            }
        }
    };
    let answer = ask(address.clone()).await;
    if let (Err(_), Some(listed)) = (&answer, &mut listed) {
        let there = format!("{}:{}", listed.from, address.port()).parse().ok().filter(|there| *there != address);
        if let Some(there) = there {
            listed.answers_there = ask(there).await.is_ok();
        }
    }
    ProbedTcp { address, listed, answer }
}

/// Probes the streams of dead letters again, `after` the first time; `None` if there are none.
pub(super) async fn watch(
    args: &broker_args::Args,
    observed: &Observed,
    after: Duration,
    deadline: Duration,
) -> Option<DeadLetterGrowth> {
    if after.is_zero() || !observed.streams().any(|(_, stream, _)| DeadLetter::is_stream(stream.as_str())) {
        return None;
    }
    let begin = tokio::time::Instant::now();
    tokio::time::sleep(after).await;
    let again = observed.answers().filter_map(|(http, before)| Some((args.http_api(&http.address)?, before)));
    let looks = join_all(again.map(|(nsqd, before)| async move {
        let now = within(deadline, nsqd.stats(&StatsFilter::default())).await.ok()?;
        // a restarted nsqd counts from 0
        (now.start_time == before.stats.start_time).then(|| new_letters(&before.stats, &now))
    }));
    let mut growth = DeadLetterGrowth::default();
    for (stream, number) in looks.await.into_iter().flatten().flatten() {
        let new_letters = growth.came.entry(stream).or_default();
        *new_letters = new_letters.saturating_add(number);
    }
    growth.over = begin.elapsed();
    Some(growth)
}

/// Returns the number of dead letters that came to each stream between two answers of one nsqd.
fn new_letters(before: &Stats, now: &Stats) -> Vec<(TopicName, u64)> {
    let count = |stats: &Stats, name: &str| {
        stats.topics.iter().find(|topic| topic.topic_name == name).map_or(0, |topic| topic.message_count)
    };
    let dead = now.topics.iter().filter_map(|topic| TopicName::new(&topic.topic_name).ok());
    dead.filter(|stream| DeadLetter::is_stream(stream.as_str()))
        .map(|stream| {
            let name = stream.as_str();
            let number = count(now, name).saturating_sub(count(before, name));
            (stream, number)
        })
        .collect()
}

/// Returns the reason of a failed request without the address, which the finding has already.
fn failure_text(error: HttpError) -> String {
    match error {
        HttpError::Unreachable { reason, .. } => reason,
        other => other.to_string(),
    }
}

impl From<Error> for TcpFailure {
    fn from(error: Error) -> Self {
        let is_refusal = error.is_refusal();
        let why = match error {
            Error::Unreachable { source, .. } => describe(&source),
            Error::Security { reason, .. } => reason,
            Error::Refused { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        Self { why, is_refusal }
    }
}

async fn within<T>(deadline: Duration, asking: impl Future<Output = Result<T, HttpError>>) -> Result<T, String> {
    match timeout(deadline, asking).await {
        Ok(answer) => answer.map_err(failure_text),
        Err(_) => Err(late(deadline)),
    }
}

/// Describes a deadline that has passed.
pub(super) fn late(deadline: Duration) -> String {
    format!("no answer within {deadline:?}")
}
