//! Broker and consumer asleep: a message starts both, and no process is left.
//!
//! ```text
//!  orders ─▶ tcp socket ─▶ broker ─▶ reports.sock ─▶ consumer
//!              held         exits      held            exits
//! ```
//!
//! This process holds the sockets in place of systemd, and is the only one while both sleep.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::activator::Activator;
use super::children::{ChildStarter, DemoEvent};
use super::output::DemoOutput;
use super::{ASLEEP, MAX_WAIT, STREAM};
use crate::commands::common::embedded_broker::TempFolder;
use mqueue::client::{Address, Publisher, PublisherConfig};
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;

/// The number of messages, each of which finds all asleep.
const MESSAGES: u64 = 2;

/// The source of the lines about both.
const BOTH: &str = "asleep";
const BROKER: &str = "broker";

/// The wakes that were shown.
#[derive(Debug, Default)]
pub(super) struct AllAsleepStats {
    published: u64,
    /// The time from publishing to handled of each message.
    pub(super) wakes: Vec<Duration>,
}

impl AllAsleepStats {
    /// Counts the messages that the broker acknowledged and nobody handled.
    pub(super) fn lost(&self) -> u64 {
        self.published - self.wakes.len() as u64
    }
}

/// An event of broker or consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SleeperEvent {
    Started(&'static str),
    Ended(&'static str),
}

/// Plays all messages, until the first signal.
pub(super) async fn show(output: &DemoOutput, shutdown: &Shutdown) -> anyhow::Result<AllAsleepStats> {
    let folder = TempFolder::new("mqueue-asleep")?;
    let listen = || TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    let (tcp, http) = (listen()?, listen()?);
    let addresses = [tcp.local_addr()?.to_string(), http.local_addr()?.to_string()];
    let (event_sender, orders) = unbounded_channel();
    let (sleeper_sender, sleepers) = unbounded_channel();
    let starter = |events| ChildStarter::new(&addresses[0], &addresses[1], events);
    let (of_broker, of_consumer) = (starter(event_sender.clone())?, starter(event_sender)?);
    let broker = Activator::of(vec![OwnedFd::from(tcp), OwnedFd::from(http)]);
    let consumer = Activator::hold(&folder.path().join(format!("{ASLEEP}.sock")))?;

    let stop = CancellationToken::new();
    let tell = |name| {
        let sender = sleeper_sender.clone();
        move |runs| {
            let _ = sender.send(if runs { SleeperEvent::Started(name) } else { SleeperEvent::Ended(name) });
        }
    };
    let path = folder.path().to_owned();
    let start_broker =
        move |sockets: &[OwnedFd]| of_broker.sleeping_broker(sockets[0].try_clone()?, sockets[1].try_clone()?, &path);
    let start_consumer = move |sockets: &[OwnedFd]| of_consumer.sleeper(sockets[0].try_clone()?);
    let activators = [
        tokio::spawn(broker.serve(start_broker, tell(BROKER), stop.clone())),
        tokio::spawn(consumer.serve(start_consumer, tell(ASLEEP), stop.clone())),
    ];
    // the first connection to the broker
    starter(unbounded_channel().0)?.make_group(&addresses[1], ASLEEP).await?;
    let mut show = AllAsleep { output, orders, sleepers, running: Vec::new(), stats: AllAsleepStats::default() };
    let address: Address = addresses[0].parse().expect("the address of a listener");
    let played = tokio::select! {
        played = show.play(&address) => played,
        () = shutdown.draining.cancelled() => Ok(()),
    };
    stop.cancel();
    for activator in activators {
        let _ = activator.await;
    }
    played.map(|()| show.stats)
}

/// State of the show.
struct AllAsleep<'a> {
    output: &'a DemoOutput,
    orders: UnboundedReceiver<DemoEvent>,
    sleepers: UnboundedReceiver<SleeperEvent>,
    running: Vec<&'static str>,
    stats: AllAsleepStats,
}

impl AllAsleep<'_> {
    async fn play(&mut self, broker: &Address) -> anyhow::Result<()> {
        let asleep = async { while self.sleepers.recv().await != Some(SleeperEvent::Ended(BROKER)) {} };
        timeout(MAX_WAIT, asleep).await.context("the broker does not fall asleep")?;
        self.output.line(BOTH, "broker and consumer sleep; this program holds their sockets, as systemd would");
        for order in 0..MESSAGES {
            self.tell_processes();
            self.output.line(STREAM, "1 message, to the broker's socket");
            let published = Instant::now();
            let publisher = Publisher::connect(std::slice::from_ref(broker), PublisherConfig::default()).await?;
            publisher.publish(&TopicName::new(STREAM)?, format!("{{\"order\":{order}}}")).await?;
            self.stats.published += 1;
            publisher.close().await;
            if timeout(MAX_WAIT, self.watch(order, published)).await.is_err() {
                self.output.line(BOTH, "not handled, or still awake");
                return Ok(());
            }
        }
        self.tell_processes();
        Ok(())
    }

    fn tell_processes(&self) {
        let text = match self.running.len() {
            1 => "1 process".to_owned(),
            many => format!("{many} processes"),
        };
        self.output.line(BOTH, &text);
    }

    /// Waits until the order is handled, and both sleep again.
    async fn watch(&mut self, order: u64, published: Instant) {
        let mut is_handled = false;
        while !is_handled || !self.running.is_empty() {
            tokio::select! {
                biased;
                Some(event) = self.sleepers.recv() => self.note(event),
                Some(event) = self.orders.recv() => {
                    if event == (DemoEvent::Reported { order }) && !is_handled {
                        is_handled = true;
                        self.stats.wakes.push(published.elapsed());
                        let after = published.elapsed().as_millis();
                        self.output.line(ASLEEP, &format!("handled {after} ms after publishing began"));
                    }
                }
            }
        }
    }

    fn note(&mut self, event: SleeperEvent) {
        match event {
            SleeperEvent::Started(name) => {
                self.running.push(name);
                let line = if name == BROKER { "started by the connection" } else { "started by the broker's poke" };
                self.output.line(name, line);
            }
            SleeperEvent::Ended(name) => {
                self.running.retain(|running| *running != name);
                let line = if name == BROKER { "no client for 1 s: gone" } else { "idle for 1 s: gone" };
                self.output.line(name, line);
            }
        }
    }
}
