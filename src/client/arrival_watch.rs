//! Detection of a channel's next message without consuming it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::{Address, ConnectConfig, Error};
use crate::proto::{ChannelName, Command, Frame, Identify, Response, TopicName};

/// The longest heartbeat interval that nsqd accepts, to keep an idle watch quiet.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// A subscription that waits until a message arrives, and reads only the beginning of its frame. It
/// never reconnects: subscribing creates the topic and channel, and a deleted channel must stay
/// deleted.
///
/// Dropping the watch closes the connection; nsqd deletes an ephemeral channel that has no other
/// client.
#[derive(Debug)]
pub struct ArrivalWatch(Connection);

impl ArrivalWatch {
    /// Connects and sends IDENTIFY; does not subscribe yet.
    pub async fn connect(address: &Address, config: &ConnectConfig) -> Result<Self, Error> {
        let mut config = config.clone();
        let heartbeat_interval = i64::try_from(HEARTBEAT.as_millis()).ok();
        config.identify = Identify { heartbeat_interval, ..config.identify };
        Connection::open(address, &config).await.map(Self)
    }

    /// Subscribes; creates the topic and the channel if they do not exist.
    pub async fn subscribe(&mut self, topic: TopicName, channel: ChannelName) -> Result<(), Error> {
        match self.0.ask(&Command::Sub { topic, channel }).await? {
            Response::Ok => Ok(()),
            other => Err(self.0.unexpected(format!("{other:?}"))),
        }
    }

    /// Waits until a message arrives; fails when the connection ends first.
    pub async fn arrived(mut self) -> Result<(), Error> {
        Command::Rdy(1).encode(&mut self.0.out);
        loop {
            self.0.flush().await?;
            if self.0.incoming.message_is_coming() {
                return Ok(());
            }
            let broken = |source| Error::Frame { address: self.0.address.clone(), source };
            match self.0.incoming.next_frame().map_err(broken)? {
                Some(Frame::Response(Response::Heartbeat)) => self.0.answer_heartbeat(),
                Some(Frame::Error(source)) => {
                    return Err(Error::Refused { address: self.0.address.clone(), source });
                }
                Some(other) => return Err(self.0.unexpected(format!("{other:?}"))),
                None => {
                    let late = self.0.frame_due().map(|due| due.saturating_duration_since(Instant::now()));
                    let more = timeout(late.unwrap_or(2 * HEARTBEAT), self.0.read_once()).await;
                    more.map_err(|_| match late {
                        Some(_) => self.0.slow_frame_error(),
                        None => Error::Silent { address: self.0.address.clone(), after: 2 * HEARTBEAT },
                    })??;
                }
            }
        }
    }
}
