//! AUTH, and the check of its grants before SUB and PUB (`nsqd/protocol_v2.go`, `CheckAuth`).

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::connection::{ClientConnection, ConnectionEnd};
use crate::broker::auth::{AuthRequest, Grants};
use crate::proto::{ChannelName, Command, ErrorCode, Frame, ProtocolError, Response, TopicName};

/// State of a connection's AUTH.
#[derive(Debug, Default)]
pub(super) enum Authentication {
    /// No AUTH came.
    #[default]
    None,
    /// Grants, and the secret to ask for them again.
    Granted(Grants, Bytes),
    /// The grants expired, and could not be renewed.
    Lost(Bytes),
}

impl Authentication {
    /// True after an AUTH that was granted.
    pub(super) fn is_done(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Checks a SUB, or without a channel a PUB. Fails with nsqd's error.
    pub(super) fn check(
        &self,
        verb: &[u8],
        topic: &TopicName,
        channel: Option<&ChannelName>,
    ) -> Result<(), ProtocolError> {
        let verb = String::from_utf8_lossy(verb);
        let (topic, channel) = (topic.as_str(), channel.map(ChannelName::as_str));
        match self {
            Self::None => Err(ProtocolError::new(ErrorCode::AuthFirst, format!("AUTH required before {verb}"))),
            Self::Lost(_) => Err(ProtocolError::new(ErrorCode::AuthFailed, "AUTH failed")),
            Self::Granted(grants, _) if !grants.allow(topic, channel) => {
                let text = format!("AUTH failed for {verb} on {topic:?} {:?}", channel.unwrap_or_default());
                Err(ProtocolError::new(ErrorCode::Unauthorized, text))
            }
            Self::Granted(..) => Ok(()),
        }
    }
}

impl ClientConnection {
    /// Asks the AUTH servers, and answers the client. The reason of a failure is only logged.
    pub(super) async fn authenticate(&mut self, secret: &Bytes) -> Result<(), ConnectionEnd> {
        let grants = match self.query(secret).await {
            Ok(grants) if grants.is_empty() => {
                let error = ProtocolError::new(ErrorCode::Unauthorized, "AUTH no authorizations found");
                return Err(self.refuse(&error));
            }
            Ok(grants) => grants,
            Err(reason) => {
                tracing::warn!(peer = self.peer, %reason, "AUTH failed");
                return Err(self.refuse(&ProtocolError::new(ErrorCode::AuthFailed, "AUTH failed")));
            }
        };
        let reply = json!({
            "identity": grants.identity,
            "identity_url": grants.identity_url,
            "permission_count": grants.count(),
        });
        let identity = (grants.identity.clone(), grants.identity_url.clone());
        self.agreed.settings.security.identity = Some(identity);
        self.authentication = Authentication::Granted(grants, secret.clone());
        let settings = self.agreed.settings.clone();
        self.broker.change(|state, _| {
            state.identify(self.session, settings);
            state.reply(self.session, |out| Frame::Response(Response::Data(reply.to_string().into())).encode(out));
        });
        Ok(())
    }

    /// Asks again for grants that have expired, if the commands need any.
    pub(super) async fn renew_grants(&mut self, commands: &[Command]) {
        let needed = commands.iter().any(|command| {
            matches!(
                command,
                Command::Pub { .. }
                    | Command::Mpub { .. }
                    | Command::Dpub { .. }
                    | Command::Fpub { .. }
                    | Command::Sub { .. }
            )
        });
        let secret = match &self.authentication {
            Authentication::Granted(grants, secret) if grants.is_expired(Instant::now()) => secret.clone(),
            Authentication::Lost(secret) => secret.clone(),
            Authentication::None | Authentication::Granted(..) => return,
        };
        if !needed {
            return;
        }
        self.authentication = match self.query(&secret).await {
            Ok(grants) => Authentication::Granted(grants, secret),
            Err(reason) => {
                tracing::warn!(peer = self.peer, %reason, "AUTH failed");
                Authentication::Lost(secret)
            }
        };
    }

    /// Checks the grants of an MPUB before its body is read, as nsqd does. Expired ones are asked
    /// for again when the command is executed.
    pub(super) fn check_early(&self, topic: &TopicName) -> Result<(), ProtocolError> {
        match &self.authentication {
            _ if self.broker.config().auth.is_none() => Ok(()),
            Authentication::Granted(grants, _) if grants.is_expired(Instant::now()) => Ok(()),
            Authentication::Lost(_) => Ok(()),
            current => current.check(b"MPUB", topic, None),
        }
    }

    async fn query(&self, secret: &Bytes) -> Result<Grants, String> {
        let tls = self.agreed.settings.security.tls.as_ref();
        let request = AuthRequest {
            remote_ip: self.peer.parse::<std::net::SocketAddr>().map(|peer| peer.ip().to_string()).unwrap_or_default(),
            tls: tls.is_some(),
            common_name: tls.map(|handshake| handshake.common_name.clone()).unwrap_or_default(),
            secret: String::from_utf8_lossy(secret).into_owned(),
        };
        let servers = self.broker.config().auth.as_ref().ok_or("no AUTH server is configured")?;
        servers.query(&request).await
    }
}
