//! A connection that reconnects when it is lost, and reports the loss: messages in flight on the
//! old connection are requeued by nsqd.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mqueue::backoff::Backoff;
use mqueue::client::{Error, PublishingSubscription, SubscriptionEvent};
use mqueue::proto::Command;

/// The future of an attempt to connect.
pub(super) type ConnectFuture = Pin<Box<dyn Future<Output = Result<PublishingSubscription, Error>> + Send>>;

/// An event of a connection.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// The connection is up again.
    Connected,
    /// The connection is lost; it will be replaced.
    Disconnected,
    /// nsqd sent something.
    Received(SubscriptionEvent),
}

enum LinkState {
    Up(Box<PublishingSubscription>),
    Opening(ConnectFuture),
}

/// A connection, or the attempts to replace it.
pub(super) struct Reconnecting {
    name: &'static str,
    open: Box<dyn Fn() -> ConnectFuture + Send>,
    state: LinkState,
    backoff: Backoff,
}

impl Reconnecting {
    /// Wraps an open connection; `open` replaces it.
    pub(super) fn new(
        name: &'static str,
        first: PublishingSubscription,
        open: Box<dyn Fn() -> ConnectFuture + Send>,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2), fastrand::Rng::new());
        Self { name, open, state: LinkState::Up(Box::new(first)), backoff }
    }

    /// Waits for the next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> LinkEvent {
        loop {
            let error = match &mut self.state {
                LinkState::Up(duplex) => match duplex.next().await {
                    Ok(heard) => {
                        self.backoff.reset();
                        return LinkEvent::Received(heard);
                    }
                    Err(error) => {
                        tracing::warn!("connection for {} lost; reconnecting: {error}", self.name);
                        self.reconnect();
                        return LinkEvent::Disconnected;
                    }
                },
                LinkState::Opening(opening) => match opening.await {
                    Ok(duplex) => {
                        tracing::info!("reconnected for {}", self.name);
                        self.state = LinkState::Up(Box::new(duplex));
                        return LinkEvent::Connected;
                    }
                    Err(error) => error,
                },
            };
            tracing::debug!("cannot connect for {}: {error}", self.name);
            self.reconnect();
        }
    }

    /// Drops the connection, and opens another.
    pub(super) fn reconnect(&mut self) {
        let (pause, opening) = (self.backoff.next().unwrap_or_default(), (self.open)());
        self.state = LinkState::Opening(Box::pin(async move {
            tokio::time::sleep(pause).await;
            opening.await
        }));
    }

    /// Sends a command; returns false if there is no connection.
    pub(super) fn send(&mut self, command: &Command) -> bool {
        match &mut self.state {
            LinkState::Up(duplex) => {
                duplex.queue(command);
                true
            }
            LinkState::Opening(_) => false,
        }
    }

    /// Returns how long a message may be in flight; zero without a connection.
    pub(super) fn max_msg_timeout(&self) -> Duration {
        match &self.state {
            LinkState::Up(duplex) => Duration::from_millis(duplex.granted().max_msg_timeout),
            LinkState::Opening(_) => Duration::ZERO,
        }
    }

    /// Returns true if the broker checks epochs (FPUB).
    pub(super) fn fences(&self) -> bool {
        match &self.state {
            LinkState::Up(duplex) => duplex.granted().fence,
            LinkState::Opening(_) => false,
        }
    }

    /// Closes the connection after all commands are written.
    pub(super) async fn close(self) {
        match self.state {
            LinkState::Up(duplex) => duplex.close().await,
            LinkState::Opening(_) => {}
        }
    }
}
