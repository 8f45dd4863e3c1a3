//! The publisher's link with the crate tokio-nsq.
//!
//! tokio-nsq's producer queues messages and reports each OK in order. It does not report a lost
//! connection, drops its queue then, and ends silently when nsqd refuses a message. So this link
//! uses a producer for one connection only: at the first sign of a second connection it drops the
//! producer, and messages without an OK return to the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_nsq::{NSQEvent, NSQProducer, NSQProducerConfig, NSQTopic};

use super::queue::{Payload, PublishQueue, Request};
use super::unacknowledged::UnacknowledgedWindow;
use crate::backoff::Backoff;
use crate::client::backend::tokio_nsq_settings;
use crate::client::{Address, Error};

/// Keeps a connection to `address` until the publisher is closed.
pub(super) async fn run(shared: Arc<PublishQueue>, address: Address) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::Rng::new());
    loop {
        let producer = NSQProducerConfig::new(address.to_string()).set_shared(tokio_nsq_settings()).build();
        let mut link = TokioNsqPublishLink {
            shared: &shared,
            address: &address,
            producer,
            unacknowledged: UnacknowledgedWindow::default(),
            progress: Instant::now(),
        };
        let ended = link.serve(&mut backoff).await;
        link.unacknowledged.return_requests(&shared);
        match ended {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(nsqd = %address, "connection lost: {error}");
                shared.record_error(error);
            }
        }
        let pause = backoff.next().unwrap_or_default();
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

struct TokioNsqPublishLink<'a> {
    shared: &'a PublishQueue,
    address: &'a Address,
    producer: NSQProducer,
    unacknowledged: UnacknowledgedWindow,
    /// The time of the last send or answer.
    progress: Instant,
}

impl TokioNsqPublishLink<'_> {
    /// Publishes until the connection ends or the publisher is closed (`Ok`).
    async fn serve(&mut self, backoff: &mut Backoff) -> Result<(), Error> {
        let (shared, within) = (self.shared, self.shared.config.answer_within);
        tokio::select! {
            event = timeout(within, self.producer.consume()) => match event {
                Ok(Some(NSQEvent::Healthy())) => {}
                Ok(_) => return Err(self.lost()),
                Err(_) => return Err(self.silent()),
            },
            () = shared.closing.cancelled() => return Ok(()),
        }
        let _open = shared.count_connection();
        loop {
            self.send_queued().await?;
            let busy = !self.unacknowledged.is_empty();
            tokio::select! {
                biased;
                event = self.producer.consume() => match event {
                    Some(NSQEvent::Ok()) => {
                        self.progress = Instant::now();
                        backoff.reset();
                        self.unacknowledged.acknowledged(shared);
                    }
                    // a second Healthy: there was another connection, whose unanswered messages are
                    // gone
                    Some(NSQEvent::Healthy() | NSQEvent::Unhealthy() | NSQEvent::Message(_)) | None => return Err(self.lost()),
                },
                () = shared.ready.notified(), if self.unacknowledged.has_room() => {}
                () = shared.closing.cancelled(), if !busy => return Ok(()),
                () = sleep_until(self.progress + within), if busy => return Err(self.silent()),
            }
        }
    }

    /// Passes queued requests to tokio-nsq, up to the window's limit.
    async fn send_queued(&mut self) -> Result<(), Error> {
        loop {
            let Some(requests) = self.unacknowledged.take(self.shared) else { return Ok(()) };
            let handing_over = publish(&mut self.producer, requests);
            let handed_over = timeout(self.shared.config.answer_within, handing_over).await;
            self.progress = Instant::now();
            match handed_over {
                Ok(true) => {}
                Ok(false) => return Err(self.lost()),
                Err(_) => return Err(self.silent()),
            }
        }
    }

    fn lost(&self) -> Error {
        Error::Closed { address: self.address.clone(), source: None }
    }

    fn silent(&self) -> Error {
        Error::Silent { address: self.address.clone(), after: self.progress.elapsed() }
    }
}

/// Queues the command of these requests, at least one, which can share a command. False while there
/// is no connection.
async fn publish<'a>(producer: &mut NSQProducer, requests: impl Iterator<Item = &'a Request> + Clone) -> bool {
    let first = requests.clone().next().expect("a command has a request");
    let topic = NSQTopic::new(first.topic.as_str()).expect("both have nsqd's rule for names");
    if let Payload::Deferred(body, delay) = &first.payload {
        let delay = u32::try_from(*delay).unwrap_or(u32::MAX);
        return producer.publish_deferred(&topic, body.to_vec(), delay).await.is_ok();
    }
    let mut bodies: Vec<Vec<u8>> =
        requests.flat_map(|request| request.payload.bodies()).map(|body| body.to_vec()).collect();
    let queued = match bodies.len() {
        1 => producer.publish(&topic, bodies.remove(0)).await,
        _ => producer.publish_multiple(&topic, bodies).await,
    };
    queued.is_ok()
}
