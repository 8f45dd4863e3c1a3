//! A thread for blocking work, one job at a time, so that a slow disk or reader delays no
//! heartbeat.
//!
//! Not `spawn_blocking`: the thread keeps its buffers from job to job, and a runtime that shuts
//! down does not wait for it, so a hanging write cannot delay a second Ctrl-C.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

/// The handle of a thread that turns each `Job` into a `Reply`. The thread ends after its current
/// job once the handle is dropped.
pub(super) struct BlockingThread<Job, Reply> {
    jobs: mpsc::Sender<(Job, oneshot::Sender<Reply>)>,
}

impl<Job: Send + 'static, Reply: Send + 'static> BlockingThread<Job, Reply> {
    /// Starts the thread, which calls `work` for each job. Fails if the system refuses a thread.
    pub(super) fn start(name: &str, mut work: impl FnMut(Job) -> Reply + Send + 'static) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<(Job, oneshot::Sender<Reply>)>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            for (job, reply) in inbox {
                // The caller may have given up: the work is done all the same.
                let _ = reply.send(work(job));
            }
        })?;
        Ok(Self { jobs })
    }

    /// Queues a job and waits for its reply; `None` if the thread panicked. Jobs run in the order
    /// of the calls, even if this future is dropped.
    pub(super) async fn run(&self, job: Job) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send((job, reply)).ok()?;
        answer.await.ok()
    }
}

impl<Job, Reply> fmt::Debug for BlockingThread<Job, Reply> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lane")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_in_order_on_one_thread_that_keeps_its_state() {
        let mut sum = 0;
        let worker = BlockingThread::start("sum", move |number: u64| {
            sum += number;
            sum
        });
        let worker = worker.unwrap();
        assert_eq!(tokio::join!(worker.run(1), worker.run(2), worker.run(3)), (Some(1), Some(3), Some(6)));
    }

    #[tokio::test]
    async fn panics_end_the_thread_and_later_jobs_get_no_reply() {
        let worker =
            BlockingThread::start("panic", |fail: bool| assert!(!fail, "this panic is part of the test")).unwrap();
        assert_eq!(worker.run(false).await, Some(()));
        assert_eq!(worker.run(true).await, None);
        assert_eq!(worker.run(false).await, None);
    }
}
