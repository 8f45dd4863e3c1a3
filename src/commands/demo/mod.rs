//! `mqueue demo`: a demonstration of streams, groups and wake-ups on one machine.
//!
//! ```text
//!  orders ─▶ embedded broker ─┬─▶ mail:     three consumers, awake
//!  (bursts)                   └─▶ reports:  asleep ◀── reports.sock ◀── wakeup
//! ```
//!
//! The broker and the producer run in this process; consumers and wakeup are child processes. An
//! activator holds the socket in place of systemd. At the end a broker of its own sleeps as well
//! ([`all_asleep`]).

mod activator;
mod all_asleep;
pub(crate) mod args;
mod children;
mod output;
mod stats;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use self::activator::Activator;
use self::children::{ChildStarter, DemoEvent};
use self::output::DemoOutput;
use self::stats::DemoStats;
use super::common::embedded_broker::EmbeddedBroker;
use super::common::exit::Exit;
use crate::commands::demo::args::Args;
use mqueue::client::{Address, Publisher, PublisherConfig};
use mqueue::plural::count;
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;

/// The stream and its groups.
const STREAM: &str = "orders";
const AWAKE: &str = "mail";
const ASLEEP: &str = "reports";
/// Number of consumers in the group that stays awake.
const CONSUMERS: usize = 3;
/// Length of a burst of messages, and of the pause in which the group falls asleep.
const BURST_LENGTH: Duration = Duration::from_millis(1500);
const PAUSE_LENGTH: Duration = Duration::from_millis(2500);
/// Longest wait for the consumers to start, and for the last messages.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(MAX_WAIT)?;
    let broker = EmbeddedBroker::start("mqueue-demo").await?;
    let output = DemoOutput::begin();
    let EmbeddedBroker { tcp, http, .. } = &broker;
    output.line("broker", &format!("NSQ's protocol on {tcp}, HTTP on http://{http}/stats"));

    let (event_sender, events) = unbounded_channel();
    let starter = ChildStarter::new(tcp, http, event_sender)?;
    let mut children = (0..CONSUMERS).map(|n| starter.consumer(AWAKE, n)).collect::<Result<Vec<_>, _>>()?;
    let activator = Activator::hold(&broker.folder().join(format!("{ASLEEP}.sock")))?;
    starter.make_group(http, ASLEEP).await?;
    children.push(starter.wakeup(broker.folder())?);
    let woken = starter.events.clone();
    let tell = move |runs| {
        let _ = woken.send(if runs { DemoEvent::Woken } else { DemoEvent::Asleep });
    };
    let start = move |sockets: &[OwnedFd]| starter.sleeper(sockets[0].try_clone()?);
    let sleeper = tokio::spawn(activator.serve(start, tell, shutdown.now.clone()));

    let address: Address = tcp.parse().expect("the address of a listener");
    let publisher = Publisher::connect(&[address], PublisherConfig::default()).await?;
    let mut demo =
        Demo { args, output, stats: DemoStats::new(CONSUMERS), publisher, events, shutdown: shutdown.clone() };
    demo.wait_for_consumers().await;
    demo.play().await;
    demo.finish().await;
    let all_asleep = match demo.is_ending() {
        false => Some(all_asleep::show(&demo.output, &shutdown).await?),
        true => None,
    };

    shutdown.now.cancel();
    for child in children {
        child.end().await;
    }
    let _ = sleeper.await;
    let Demo { output, stats, publisher, .. } = demo;
    publisher.close().await;
    broker.end().await;
    output.summary(&stats, all_asleep.as_ref());
    output.stdout.end()?;
    let lost = stats.lost() + all_asleep.map_or(0, |shown| shown.lost());
    Ok(if lost == 0 { Exit::Success } else { Exit::Failure })
}

/// State of the demo.
struct Demo {
    args: Args,
    output: DemoOutput,
    stats: DemoStats,
    publisher: Publisher,
    events: UnboundedReceiver<DemoEvent>,
    shutdown: Shutdown,
}

impl Demo {
    /// Waits until all consumers of the awake group have subscribed.
    async fn wait_for_consumers(&mut self) {
        let deadline = sleep(MAX_WAIT);
        tokio::pin!(deadline);
        while self.stats.awake < CONSUMERS {
            tokio::select! {
                Some(event) = self.events.recv() => self.note(event),
                () = self.shutdown.draining.cancelled() => return,
                () = &mut deadline => return,
            }
        }
        self.output.line(AWAKE, &format!("{CONSUMERS} consumers are awake"));
        self.output.line(ASLEEP, "asleep: no process, only its socket");
    }

    /// Publishes burst after burst for the requested time.
    async fn play(&mut self) {
        let end = Instant::now() + self.args.duration;
        while Instant::now() < end && !self.is_ending() {
            let rate = self.args.rate;
            self.output
                .line(STREAM, &format!("{} a second for {} s", count(rate, "message"), BURST_LENGTH.as_secs_f64()));
            self.publish(end.min(Instant::now() + BURST_LENGTH)).await;
            self.output.line(STREAM, &self.stats.summary());
            self.wait(end.min(Instant::now() + PAUSE_LENGTH)).await;
        }
    }

    fn is_ending(&self) -> bool {
        self.shutdown.draining.is_cancelled() || self.output.stdout.is_closed()
    }

    async fn publish(&mut self, until: Instant) {
        let topic = TopicName::new(STREAM).expect("a valid name");
        let mut ticks = interval(Duration::from_secs(1) / self.args.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while Instant::now() < until && !self.is_ending() {
            tokio::select! {
                Some(event) = self.events.recv() => self.note(event),
                _ = ticks.tick() => {
                    let order = self.stats.next_order(Instant::now());
                    match self.publisher.publish(&topic, format!("{{\"order\":{order}}}")).await {
                        Ok(()) => self.stats.published(),
                        Err(error) => self.output.line(STREAM, &error.to_string()),
                    }
                }
                () = self.shutdown.draining.cancelled() => return,
            }
        }
    }

    async fn wait(&mut self, until: Instant) {
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => self.note(event),
                () = sleep_until(until.into()) => return,
                () = self.shutdown.draining.cancelled() => return,
            }
        }
    }

    /// Waits until all messages are handled and the sleeping group is asleep again.
    async fn finish(&mut self) {
        let deadline = sleep(MAX_WAIT);
        tokio::pin!(deadline);
        while self.stats.lost() > 0 || self.stats.is_running {
            tokio::select! {
                Some(event) = self.events.recv() => self.note(event),
                () = self.shutdown.now.cancelled() => return,
                () = &mut deadline => return,
            }
        }
    }

    fn note(&mut self, event: DemoEvent) {
        if let Some(line) = self.stats.record(event, Instant::now()) {
            self.output.line(ASLEEP, &line);
        }
    }
}

/// Converts a path to text for a command line.
fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
