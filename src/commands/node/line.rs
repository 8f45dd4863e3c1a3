//! A connection that is made anew when it is lost, and says so: what was in flight on the old one is gone.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mqueue::backoff::Backoff;
use mqueue::client::{Error, PublishingSubscription, SubscriptionEvent};
use mqueue::proto::Command;

/// A connection in the making.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<PublishingSubscription, Error>> + Send>>;

/// What happened on a line.
#[derive(Debug)]
pub(super) enum Said {
    /// It is connected (again).
    Up,
    /// It is lost, and will be connected again.
    Lost,
    Heard(SubscriptionEvent),
}

enum State {
    Up(Box<PublishingSubscription>),
    Opening(Opening),
}

/// A connection, or the tries to get one.
pub(super) struct Line {
    name: &'static str,
    open: Box<dyn Fn() -> Opening + Send>,
    state: State,
    backoff: Backoff,
}

impl Line {
    /// Connected already; `open` connects anew.
    pub(super) fn new(
        name: &'static str,
        first: PublishingSubscription,
        open: Box<dyn Fn() -> Opening + Send>,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2), fastrand::Rng::new());
        Self { name, open, state: State::Up(Box::new(first)), backoff }
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            let error = match &mut self.state {
                State::Up(duplex) => match duplex.next().await {
                    Ok(heard) => {
                        self.backoff.reset();
                        return Said::Heard(heard);
                    }
                    Err(error) => {
                        tracing::warn!("connection for {} lost: {error}", self.name);
                        self.again();
                        return Said::Lost;
                    }
                },
                State::Opening(opening) => match opening.await {
                    Ok(duplex) => {
                        tracing::info!("connection for {} is back", self.name);
                        self.state = State::Up(Box::new(duplex));
                        return Said::Up;
                    }
                    Err(error) => error,
                },
            };
            tracing::debug!("no connection for {}: {error}", self.name);
            self.again();
        }
    }

    /// Lets the connection go, and makes another.
    pub(super) fn again(&mut self) {
        let (pause, opening) = (self.backoff.next().unwrap_or_default(), (self.open)());
        self.state = State::Opening(Box::pin(async move {
            tokio::time::sleep(pause).await;
            opening.await
        }));
    }

    /// Has it said, if there is a connection.
    pub(super) fn say(&mut self, command: &Command) -> bool {
        match &mut self.state {
            State::Up(duplex) => {
                duplex.queue(command);
                true
            }
            State::Opening(_) => false,
        }
    }

    /// For how long a message may be in flight, if there is a connection.
    pub(super) fn max_hold(&self) -> Duration {
        match &self.state {
            State::Up(duplex) => Duration::from_millis(duplex.granted().max_msg_timeout),
            State::Opening(_) => Duration::ZERO,
        }
    }

    /// Whether epochs are heeded where it leads to.
    pub(super) fn fences(&self) -> bool {
        match &self.state {
            State::Up(duplex) => duplex.granted().fence,
            State::Opening(_) => false,
        }
    }

    /// Ends it, when all is said.
    pub(super) async fn close(self) {
        match self.state {
            State::Up(duplex) => duplex.close().await,
            State::Opening(_) => {}
        }
    }
}
