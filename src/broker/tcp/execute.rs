//! Execution of commands (`nsqd/protocol_v2.go`).

use bytes::{Buf, Bytes};

use super::auth::Authentication;
use super::connection::{ClientConnection, ConnectionEnd};
use super::identify::Negotiated;
use crate::broker::state::{BrokerState, Now, SessionId, SessionPhase};
use crate::broker::{Broker, BrokerConfig, TlsRequired};
use crate::io_error::describe;
use crate::proto::{
    Bodies, ChannelName, Command, ErrorCode, Frame, Identify, ProtocolError, Response, TopicName, WireError,
};

impl ClientConnection {
    /// Executes commands in their order, up to one that ends the connection.
    pub(super) async fn execute(&mut self, commands: Vec<Command>) -> Result<(), ConnectionEnd> {
        let (broker, session) = (self.broker.clone(), self.session);
        if broker.config().auth.is_some() {
            self.renew_grants(&commands).await;
        }
        let mut auth = None;
        let (agreed, authentication) = (&mut self.agreed, &self.authentication);
        let (done, published, has_subscribed) = broker.change(|state, now| {
            let mut batch = CommandBatch {
                broker: &broker,
                state,
                session,
                agreed,
                authentication,
                now,
                gathered: None,
                published: None,
                has_subscribed: false,
                secret: &mut auth,
            };
            let done = commands.into_iter().try_for_each(|command| batch.execute(command));
            // also what came before a refused command
            (batch.publish_gathered().and(done), batch.published, batch.has_subscribed)
        });
        let unsynced = match has_subscribed {
            // the channel that SUB created is written by now
            true => Some((broker.with_state(BrokerState::position), ErrorCode::SubFailed, "SUB")),
            false => published.map(|position| (position, ErrorCode::PubFailed, "PUB")),
        };
        if let Some((position, code, verb)) = unsynced
            && let Err(error) = broker.synced(position).await
        {
            // the OKs are still in the outbox, which only this task sends
            broker.change(|state, _| state.forget_output(session));
            if published.is_some() {
                broker.count_refused_publish();
            }
            return Err(self.refuse(&ProtocolError::new(code, format!("{verb} failed {}", describe(&error)))));
        }
        done.map_err(|error| self.refuse(&error))?;
        if let Some(secret) = auth {
            self.authenticate(&secret).await?;
        }
        self.upgrade().await
    }
}

impl ClientConnection {
    /// Checks the beginning of an incomplete or invalid command; true if the command is ignored,
    /// and was removed.
    pub(super) fn check_unfinished(&mut self) -> Result<bool, ConnectionEnd> {
        let Some(verb) = Command::verb(&self.incoming) else { return Ok(false) };
        if let Err(error) = check_tls(verb, self.broker.config(), &self.agreed) {
            return Err(self.refuse(&error));
        }
        if verb == b"MPUB"
            && let Some(topic) = Command::mpub_topic(&self.incoming)
            && let Err(error) = self.check_early(&topic)
        {
            return Err(self.refuse(&error));
        }
        if matches!(verb, b"PUB" | b"MPUB" | b"DPUB") {
            return Ok(false); // allowed in every phase; avoids a lock for each part of a large message
        }
        let phase = self.broker.change(|state, _| state.phase(self.session));
        match admit(verb, phase, &self.agreed) {
            Ok(Admission::Execute) => Ok(false),
            Ok(Admission::Ignore) => {
                let line = memchr::memchr(b'\n', &self.incoming).expect("it has a verb");
                self.incoming.advance(line + 1);
                Ok(true)
            }
            Err(error) => Err(self.refuse(&error)),
        }
    }
}

/// Consecutive PUBs to one topic, which are published together.
struct GatheredPubs {
    topic: TopicName,
    bodies: Vec<Bytes>,
}

/// Execution of the commands of one read, under the lock.
struct CommandBatch<'a> {
    broker: &'a Broker,
    state: &'a mut BrokerState,
    session: SessionId,
    agreed: &'a mut Negotiated,
    authentication: &'a Authentication,
    now: Now,
    gathered: Option<GatheredPubs>,
    /// The log's position after the last published message.
    published: Option<u64>,
    has_subscribed: bool,
    /// The secret of an AUTH, which is the last command.
    secret: &'a mut Option<Bytes>,
}

impl<'a> CommandBatch<'a> {
    fn execute(&mut self, command: Command) -> Result<(), ProtocolError> {
        check_tls(command.name(), self.config(), self.agreed)?;
        if let Command::Pub { topic, body } = command {
            self.check_grants(b"PUB", &topic, None)?;
            return self.gather(topic, body);
        }
        self.publish_gathered()?;
        let phase = self.state.phase(self.session);
        if admit(command.name(), phase, self.agreed)? == Admission::Ignore {
            return Ok(());
        }
        match &command {
            Command::Mpub { topic, .. } | Command::Dpub { topic, .. } | Command::Fpub { topic, .. } => {
                self.check_grants(command.name(), topic, None)?;
            }
            Command::Sub { topic, channel } => self.check_grants(command.name(), topic, Some(channel))?,
            _ => {}
        }
        match command {
            Command::Identify(wishes) => self.identify(&wishes),
            Command::Auth(secret) => self.take_secret(secret),
            Command::Sub { topic, channel } => self.subscribe(&topic, &channel),
            Command::Rdy(count) => self.ready(count),
            Command::Fin(id) => self.reply_to_message(|batch| {
                let done = batch.state.finish(batch.session, &id, batch.now);
                done.map_err(|why| (ErrorCode::FinFailed, format!("FIN {id} failed {why}")))
            }),
            Command::Req { id, delay } => self.reply_to_message(|batch| {
                let done = batch.state.requeue(batch.session, &id, delay, batch.now);
                done.map_err(|why| (ErrorCode::ReqFailed, format!("REQ {id} failed {why}")))
            }),
            Command::Back { id, delay } => self.reply_to_message(|batch| {
                let done = batch.state.give_back(batch.session, &id, delay, batch.now);
                done.map_err(|why| (ErrorCode::ReqFailed, format!("BACK {id} failed {why}")))
            }),
            Command::Touch(id) => self.reply_to_message(|batch| {
                let done = batch.state.touch(batch.session, &id, batch.now);
                done.map_err(|why| (ErrorCode::TouchFailed, format!("TOUCH {id} failed {why}")))
            }),
            Command::Cls => self.close(),
            Command::Nop => Ok(()),
            Command::Pub { .. } => unreachable!("taken above"),
            Command::Dpub { topic, delay, body } => {
                self.publish(&topic, Bodies::one(body), Some(delay), ErrorCode::DpubFailed, 1)
            }
            Command::Fpub { topic, epoch, body } => self.publish_in(&topic, epoch, body),
            Command::Mpub { topic, bodies } => self.publish(&topic, bodies, None, ErrorCode::MpubFailed, 1),
        }
    }

    fn gather(&mut self, topic: TopicName, body: Bytes) -> Result<(), ProtocolError> {
        match &mut self.gathered {
            Some(gathered) if gathered.topic == topic => gathered.bodies.push(body),
            _ => {
                self.publish_gathered()?;
                self.gathered = Some(GatheredPubs { topic, bodies: vec![body] });
            }
        }
        Ok(())
    }

    fn publish_gathered(&mut self) -> Result<(), ProtocolError> {
        let Some(GatheredPubs { topic, bodies }) = self.gathered.take() else { return Ok(()) };
        let oks = bodies.len();
        self.publish(&topic, bodies.into_iter().collect(), None, ErrorCode::PubFailed, oks)
    }

    /// Publishes, and sends `oks` OKs.
    fn publish(
        &mut self,
        topic: &TopicName,
        bodies: Bodies,
        delay: Option<u64>,
        failed: ErrorCode,
        oks: usize,
    ) -> Result<(), ProtocolError> {
        let count = u64::from(bodies.count());
        let published = self.state.publish(topic, bodies.compact(), delay, self.now);
        published.map_err(|why| {
            self.broker.count_refused_publish();
            let verb = failed.as_str().trim_start_matches("E_").trim_end_matches("_FAILED");
            ProtocolError::new(failed, format!("{verb} failed {why}"))
        })?;
        self.published = Some(self.state.position());
        self.state.count_published(self.session, topic, count);
        (0..oks).for_each(|_| self.respond(Response::Ok));
        Ok(())
    }

    /// Publishes, unless the topic is fenced by a later epoch.
    fn publish_in(&mut self, topic: &TopicName, epoch: u64, body: Bytes) -> Result<(), ProtocolError> {
        match self.state.fence(topic, epoch) {
            Ok(()) => self.publish(topic, Bodies::one(body), None, ErrorCode::PubFailed, 1),
            Err(fence) => {
                let text = format!("{fence} is the epoch of {topic}, {epoch} is over");
                self.reply_to_message(|_| Err((ErrorCode::Fenced, text)))
            }
        }
    }

    fn identify(&mut self, wishes: &[u8]) -> Result<(), ProtocolError> {
        let bad = |_| ProtocolError::new(ErrorCode::BadBody, "IDENTIFY failed to decode JSON body");
        let wishes = Identify::from_json(wishes).map_err(bad)?;
        let negotiates = wishes.feature_negotiation;
        let config = self.config();
        self.agreed.take(wishes, config)?;
        self.state.identify(self.session, self.agreed.settings.clone());
        let reply = match negotiates {
            false => Response::Ok,
            true => {
                let reply = self.agreed.reply(config);
                Response::Data(serde_json::to_vec(&reply).expect("a reply has only string keys").into())
            }
        };
        self.respond(reply);
        Ok(())
    }

    /// Keeps the secret of AUTH, which is checked after this batch.
    fn take_secret(&mut self, secret: Bytes) -> Result<(), ProtocolError> {
        if self.authentication.is_done() {
            return Err(invalid("AUTH already set"));
        }
        if self.config().auth.is_none() {
            return Err(ProtocolError::new(ErrorCode::AuthDisabled, "AUTH disabled"));
        }
        *self.secret = Some(secret);
        Ok(())
    }

    /// Checks that the client may publish or subscribe, if the command does.
    fn check_grants(&self, verb: &[u8], topic: &TopicName, channel: Option<&ChannelName>) -> Result<(), ProtocolError> {
        match self.config().auth {
            Some(_) => self.authentication.check(verb, topic, channel),
            None => Ok(()),
        }
    }

    fn subscribe(&mut self, topic: &TopicName, channel: &ChannelName) -> Result<(), ProtocolError> {
        let subscribed = self.state.subscribe(self.session, topic, channel, self.now);
        subscribed.map_err(|why| ProtocolError::new(ErrorCode::SubFailed, format!("SUB failed {why}")))?;
        self.has_subscribed = true;
        self.respond(Response::Ok);
        Ok(())
    }

    fn ready(&mut self, count: u64) -> Result<(), ProtocolError> {
        let most = self.config().max_rdy_count;
        if count > most {
            return Err(invalid(format!("RDY count {count} out of range 0-{most}")));
        }
        self.state.ready(self.session, count, self.now);
        Ok(())
    }

    /// Executes FIN, REQ, BACK or TOUCH. A failure, for example after the message timed out, is
    /// sent to the client, and does not end the connection.
    fn reply_to_message(
        &mut self,
        answer: impl FnOnce(&mut Self) -> Result<(), (ErrorCode, String)>,
    ) -> Result<(), ProtocolError> {
        if let Err((code, text)) = answer(self) {
            let error = Frame::Error(WireError::parse(format!("{code} {text}").into()));
            self.state.reply(self.session, |out| error.encode(out));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ProtocolError> {
        self.state.close(self.session);
        self.respond(Response::CloseWait);
        Ok(())
    }

    fn respond(&mut self, response: Response) {
        self.state.reply(self.session, |out| Frame::Response(response).encode(out));
    }

    fn config(&self) -> &'a BrokerConfig {
        self.broker.config()
    }
}

/// Checks that a command may come without TLS, where there is none.
fn check_tls(verb: &[u8], config: &BrokerConfig, agreed: &Negotiated) -> Result<(), ProtocolError> {
    let refused = config.tls_required != TlsRequired::No && agreed.settings.security.tls.is_none();
    match refused && verb != b"IDENTIFY" {
        true => Err(invalid(format!("cannot {} in current state (TLS required)", String::from_utf8_lossy(verb)))),
        false => Ok(()),
    }
}

fn invalid(text: impl Into<String>) -> ProtocolError {
    ProtocolError::new(ErrorCode::Invalid, text)
}

/// Decision about a command that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// Execute the command.
    Execute,
    /// Ignore the command, whatever its parameters: it came too late.
    Ignore,
}

/// Checks whether a command is allowed in this phase; like nsqd, before its parameters are checked.
fn admit(verb: &[u8], phase: SessionPhase, agreed: &Negotiated) -> Result<Admission, ProtocolError> {
    let fits = match verb {
        b"FPUB" if !agreed.fence => return Err(invalid("invalid command FPUB")),
        b"BACK" if !agreed.give_back => return Err(invalid("invalid command BACK")),
        b"IDENTIFY" | b"AUTH" | b"SUB" => phase == SessionPhase::New,
        b"FIN" | b"REQ" | b"BACK" | b"TOUCH" => phase != SessionPhase::New,
        b"CLS" => phase == SessionPhase::Subscribed,
        b"RDY" if phase == SessionPhase::Closing => return Ok(Admission::Ignore),
        b"RDY" => phase == SessionPhase::Subscribed,
        _ => true,
    };
    match fits {
        false => Err(invalid(format!("cannot {} in current state", String::from_utf8_lossy(verb)))),
        true if verb == b"SUB" && agreed.heartbeat.is_none() => Err(invalid("cannot SUB with heartbeats disabled")),
        true => Ok(Admission::Execute),
    }
}
