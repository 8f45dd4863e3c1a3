//! A connection that is subscribed to the heartbeats. It lives until it is lost.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::store::LeaseKeys;
use crate::commands::common::redis::{RedisConnection, RedisError, RedisReply, RedisServer};

/// An event of the subscription.
#[derive(Debug)]
pub(super) enum MonitorReport {
    /// Every heartbeat from now on is received.
    Subscribed,
    /// A heartbeat, with the time before it.
    Message(Bytes),
    /// The subscription is lost, or never was; this is the last report.
    Lost(RedisError),
}

/// The task that has the connection.
#[derive(Debug)]
pub(super) struct MonitorLink {
    reports: UnboundedReceiver<MonitorReport>,
    task: JoinHandle<()>,
}

impl MonitorLink {
    /// Uses an open connection, or opens one after a pause.
    pub(super) fn new(server: RedisServer, keys: LeaseKeys, open: Option<RedisConnection>, pause: Duration) -> Self {
        let (outgoing, reports) = unbounded_channel();
        let task = tokio::spawn(async move {
            let Err(lost) = listen(server, keys, open, pause, &outgoing).await;
            let _ = outgoing.send(MonitorReport::Lost(lost));
        });
        Self { reports, task }
    }

    /// Waits for the next report. Cancel-safe.
    pub(super) async fn next(&mut self) -> MonitorReport {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

impl Drop for MonitorLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    server: RedisServer,
    keys: LeaseKeys,
    open: Option<RedisConnection>,
    pause: Duration,
    reports: &UnboundedSender<MonitorReport>,
) -> Result<std::convert::Infallible, RedisError> {
    let mut redis = match open {
        Some(redis) => redis,
        None => {
            sleep(pause).await;
            server.connect().await?
        }
    };
    redis.ask_for(&[b"SUBSCRIBE", keys.channel.as_bytes()]).await?;
    let _ = reports.send(MonitorReport::Subscribed);
    loop {
        // a PING twice in the time after which a silent connection is lost
        match redis.next_pushed(keys.lease.clamp(Duration::from_secs(2), Duration::from_secs(15))).await? {
            RedisReply::List(parts) => match parts.as_slice() {
                [RedisReply::Text(kind), _, RedisReply::Text(message)] if *kind == "message" => {
                    let _ = reports.send(MonitorReport::Message(message.clone()));
                }
                [RedisReply::Text(kind), _] if *kind == "pong" => {}
                _ => return Err(redis.malformed()),
            },
            RedisReply::Error(error) => return Err(redis.refused(error)),
            _ => return Err(redis.malformed()),
        }
    }
}
