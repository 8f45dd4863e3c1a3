//! The topics of the token and of heartbeats, and the connections to them.

use std::time::Duration;

use super::reconnecting::ConnectFuture;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::node::args::Args;
use mqueue::client::{Address, ConnectConfig, Error, Nsqd, PublishingSubscription, StatsFilter};
use mqueue::proto::{ChannelName, ErrorCode, Identify, TopicName};
use mqueue::wake::fleet;

/// The least max-msg-timeout, in leases: a claim and a part of a lead fit into half of it.
const MIN_LEASES: u32 = 8;
/// Delay between two counts: longer than nsqd takes to move a message between two queues.
const RECOUNT_DELAY: Duration = Duration::from_millis(50);

/// The token's nsqd, and its topics and channel there.
#[derive(Debug, Clone)]
pub(super) struct TokenTopics {
    pub(super) nsqd: Address,
    http: Nsqd,
    pub(super) token: TopicName,
    channel: ChannelName,
    pub(super) beats: TopicName,
    lease: Duration,
    connect: ConnectConfig,
}

impl TokenTopics {
    /// Reads the flags. Fails if an address is missing, or a name is too long.
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let usage = |line: String| Failure::new(Exit::Usage, line);
        let nsqd = args.token.token_nsqd_tcp_address.clone().or_else(|| args.broker.nsqd().into_iter().next());
        let nsqd =
            nsqd.ok_or_else(|| usage("the token's nsqd is unknown: name it with --token-nsqd-tcp-address".into()))?;
        let http = args.token.token_nsqd_http_address.clone().or_else(|| args.broker.nsqd_http().into_iter().next());
        let http = http.ok_or_else(|| {
            usage(format!(
                "the HTTP address of the token's nsqd, {nsqd}, is unknown: name it with --token-nsqd-http-address"
            ))
        })?;
        let named = args.token.token_stream.as_ref();
        let too_long = |e| usage(format!("{e}: name a shorter stream for the token with --token-stream"));
        let token = named.map_or_else(|| TopicName::new(&format!("{}.token", args.stream)), |named| Ok(named.clone()));
        let token = token.map_err(too_long)?;
        let beats = TopicName::new(&format!("{token}.beats")).map_err(too_long)?;
        let channel = ChannelName::new(fleet::TOKEN).expect("a valid name");
        let lease = args.ping_interval;
        Ok(Self { nsqd, http, token, channel, beats, lease, connect: connect_config(lease, args.broker.connect()) })
    }

    /// Connects for the token. Fails if nsqd's max-msg-timeout is too short for the ping interval.
    pub(super) async fn connect_checked(&self) -> Result<PublishingSubscription, Failure> {
        let short = || {
            let line = format!(
                "the ping interval is too long: nsqd at {} allows at most an eighth of its --max-msg-timeout; use a shorter --ping-interval",
                self.nsqd
            );
            Failure::new(Exit::Usage, line)
        };
        let duplex = self.connect_token().await.map_err(|error| match &error {
            Error::Refused { source, .. } if source.code == ErrorCode::BadBody => short(),
            error => Failure::unavailable(error),
        })?;
        let longest = Duration::from_millis(duplex.granted().max_msg_timeout);
        if MIN_LEASES * self.lease > longest { Err(short()) } else { Ok(duplex) }
    }

    /// Connects for the token again.
    pub(super) fn connect_token(&self) -> ConnectFuture {
        let Self { nsqd, connect, token, channel, .. } = self.clone();
        Box::pin(async move { PublishingSubscription::connect(&nsqd, &connect, token, channel).await })
    }

    /// Connects to a new channel of the heartbeats, which gets every heartbeat from now on.
    pub(super) fn connect_monitor(&self) -> ConnectFuture {
        let Self { nsqd, connect, beats, .. } = self.clone();
        let channel = format!("node-{:016x}#ephemeral", super::event::rng().u64(..));
        let channel = ChannelName::new(&channel).expect("a valid name");
        Box::pin(async move { PublishingSubscription::connect(&nsqd, &connect, beats, channel).await })
    }

    /// Returns the number of tokens, in flight or not. nsqd's statistics are no snapshot: a token
    /// that is just being delivered or touched may be in neither count. So the greater of two
    /// counts is used.
    pub(super) async fn count(self) -> Option<u64> {
        let first = self.count_once().await?;
        tokio::time::sleep(RECOUNT_DELAY).await;
        Some(first.max(self.count_once().await?))
    }

    async fn count_once(&self) -> Option<u64> {
        let filter = StatsFilter::default().with_topic(&self.token);
        let stats = match self.http.stats(&filter).await {
            Ok(stats) => stats,
            Err(error) => {
                tracing::warn!("cannot count the tokens, trying again later: {error}");
                return None;
            }
        };
        let own = stats.topics.iter().filter(|topic| topic.topic_name == self.token.as_str());
        let counts = own.flat_map(|topic| {
            let channels = topic.channels.iter().filter(|channel| channel.channel_name == self.channel.as_str());
            let held = channels.map(|channel| channel.depth + channel.in_flight_count + channel.deferred_count);
            held.chain([topic.depth]).collect::<Vec<_>>()
        });
        Some(counts.map(|count| u64::try_from(count).unwrap_or(0)).sum())
    }
}

/// Returns the connection's settings. Each TOUCH lasts for one lease. nsqd closes a connection that
/// is silent for two NSQ heartbeats, so it refuses commands that arrive late.
fn connect_config(lease: Duration, connect: ConnectConfig) -> ConnectConfig {
    let millis = |time: Duration| i64::try_from(time.as_millis()).ok();
    let identify = Identify {
        hostname: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
        heartbeat_interval: millis((lease / 4).clamp(Duration::from_secs(1), Duration::from_secs(30))),
        msg_timeout: millis(lease),
        fence: true,
        // send a single message at once
        output_buffer_size: Some(-1),
        ..connect.identify.clone()
    };
    let connect_timeout = lease.clamp(Duration::from_secs(1), Duration::from_secs(5));
    connect.with_identify(identify).with_connect_timeout(connect_timeout)
}
