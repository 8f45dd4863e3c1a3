//! Streams and workers with a bounded buffer between them.
//!
//! ```text
//!  streams ──▶ buffer ──▶ workers
//!          └─▶ dropped, if it is full
//! ```

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Simulation;
use super::generate::generate;
use super::workload::{Chunk, Workload};

/// A chunk in the buffer.
struct BufferedChunk {
    chunk: Chunk,
    bytes: Bytes,
    at: Instant,
}

/// Runs until the streams have ended and the buffer is empty, or the rest is given up.
pub(super) async fn run(run: &Arc<Simulation>, workload: &mut Workload) -> anyhow::Result<()> {
    let (buffer, chunks) = channel(run.settings.buffer as usize);
    let chunks = Arc::new(Mutex::new(chunks));
    let mut workers = JoinSet::new();
    for number in 0..run.settings.workers {
        workers.spawn(work(run.clone(), number, chunks.clone()));
    }
    generate(run, workload, async |chunk, at| {
        let bytes = chunk.bytes();
        let sent = buffer.try_send(BufferedChunk { chunk, bytes, at });
        let mut stats = run.stats();
        stats.waiting = (buffer.max_capacity() - buffer.capacity()) as u64;
        if let Err(TrySendError::Full(_)) = sent {
            stats.dropped();
        }
    })
    .await?;
    drop(buffer);
    tokio::select! {
        () = async { while workers.join_next().await.is_some() {} } => {}
        () = run.shutdown.now.cancelled() => {}
    }
    Ok(())
}

/// Runs one worker: processes one chunk after the other until there are no more.
async fn work(run: Arc<Simulation>, number: u32, chunks: Arc<Mutex<Receiver<BufferedChunk>>>) {
    loop {
        let Some(BufferedChunk { chunk, bytes, at }) = next(&run, &chunks).await else { return };
        sleep(chunk.work).await;
        run.stats().processed(at.elapsed());
        run.print_chunk(number, chunk.number, chunk.stream, bytes.len()).await;
    }
}

async fn next(run: &Simulation, chunks: &Mutex<Receiver<BufferedChunk>>) -> Option<BufferedChunk> {
    let mut chunks = chunks.lock().await;
    let made = chunks.recv().await;
    run.stats().waiting = chunks.len() as u64;
    made
}
