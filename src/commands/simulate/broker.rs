//! Streams and workers with NSQ between them: nothing is dropped, and unpublished chunks throttle
//! the streams.
//!
//! ```text
//!  streams ─▶ Publisher ─▶ nsqd ─▶ Consumer ─▶ Worker: as many handlers as there are workers
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Simulation;
use super::generate::generate;
use super::workload::{Chunk, Workload};
use crate::commands::common::broker_args::Args;
use crate::commands::common::exit::Failure;
use crate::commands::common::run_broker::RunBroker;
use mqueue::client::{Address, ConnectConfig, Consumer, ConsumerConfig, Publisher, PublisherConfig};
use mqueue::handler::{Handler, Verdict};
use mqueue::proto::{ChannelName, Message, TopicName};
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Worker, WorkerConfig};

/// Longest time that nsqd may be away before the run gives up.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);

/// The broker and the stream of a run.
pub(super) struct SimulationBroker {
    broker: RunBroker,
    topic: TopicName,
}

impl SimulationBroker {
    /// Finds the nsqds that are named, or starts a broker in this process.
    pub(super) async fn find(args: &Args) -> anyhow::Result<Self> {
        let topic = TopicName::new(&format!("simulate-{:08x}", fastrand::u32(..)))?;
        Ok(Self { broker: RunBroker::find_or_start(args, "mqueue-simulate").await?, topic })
    }

    /// Describes the broker for people.
    pub(super) fn describe(&self) -> String {
        let addresses = self.tcp().iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
        match self.broker.is_started() {
            true => format!("a broker in this program, at {addresses}"),
            false => format!("nsqd at {addresses}"),
        }
    }

    /// Settings of the connections to them.
    fn connect(&self) -> ConnectConfig {
        self.broker.addresses.connect.clone()
    }

    fn tcp(&self) -> &[Address] {
        &self.broker.addresses.tcp
    }

    /// Deletes the stream, or stops the broker that was started.
    pub(super) async fn clear(self) {
        self.broker.end(&[self.topic]).await;
    }
}

/// Runs until all published chunks are processed, or the rest is given up.
pub(super) async fn run(
    run: &Arc<Simulation>,
    broker: &SimulationBroker,
    workload: &mut Workload,
) -> anyhow::Result<()> {
    let mut config = ConsumerConfig::new(broker.topic.clone(), ChannelName::new("workers")?);
    config.nsqd = broker.tcp().to_vec();
    config.connect = broker.connect();
    config.flow.max_in_flight = run.settings.workers;
    let consumer = Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?;
    let config = PublisherConfig::default().with_connect(broker.connect()).with_timeout(PUBLISH_TIMEOUT);
    let publisher = Publisher::connect(broker.tcp(), config).await.map_err(|e| Failure::unavailable(&e))?;
    let pool = Arc::new(WorkerPool::new(run.clone()));
    let config = WorkerConfig::default().with_concurrency(run.settings.workers as usize);
    let (worker, ending) = (Worker::new(consumer, pool.clone(), config)?, Shutdown::new());
    let mut working = tokio::spawn({
        let ending = ending.clone();
        async move { worker.run(&ending).await }
    });
    let result = tokio::select! {
        result = async {
            publish(run, &publisher, &broker.topic, workload, &pool).await?;
            pool.all_done().await;
            Ok(())
        } => result,
        () = run.shutdown.now.cancelled() => {
            ending.now.cancel();
            Ok(())
        }
        _ = &mut working => return Err(anyhow::anyhow!("the workers have ended: nsqd could not be reached any more")),
    };
    ending.draining.cancel();
    let _ = working.await;
    publisher.close().await;
    result
}

/// Publishes until the streams have ended and all chunks are acknowledged. The buffer size limits
/// the chunks in progress, so that the workers throttle the streams.
async fn publish(
    run: &Arc<Simulation>,
    publisher: &Publisher,
    topic: &TopicName,
    workload: &mut Workload,
    pool: &WorkerPool,
) -> anyhow::Result<()> {
    let failed: Arc<Mutex<Option<String>>> = Arc::default();
    let mut publishing = JoinSet::new();
    generate(run, workload, async |chunk, made| {
        let body = ChunkHead::of(&chunk, made - run.start).body(&chunk);
        // no permit: the streams wait
        pool.places.acquire().await.expect("it is never closed").forget();
        let (publisher, topic) = (publisher.clone(), topic.clone());
        let (failed, run) = (failed.clone(), run.clone());
        run.stats().waiting += 1;
        publishing.spawn(async move {
            if let Err(error) = publisher.publish(&topic, body).await {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
                run.shutdown.draining.cancel();
            }
        });
        while publishing.try_join_next().is_some() {}
    })
    .await?;
    while publishing.join_next().await.is_some() {}
    pool.expect(run.stats().generated);
    match failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => anyhow::bail!("cannot publish: {error}"),
        None => Ok(()),
    }
}

/// The head of a message, before the chunk's random bytes.
#[derive(Debug, Serialize, Deserialize)]
struct ChunkHead {
    stream: u32,
    number: u64,
    /// Creation time in microseconds since the start.
    made: u64,
    /// Work in microseconds.
    work: u64,
}

impl ChunkHead {
    fn of(chunk: &Chunk, made: Duration) -> Self {
        let Chunk { stream, number, work, .. } = *chunk;
        Self { stream, number, made: made.as_micros() as u64, work: work.as_micros() as u64 }
    }

    /// Formats the message: a line of JSON, then the chunk's bytes.
    fn body(&self, chunk: &Chunk) -> Bytes {
        let mut body = serde_json::to_vec(self).expect("numbers are JSON");
        body.push(b'\n');
        body.extend_from_slice(&chunk.bytes());
        body.into()
    }
}

/// The pool of workers.
struct WorkerPool {
    run: Arc<Simulation>,
    /// Numbers of idle workers.
    free: Mutex<Vec<u32>>,
    seen: Mutex<ProcessedChunks>,
    changed: Notify,
    /// Permits for chunks in progress.
    places: Semaphore,
}

/// Account of the chunks processed.
struct ProcessedChunks {
    streams: Vec<ProcessedOfStream>,
    count: u64,
    expected: Option<u64>,
}

/// Chunks processed of one stream: all below a number, and some after it.
#[derive(Clone, Default)]
struct ProcessedOfStream {
    below: u64,
    beyond: BTreeSet<u64>,
}

impl ProcessedOfStream {
    /// Adds a chunk; returns true if it is new.
    fn add(&mut self, number: u64) -> bool {
        if number < self.below || !self.beyond.insert(number) {
            return false;
        }
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
        true
    }
}

impl WorkerPool {
    fn new(run: Arc<Simulation>) -> Self {
        let streams = vec![ProcessedOfStream::default(); run.settings.streams as usize];
        let free = Mutex::new((0..run.settings.workers).rev().collect());
        let (seen, places) =
            (ProcessedChunks { streams, count: 0, expected: None }, Semaphore::new(run.settings.buffer as usize));
        Self { run, free, seen: Mutex::new(seen), changed: Notify::new(), places }
    }

    /// Sets the number of chunks to process in all.
    fn expect(&self, count: u64) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).expected = Some(count);
        self.changed.notify_one();
    }

    async fn all_done(&self) {
        loop {
            {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.expected.is_some_and(|expected| seen.count >= expected) {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Records a chunk; returns true if it was not processed before.
    fn is_new(&self, head: &ChunkHead) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = seen.streams.get_mut(head.stream as usize).is_some_and(|stream| stream.add(head.number));
        seen.count += u64::from(is_new);
        is_new
    }
}

impl Handler for WorkerPool {
    async fn handle(&self, message: Message) -> Verdict {
        let end = memchr::memchr(b'\n', &message.body).unwrap_or(message.body.len());
        let Ok(head) = serde_json::from_slice::<ChunkHead>(&message.body[..end]) else {
            return Verdict::drop("not a chunk of this simulation");
        };
        let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or(u32::MAX);
        sleep(Duration::from_micros(head.work)).await;
        let made = self.run.start + Duration::from_micros(head.made);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        if self.is_new(&head) {
            self.places.add_permits(1);
            let mut stats = self.run.stats();
            stats.processed(made.elapsed());
            stats.waiting = stats.waiting.saturating_sub(1);
        } else {
            self.run.stats().again += 1;
        }
        self.run.print_chunk(number, head.number, head.stream, message.body.len().saturating_sub(end + 1)).await;
        self.changed.notify_one();
        Verdict::Done(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redelivered_chunk_is_not_new() {
        let mut stream = ProcessedOfStream::default();
        assert_eq!([0, 2, 1, 2, 0, 3].map(|number| stream.add(number)), [true, true, true, false, false, true]);
        assert_eq!((stream.below, stream.beyond.len()), (4, 0));
    }
}
