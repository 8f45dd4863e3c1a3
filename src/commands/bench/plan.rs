//! The plan of a run: checked numbers. Two runs with the same plan can be compared.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::commands::bench::args::{Args, BenchMode};
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::client::ClientBackend;
use mqueue::plural::count;

/// Default measured time.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// Default number of messages that `consume` fills the stream with before draining it.
const DEFAULT_MESSAGES: u64 = 1_000_000;
/// Limit on the bytes that a closed loop has unacknowledged.
const MAX_UNACKNOWLEDGED_BYTES: u64 = 1 << 30;

/// The load of a run. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BenchPlan {
    pub(super) what: BenchMode,
    /// Name of the client library.
    pub(super) client: String,
    /// Messages a second of an open loop; `None` for a closed loop.
    pub(super) rate: Option<f64>,
    /// Bytes of a message.
    pub(super) size: u32,
    pub(super) batch: u32,
    pub(super) connections: u32,
    /// Unacknowledged batches per connection in a closed loop.
    pub(super) window: u32,
    pub(super) max_in_flight: u32,
    pub(super) duration: Option<f64>,
    /// Number of messages to measure.
    pub(super) messages: Option<u64>,
    pub(super) warm_up: f64,
}

impl BenchPlan {
    /// Makes a plan from the arguments. Fails for a load that makes no sense.
    pub(super) fn checked(args: &Args) -> Result<Self, Failure> {
        let (what, load) = (args.what, &args.load);
        let usage = |line: String| Err(Failure::new(Exit::Usage, line));
        if what == BenchMode::Consume && load.rate.is_some() {
            return usage("--rate has no meaning for consume, which drains what is there: use both".to_owned());
        }
        let window = load.window.unwrap_or(1);
        let unacknowledged = [load.size, load.batch, load.connections, window].map(u64::from);
        let bytes = unacknowledged.into_iter().fold(1, u64::saturating_mul);
        if bytes > MAX_UNACKNOWLEDGED_BYTES {
            let line = "invalid load: size × batch × connections × window is";
            return usage(format!(
                "{line} {bytes} bytes unacknowledged at once: use at most {MAX_UNACKNOWLEDGED_BYTES}"
            ));
        }
        let is_consume = what == BenchMode::Consume;
        let until_done = is_consume || load.messages.is_some();
        let warm_up = if is_consume { Duration::ZERO } else { Duration::from_secs(1) };
        Ok(Self {
            what,
            client: args.client.backend().name().to_owned(),
            rate: load.rate,
            size: load.size,
            batch: load.batch,
            connections: load.connections,
            window,
            max_in_flight: load.max_in_flight,
            duration: load.duration.or((!until_done).then_some(DEFAULT_DURATION)).map(|time| time.as_secs_f64()),
            messages: load.messages.or(is_consume.then_some(DEFAULT_MESSAGES)),
            warm_up: load.warm_up.unwrap_or(warm_up).as_secs_f64(),
        })
    }

    /// The measured time, if the run ends by time.
    pub(super) fn duration(&self) -> Option<Duration> {
        self.duration.map(Duration::from_secs_f64)
    }

    /// The time that the load runs before measuring starts.
    pub(super) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    /// Returns true if messages are published during the measured time.
    pub(super) fn publishes(&self) -> bool {
        self.what != BenchMode::Consume
    }

    /// Returns true if messages are consumed during the measured time.
    pub(super) fn consumes(&self) -> bool {
        self.what != BenchMode::Publish
    }

    /// Describes the plan in one line.
    pub(super) fn describe(&self) -> String {
        let Self { size, batch, connections, window, .. } = self;
        let what = match self.what {
            BenchMode::Publish => "publish",
            BenchMode::Consume => "consume",
            BenchMode::Both => "publish and consume",
        };
        let pace = match (self.rate, self.what) {
            (Some(rate), _) => format!("open loop of {rate} messages/s, "),
            (None, BenchMode::Consume) => format!("{}, ", count(self.messages.unwrap_or(DEFAULT_MESSAGES), "message")),
            (None, _) => "closed loop, ".to_owned(),
        };
        let together = if self.publishes() { format!(" in batches of {batch}") } else { String::new() };
        let windows = if *window > 1 { format!(", {window} batches unacknowledged each") } else { String::new() };
        let flight = if self.consumes() { format!(", max-in-flight {}", self.max_in_flight) } else { String::new() };
        let connections = count(*connections, "connection");
        let client =
            if self.client == ClientBackend::Own.name() { String::new() } else { format!(", by {}", self.client) };
        format!("{what}: {pace}{size} B{together}, {connections}{windows}{flight}{client}")
    }
}
