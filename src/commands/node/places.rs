//! Where the token and the beats are, and how connections for them are made.

use std::time::Duration;

use super::line::Opening;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::node::args::Args;
use mqueue::client::{Address, ConnectConfig, Error, Nsqd, PublishingSubscription, StatsFilter};
use mqueue::proto::{ChannelName, ErrorCode, Identify, TopicName};
use mqueue::wake::fleet;

/// A claim, and some of a lead, fit into half of max-msg-timeout.
const LEASES: u32 = 8;
/// Longer than a message is between two places.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The token's nsqd, and the names of what is there.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) nsqd: Address,
    http: Nsqd,
    pub(super) token: TopicName,
    channel: ChannelName,
    pub(super) beats: TopicName,
    lease: Duration,
    connect: ConnectConfig,
}

impl Places {
    /// By the flags. Fails if there is no address, or a name is too long.
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let usage = |line: String| Failure::new(Exit::Usage, line);
        let nsqd = args.token.token_nsqd_tcp_address.clone().or_else(|| args.broker.nsqd().into_iter().next());
        let nsqd =
            nsqd.ok_or_else(|| usage("which nsqd has the token? name one with --token-nsqd-tcp-address".into()))?;
        let http = args.token.token_nsqd_http_address.clone().or_else(|| args.broker.nsqd_http().into_iter().next());
        let http = http.ok_or_else(|| {
            usage(format!(
                "what is the HTTP address of the token's nsqd, {nsqd}? name it with --token-nsqd-http-address"
            ))
        })?;
        let named = args.token.token_stream.as_ref();
        let too_long = |e| usage(format!("{e}: name a shorter stream for the token with --token-stream"));
        let token = named.map_or_else(|| TopicName::new(&format!("{}.token", args.stream)), |named| Ok(named.clone()));
        let token = token.map_err(too_long)?;
        let beats = TopicName::new(&format!("{token}.beats")).map_err(too_long)?;
        let channel = ChannelName::new(fleet::TOKEN).expect("a valid name");
        let lease = args.ping_interval;
        Ok(Self { nsqd, http, token, channel, beats, lease, connect: connect_config(lease) })
    }

    /// The connection for the token. Fails if nsqd does not let a message be out for long enough.
    pub(super) async fn open_token(&self) -> Result<PublishingSubscription, Failure> {
        let short = || {
            let line = format!(
                "the ping interval is too long: nsqd at {} takes an eighth of its --max-msg-timeout at the most; use a shorter --ping-interval",
                self.nsqd
            );
            Failure::new(Exit::Usage, line)
        };
        let duplex = self.token_line().await.map_err(|error| match &error {
            Error::Refused { source, .. } if source.code == ErrorCode::BadBody => short(),
            error => Failure::unavailable(error),
        })?;
        let longest = Duration::from_millis(duplex.granted().max_msg_timeout);
        if LEASES * self.lease > longest { Err(short()) } else { Ok(duplex) }
    }

    /// Another connection for the token.
    pub(super) fn token_line(&self) -> Opening {
        let Self { nsqd, connect, token, channel, .. } = self.clone();
        Box::pin(async move { PublishingSubscription::connect(&nsqd, &connect, token, channel).await })
    }

    /// A connection that hears every beat from now on: its channel is new, and nobody else's.
    pub(super) fn ears_line(&self) -> Opening {
        let Self { nsqd, connect, beats, .. } = self.clone();
        let channel = format!("node-{:016x}#ephemeral", super::event::rng().u64(..));
        let channel = ChannelName::new(&channel).expect("a valid name");
        Box::pin(async move { PublishingSubscription::connect(&nsqd, &connect, beats, channel).await })
    }

    /// How many tokens there are, in flight or not. nsqd counts in passing: one that is just being delivered or touched may be in neither
    /// place, so the greater of two counts is taken.
    pub(super) async fn count(self) -> Option<u64> {
        let first = self.look().await?;
        tokio::time::sleep(BETWEEN_LOOKS).await;
        Some(first.max(self.look().await?))
    }

    async fn look(&self) -> Option<u64> {
        let filter = StatsFilter::default().with_topic(&self.token);
        let stats = match self.http.stats(&filter).await {
            Ok(stats) => stats,
            Err(error) => {
                tracing::warn!("cannot see whether there is a token: {error}");
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

/// The token is out for a lease at a time. nsqd closes a connection that is silent for two heartbeats, so what was long on its way is refused.
fn connect_config(lease: Duration) -> ConnectConfig {
    let millis = |time: Duration| i64::try_from(time.as_millis()).ok();
    let identify = Identify {
        hostname: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
        heartbeat_interval: millis((lease / 4).clamp(Duration::from_secs(1), Duration::from_secs(30))),
        msg_timeout: millis(lease),
        fence: true,
        // a lone message at once
        output_buffer_size: Some(-1),
        ..ConnectConfig::default().identify
    };
    let connect_timeout = lease.clamp(Duration::from_secs(1), Duration::from_secs(5));
    ConnectConfig::default().with_identify(identify).with_connect_timeout(connect_timeout)
}
