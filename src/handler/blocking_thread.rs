//! A thread of its own for blocking work, one job after the other, so that a slow disk or reader stops no heartbeat.
//!
//! Not `spawn_blocking`: a lane keeps its buffers from job to job, and a runtime that shuts down does not wait for it, so a
//! write that hangs cannot hold up a second Ctrl-C.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

/// The way to a thread that turns each `Job` into a `Reply`. The thread ends after its current job once this is dropped.
pub(super) struct Lane<Job, Reply> {
    jobs: mpsc::Sender<(Job, oneshot::Sender<Reply>)>,
}

impl<Job: Send + 'static, Reply: Send + 'static> Lane<Job, Reply> {
    /// Starts the thread, which calls `work` for each job. Fails if the system has no thread to give.
    pub(super) fn start(name: &str, mut work: impl FnMut(Job) -> Reply + Send + 'static) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<(Job, oneshot::Sender<Reply>)>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            for (job, reply) in inbox {
                // Nobody may be waiting any more: the work is done all the same.
                let _ = reply.send(work(job));
            }
        })?;
        Ok(Self { jobs })
    }

    /// Hands a job over and waits for its reply; `None` if the thread has panicked. Jobs run in the order of the calls. A job
    /// handed over is done even if this future is dropped.
    pub(super) async fn run(&self, job: Job) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send((job, reply)).ok()?;
        answer.await.ok()
    }
}

impl<Job, Reply> fmt::Debug for Lane<Job, Reply> {
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
        let lane = Lane::start("sum", move |number: u64| {
            sum += number;
            sum
        });
        let lane = lane.unwrap();
        assert_eq!(tokio::join!(lane.run(1), lane.run(2), lane.run(3)), (Some(1), Some(3), Some(6)));
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_that_never_comes() {
        let lane = Lane::start("panic", |fail: bool| assert!(!fail, "this panic is part of the test")).unwrap();
        assert_eq!(lane.run(false).await, Some(()));
        assert_eq!(lane.run(true).await, None);
        assert_eq!(lane.run(false).await, None);
    }
}
