//! The consumer's side: events are handled while this node does not generate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::event::Event;
use super::lease;
use super::vars::Vars;
use crate::commands::common::broker_args::Args as Brokers;
use crate::commands::common::exit::Failure;
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

/// Handles events; a share of them is invalid, by chance, and so is what is no event.
#[derive(Debug)]
pub(super) struct Work {
    handler: BuiltinHandler,
    invalid: f64,
    vars: Arc<Vars>,
}

impl Work {
    pub(super) fn new(handler: BuiltinHandler, invalid: f64, vars: Arc<Vars>) -> Self {
        Self { handler, invalid, vars }
    }
}

impl Handler for Work {
    async fn handle(&self, message: Message) -> Verdict {
        let event = Event::parse(&message.body);
        if let Some(event) = event {
            let published = u64::try_from(message.timestamp / 1_000_000).unwrap_or(0);
            if lease::is_plausible(event.epoch, published) {
                self.vars.seen_epoch.fetch_max(event.epoch, Ordering::Relaxed);
            }
        }
        let why = match event {
            None => "invalid: no event (UUID TIMESTAMP EPOCH SEQUENCE)",
            Some(_) if fastrand::f64() < self.invalid => "invalid, by chance",
            Some(_) => {
                let verdict = self.handler.handle(message).await;
                self.vars.handled.fetch_add(u64::from(matches!(verdict, Verdict::Done(_))), Ordering::Relaxed);
                return verdict;
            }
        };
        self.vars.invalid.fetch_add(1, Ordering::Relaxed);
        Verdict::drop(why)
    }
}

/// How events are taken and handled.
#[derive(Debug)]
pub(super) struct Plan {
    consumer: ConsumerConfig,
    worker: WorkerConfig,
    broker: Brokers,
}

impl Plan {
    pub(super) fn new(args: &Args) -> Result<Self, Failure> {
        let mut consumer = worker_flags::consumer_config(&args.stream, &args.group, &args.broker, &args.tuning);
        consumer.flow.max_in_flight = args.concurrency;
        let worker = WorkerConfig {
            concurrency: args.concurrency as usize,
            ..worker_flags::worker_config(&args.stream, &args.failing)?
        };
        Ok(Self { consumer, worker, broker: args.broker.clone() })
    }
}

/// Handles events whenever this node does not generate, until it is to end.
pub(super) async fn run(
    plan: Plan,
    work: Arc<Work>,
    mut leads: watch::Receiver<bool>,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::Rng::new());
    let mut told = false;
    while !shutdown.draining.is_cancelled() {
        tokio::select! {
            () = until(&mut leads, false) => {}
            () = shutdown.draining.cancelled() => break,
        }
        let consumer = tokio::select! {
            connected = Consumer::connect(plan.consumer.clone()) => connected,
            () = shutdown.draining.cancelled() => break,
        };
        match consumer {
            Ok(consumer) => {
                backoff.reset();
                told = false;
                consume(consumer, &plan, work.clone(), &mut leads, &shutdown).await?;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
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

/// Waits until this node generates, or does not. What it hears is let go at once: held on to, it would lock the sender out.
async fn until(leads: &mut watch::Receiver<bool>, wanted: bool) {
    if leads.wait_for(|leads| *leads == wanted).await.is_err() {
        // the node is ending, and the worker is told so by other means
        std::future::pending().await
    }
}

/// One subscription, until this node generates or is to end: what runs is finished either way.
async fn consume(
    consumer: Consumer,
    plan: &Plan,
    work: Arc<Work>,
    leads: &mut watch::Receiver<bool>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    tracing::info!(stream = %consumer.topic(), group = %consumer.channel(), "consuming");
    let (stream, group) = (consumer.topic().clone(), consumer.channel().clone());
    // it ends with this consumer
    tokio::spawn(retry_stream::follow(consumer.control(), plan.broker.clone(), stream, group));
    let stopping = Shutdown { draining: shutdown.draining.child_token(), now: shutdown.now.clone() };
    let worker = Worker::new(consumer, work, plan.worker.clone())
        .map_err(|e| Failure::new(crate::commands::common::exit::Exit::Usage, e))?;
    let mut working = std::pin::pin!(worker.run(&stopping));
    let (_, tally) = tokio::select! {
        done = &mut working => done,
        () = until(leads, true) => {
            stopping.draining.cancel();
            working.await
        }
    };
    tracing::info!(
        "no longer consuming: {} done, {}, {} given back",
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
    async fn whoever_waited_for_the_lead_does_not_hold_up_the_next_change() {
        let (leading, mut leads) = watch::channel(true);
        tokio::select! {
            () = until(&mut leads, true) => drop(leading.send_replace(false)),
        }
        until(&mut leads, false).await;
    }

    #[tokio::test]
    async fn what_is_no_event_is_invalid_and_so_is_a_share_of_the_others() {
        let event = Event::new(&mut fastrand::Rng::with_seed(1), 5, 1).to_string();
        for (body, share, valid) in [("x", 0.0, false), (event.as_str(), 1.0, false), (event.as_str(), 0.0, true)] {
            let vars = Arc::new(Vars::default());
            let options = mqueue::handler::HandlerOptions {
                stream: "foo".parse().unwrap(),
                group: "1".parse().unwrap(),
                output: mqueue::handler::PrintOutput::Json,
                file: mqueue::handler::FileOptions::default(),
                timeout: Duration::from_secs(1),
                stop: tokio_util::sync::CancellationToken::new(),
                capture_output: false,
                nsqd: Vec::new(),
            };
            let handler = "sleep:0ms".parse::<mqueue::handler::HandlerSpec>().unwrap().build(&options).unwrap();
            let work = Work::new(handler, share, vars.clone());
            let id = mqueue::proto::MessageId(*b"0123456789abcdef");
            let message = Message { timestamp: 0, attempts: 1, id, body: body.to_owned().into() };
            let verdict = work.handle(message).await;
            assert_eq!(matches!(verdict, Verdict::Done(_)), valid, "{body} {share}: {verdict:?}");
            assert_eq!(vars.invalid.load(Ordering::Relaxed), u64::from(!valid));
        }
    }
}
