//! A thread that stands still now and then, while others go on.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::ready;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A thread whose tasks are not polled while it stands still.
#[derive(Debug, Clone, Default)]
pub(crate) struct StallingThread(Arc<Mutex<Option<Instant>>>);

impl StallingThread {
    /// Runs a task of the thread.
    pub(crate) async fn run<F: Future>(self, task: F) -> F::Output {
        let (mut task, mut pause) = (pin!(task), pin!(sleep_until(Instant::now())));
        poll_fn(move |cx| {
            while let Some(until) = self.stands_still_until() {
                pause.as_mut().reset(until);
                ready!(pause.as_mut().poll(cx));
            }
            task.as_mut().poll(cx)
        })
        .await
    }

    /// The time until which the thread stands still, if it does; it may begin to.
    fn stands_still_until(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none_or(|until| until <= now) {
            let begins = fastrand::u8(..) < 16;
            *until = begins.then(|| now + Duration::from_micros(fastrand::u64(1000..20_000)));
        }
        *until
    }
}
