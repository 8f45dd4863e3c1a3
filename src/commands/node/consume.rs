//! The consumer: handles events while this node does not generate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::event::{self, GeneratedEvent};
use super::expvar::NodeVars;
use super::lease;
use crate::commands::common::broker_args::Args as Brokers;
use crate::commands::common::exit::Failure;
use crate::commands::common::metrics::group_meter::{self, GroupMeter};
use crate::commands::common::notice::Notice;
use crate::commands::common::retry_stream;
use crate::commands::common::worker_flags;
use crate::commands::node::args::Args;
use mqueue::backoff::Backoff;
use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::handler::{BuiltinHandler, Handler, Verdict};
use mqueue::plural::count;
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

/// Handles events. Messages that are not events are invalid, and so is a random share of the
/// events.
#[derive(Debug)]
pub(super) struct EventHandler {
    handler: BuiltinHandler,
    invalid: f64,
    vars: Arc<NodeVars>,
    /// True if events of other programs count, too.
    takes_others: bool,
}

impl EventHandler {
    pub(super) fn new(handler: BuiltinHandler, invalid: f64, vars: Arc<NodeVars>, takes_others: bool) -> Self {
        Self { handler, invalid, vars, takes_others }
    }
}

impl Handler for EventHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let event = GeneratedEvent::parse(&message.body);
        if let Some(event) = event {
            let published = u64::try_from(message.timestamp / 1_000_000).unwrap_or(0);
            if lease::is_plausible(event.epoch, published) {
                self.vars.seen_epoch.fetch_max(event.epoch, Ordering::Relaxed);
            }
        }
        let why = match event {
            None if !(self.takes_others && event::begins_with_uuid(&message.body)) => {
                "invalid: not an event (UUID TIMESTAMP EPOCH SEQUENCE)"
            }
            _ if fastrand::f64() < self.invalid => "invalid, by chance",
            _ => {
                let verdict = self.handler.handle(message).await;
                self.vars.handled.fetch_add(u64::from(matches!(verdict, Verdict::Done(_))), Ordering::Relaxed);
                return verdict;
            }
        };
        self.vars.invalid.fetch_add(1, Ordering::Relaxed);
        Verdict::drop(why)
    }
}

/// The settings of the consumer and its worker.
#[derive(Debug)]
pub(super) struct ConsumePlan {
    consumer: ConsumerConfig,
    worker: WorkerConfig,
    broker: Brokers,
    /// `None` if no metrics are served.
    meter: Option<Arc<GroupMeter>>,
}

impl ConsumePlan {
    pub(super) fn new(args: &Args, meter: Option<Arc<GroupMeter>>) -> Result<Self, Failure> {
        let mut consumer = worker_flags::consumer_config(&args.stream, &args.group, &args.broker, &args.tuning);
        consumer.flow.max_in_flight = args.concurrency;
        let worker = worker_flags::worker_config(&args.stream, &args.failing, args.broker.connect())?;
        let worker = worker.with_concurrency(args.concurrency as usize);
        Ok(Self { consumer, worker, broker: args.broker.clone(), meter })
    }
}

/// Handles events whenever this node does not generate, until shutdown.
pub(super) async fn run(
    plan: ConsumePlan,
    handler: Arc<EventHandler>,
    mut leads: watch::Receiver<bool>,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::Rng::new());
    let away = Notice::default();
    while !shutdown.draining.is_cancelled() {
        tokio::select! {
            () = wait_for_lead(&mut leads, false) => {}
            () = shutdown.draining.cancelled() => break,
        }
        let consumer = tokio::select! {
            connected = Consumer::connect(plan.consumer.clone()) => connected,
            () = shutdown.draining.cancelled() => break,
        };
        match consumer {
            Ok(consumer) => {
                backoff.reset();
                away.ends();
                consume(consumer, &plan, handler.clone(), &mut leads, &shutdown).await?;
            }
            Err(error) => {
                if away.begins() {
                    tracing::warn!("cannot consume, trying again: {error}");
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next().unwrap_or_default()) => {}
                    () = shutdown.draining.cancelled() => break,
                }
            }
        }
    }
    Ok(())
}

/// Waits until this node leads, or does not. Drops the borrowed value at once: it would block the
/// sender.
pub(super) async fn wait_for_lead(leads: &mut watch::Receiver<bool>, wanted: bool) {
    if leads.wait_for(|leads| *leads == wanted).await.is_err() {
        // the node shuts down, which the worker notices by its own token
        std::future::pending().await
    }
}

/// Consumes until this node generates or shuts down. Events being handled are finished in both
/// cases.
async fn consume(
    consumer: Consumer,
    plan: &ConsumePlan,
    handler: Arc<EventHandler>,
    leads: &mut watch::Receiver<bool>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    tracing::info!(stream = %consumer.topic(), group = %consumer.channel(), "consuming");
    let (stream, group) = (consumer.topic().clone(), consumer.channel().clone());
    // the task ends with this consumer
    tokio::spawn(retry_stream::follow(consumer.control(), plan.broker.clone(), stream, group));
    let control = consumer.control();
    let stopping = Shutdown { draining: shutdown.draining.child_token(), now: shutdown.now.clone() };
    let worker = Worker::new(consumer, handler, plan.worker.clone())
        .map_err(|e| Failure::new(crate::commands::common::exit::Exit::Usage, e))?;
    let worker = group_meter::measured(worker, control, plan.meter.as_deref());
    let mut working = std::pin::pin!(worker.run(&stopping));
    let (_, tally) = tokio::select! {
        done = &mut working => done,
        () = wait_for_lead(leads, true) => {
            stopping.draining.cancel();
            working.await
        }
    };
    tracing::info!(
        "no longer consuming: {} done, {}, {} requeued",
        tally.done,
        count(tally.dead, "dead letter"),
        tally.released
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_for_the_lead_does_not_block_the_next_change() {
        let (leading, mut leads) = watch::channel(true);
        tokio::select! {
            () = wait_for_lead(&mut leads, true) => drop(leading.send_replace(false)),
        }
        wait_for_lead(&mut leads, false).await;
    }

    #[tokio::test]
    async fn other_messages_and_a_share_of_the_events_are_invalid() {
        let event = GeneratedEvent::new(&mut fastrand::Rng::with_seed(1), 5, 1).to_string();
        for (body, share, valid) in [("x", 0.0, false), (event.as_str(), 1.0, false), (event.as_str(), 0.0, true)] {
            let vars = Arc::new(NodeVars::default());
            let (stream, group) = ("foo".parse().unwrap(), "1".parse().unwrap());
            let (timeout, shutdown) = (Duration::from_secs(1), Shutdown::new());
            let options =
                worker_flags::handler_options(&stream, &group, timeout, Vec::new(), Default::default(), &shutdown);
            let handler = "sleep:0ms".parse::<mqueue::handler::HandlerSpec>().unwrap().build(&options).unwrap();
            let handler = EventHandler::new(handler, share, vars.clone(), false);
            let id = mqueue::proto::MessageId(*b"0123456789abcdef");
            let message = Message { timestamp: 0, attempts: 1, id, body: body.to_owned().into() };
            let verdict = handler.handle(message).await;
            assert_eq!(matches!(verdict, Verdict::Done(_)), valid, "{body} {share}: {verdict:?}");
            assert_eq!(vars.invalid.load(Ordering::Relaxed), u64::from(!valid));
        }
    }
}
