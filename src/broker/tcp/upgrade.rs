//! Upgrades of a connection after IDENTIFY: TLS, then compression; each is answered with OK over
//! the new stream.

use std::time::Duration;

use tokio::time::timeout;

use super::connection::{ClientConnection, ConnectionEnd};
use crate::net::transport::{Compressed, Transport};
use crate::proto::{Frame, Response};

/// Time for all upgrades, as nsqd's for the TLS handshake.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

impl ClientConnection {
    /// Sets up what IDENTIFY's response has granted.
    pub(super) async fn upgrade(&mut self) -> Result<(), ConnectionEnd> {
        let upgrades = std::mem::take(&mut self.agreed.upgrades);
        if !upgrades.tls && upgrades.compression.is_none() {
            return Ok(());
        }
        let upgrading = async {
            self.flush_output().await?;
            if upgrades.tls {
                self.start_tls().await?;
                self.confirm().await?;
            }
            if let Some(compression) = upgrades.compression {
                let security = &mut self.agreed.settings.security;
                match compression {
                    crate::net::transport::Compression::Deflate(_) => security.deflate = true,
                    crate::net::transport::Compression::Snappy => security.snappy = true,
                }
                let stream = self.stream.take().expect("it is not being upgraded");
                let already_read = std::mem::take(&mut self.incoming);
                let compressed = Compressed::new(stream, compression, already_read);
                self.stream = Some(Transport::Compressed(Box::new(compressed)));
                self.confirm().await?;
            }
            Ok(())
        };
        let done = timeout(UPGRADE_TIMEOUT, upgrading).await;
        done.unwrap_or_else(|_| {
            if upgrades.tls && self.agreed.settings.security.tls.is_none() {
                let reason = format!("not finished within {UPGRADE_TIMEOUT:?}");
                tracing::warn!(peer = self.peer, reason, "TLS handshake failed");
            }
            Err(ConnectionEnd::Silent)
        })
    }

    /// Shakes hands. A failure ends the connection: what the client would understand now is not
    /// known.
    async fn start_tls(&mut self) -> Result<(), ConnectionEnd> {
        let broker = self.broker.clone();
        let tls = broker.config().tls.as_ref().expect("it was granted");
        if !self.incoming.is_empty() {
            tracing::debug!(peer = self.peer, "bytes before the TLS handshake");
            return Err(ConnectionEnd::Closed);
        }
        let Some(Transport::Plain(socket)) = self.stream.take() else { unreachable!("TLS comes first") };
        let (stream, handshake) = tls.accept(socket).await.map_err(|error| {
            tracing::warn!(peer = self.peer, reason = %crate::net::tls::explain(&error), "TLS handshake failed");
            ConnectionEnd::Broken(error)
        })?;
        self.stream = Some(Transport::Tls(Box::new(stream.into())));
        self.agreed.settings.security.tls = Some(handshake);
        Ok(())
    }

    /// Answers OK over the upgraded stream.
    async fn confirm(&mut self) -> Result<(), ConnectionEnd> {
        let settings = self.agreed.settings.clone();
        self.broker.change(|state, _| {
            state.identify(self.session, settings);
            state.reply(self.session, |out| Frame::Response(Response::Ok).encode(out));
        });
        self.flush_output().await
    }
}
