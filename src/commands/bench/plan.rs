//! The plan of a run: checked numbers. Two runs with the same plan can be compared.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::commands::bench::args::{Args, What};
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::client::ClientBackend;
use mqueue::plural::count;

/// Default measured time.
const DURATION: Duration = Duration::from_secs(10);
/// Default number of messages that `consume` fills the stream with before draining it.
const FILLING: u64 = 1_000_000;
/// Limit on the bytes that a closed loop has unacknowledged.
const MOST_BYTES: u64 = 1 << 30;

/// The load of a run. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) what: What,
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

impl Plan {
    /// Makes a plan from the arguments. Fails for a load that makes no sense.
    pub(super) fn checked(args: &Args) -> Result<Self, Failure> {
        let (what, load) = (args.what, &args.load);
        let usage = |line: String| Err(Failure::new(Exit::Usage, line));
        if what == What::Consume && load.rate.is_some() {
            return usage("--rate has no meaning for consume, which drains what is there: use both".to_owned());
        }
        let window = load.window.unwrap_or(1);
        let on_their_way = [load.size, load.batch, load.connections, window].map(u64::from);
        let bytes = on_their_way.into_iter().fold(1, u64::saturating_mul);
        if bytes > MOST_BYTES {
            let line = "invalid load: size × batch × connections × window is";
            return usage(format!("{line} {bytes} bytes on their way at once: make it {MOST_BYTES} at the most"));
        }
        let is_consume = what == What::Consume;
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
            duration: load.duration.or((!until_done).then_some(DURATION)).map(|time| time.as_secs_f64()),
            messages: load.messages.or(is_consume.then_some(FILLING)),
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
        self.what != What::Consume
    }

    /// Returns true if messages are consumed during the measured time.
    pub(super) fn consumes(&self) -> bool {
        self.what != What::Publish
    }

    /// Describes the plan in one line.
    pub(super) fn told(&self) -> String {
        let Self { size, batch, connections, window, .. } = self;
        let what = match self.what {
            What::Publish => "publish",
            What::Consume => "consume",
            What::Both => "publish and consume",
        };
        let pace = match (self.rate, self.what) {
            (Some(rate), _) => format!("open loop of {rate} messages/s, "),
            (None, What::Consume) => format!("{}, ", count(self.messages.unwrap_or(FILLING), "message")),
            (None, _) => "closed loop, ".to_owned(),
        };
        let together = if self.publishes() { format!(" in batches of {batch}") } else { String::new() };
        let windows = if *window > 1 { format!(", {window} batches each on their way") } else { String::new() };
        let flight = if self.consumes() { format!(", max-in-flight {}", self.max_in_flight) } else { String::new() };
        let connections = count(*connections, "connection");
        let client =
            if self.client == ClientBackend::Own.name() { String::new() } else { format!(", by {}", self.client) };
        format!("{what}: {pace}{size} B{together}, {connections}{windows}{flight}{client}")
    }
}
