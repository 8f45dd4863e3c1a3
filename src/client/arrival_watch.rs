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
pub struct ArrivalWatch {
    connection: Connection,
    heartbeat: Duration,
}

impl ArrivalWatch {
    /// Connects and sends IDENTIFY; does not subscribe yet.
    pub async fn connect(address: &Address, config: &ConnectConfig) -> Result<Self, Error> {
        Self::connect_with_heartbeat(address, config, HEARTBEAT).await
    }

    /// Connects and sends IDENTIFY with this heartbeat interval. nsqd disconnects a client that is
    /// silent for two of them.
    pub async fn connect_with_heartbeat(
        address: &Address,
        config: &ConnectConfig,
        heartbeat: Duration,
    ) -> Result<Self, Error> {
        let mut config = config.clone();
        let heartbeat_interval = i64::try_from(heartbeat.as_millis()).ok();
        config.identify = Identify { heartbeat_interval, ..config.identify };
        Ok(Self { connection: Connection::open(address, &config).await?, heartbeat })
    }

    /// Subscribes; creates the topic and the channel if they do not exist.
    pub async fn subscribe(&mut self, topic: TopicName, channel: ChannelName) -> Result<(), Error> {
        match self.connection.ask(&Command::Sub { topic, channel }).await? {
            Response::Ok => Ok(()),
            other => Err(self.connection.unexpected(format!("{other:?}"))),
        }
    }

    /// Stays subscribed without asking for messages; fails when the connection ends.
    pub async fn stay(mut self) -> Result<(), Error> {
        self.next_message().await
    }

    /// Waits until a message arrives; fails when the connection ends first.
    pub async fn arrived(mut self) -> Result<(), Error> {
        Command::Rdy(1).encode(&mut self.connection.out);
        self.next_message().await
    }

    /// Answers heartbeats until the first bytes of a message arrive.
    async fn next_message(&mut self) -> Result<(), Error> {
        let (connection, silence) = (&mut self.connection, 2 * self.heartbeat);
        loop {
            connection.flush().await?;
            if connection.incoming.message_is_coming() {
                return Ok(());
            }
            let broken = |source| Error::Frame { address: connection.address.clone(), source };
            match connection.incoming.next_frame().map_err(broken)? {
                Some(Frame::Response(Response::Heartbeat)) => connection.answer_heartbeat(),
                Some(Frame::Error(source)) => {
                    return Err(Error::Refused { address: connection.address.clone(), source });
                }
                Some(other) => return Err(connection.unexpected(format!("{other:?}"))),
                None => {
                    let late = connection.frame_due().map(|due| due.saturating_duration_since(Instant::now()));
                    let more = timeout(late.unwrap_or(silence), connection.read_once()).await;
                    more.map_err(|_| match late {
                        Some(_) => connection.slow_frame_error(),
                        None => Error::Silent { address: connection.address.clone(), after: silence },
                    })??;
                }
            }
        }
    }
}
