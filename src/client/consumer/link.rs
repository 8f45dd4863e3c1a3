//! One nsqd's connection, and the task that keeps it: reads messages, writes answers and RDY.
//!
//! A turn of the loop writes everything that has gathered at once: a lower RDY before the FINs, so that they open no room that
//! is not meant, and a higher one after them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use bytes::Buf;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::delivery::{Answer, Delivery, Port, Verb};
use super::finished::Finished;
use super::held::{Answered, Arrival, Held};
use super::hub::Hub;
use crate::backoff::Backoff;
use crate::client::connection::Connection;
use crate::client::{Address, Error, Flow};
use crate::proto::{Command, Frame, MessageId, Response, TopicName};

type Sender = UnboundedSender<Vec<Delivery>>;

/// How long nsqd has for its last words: CLOSE_WAIT after CLS, and the end of the stream after ours.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A message is touched when this part of its time has passed.
const TOUCH_PART: u32 = 3;
/// Messages that may always be here at once: those whose time ran out while they are handled are here beyond RDY.
const LEEWAY: u32 = 1000;
/// Bytes of messages with the application, over all of the consumer's connections, ended ones too, beyond which no more are read:
/// what nsqd sends against RDY must not fill the memory.
const MAX_BYTES: usize = 1 << 30;
/// How soon a connection that is not read looks whether it may be: the room may come from another connection's messages.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The least age at which a message is touched, whatever msg_timeout nsqd grants.
const LEAST_TOUCH_AGE: Duration = Duration::from_millis(100);
const FAR: Duration = Duration::from_secs(1 << 30);

/// Connects to `address` and subscribes to the consumer's channel of `topic`.
pub(super) async fn subscribe(hub: &Hub, topic: &TopicName, address: &Address) -> Result<Connection, Error> {
    let mut connection = Connection::open(address, &hub.config.connect).await?;
    let (topic, channel) = (topic.clone(), hub.config.channel.clone());
    match connection.ask(&Command::Sub { topic, channel }).await? {
        Response::Ok => Ok(connection),
        other => Err(connection.unexpected(format!("{other:?}"))),
    }
}

/// Keeps a subscription at `address` until the consumer stops, or the address is forgotten and the connection ends.
pub(super) async fn run(hub: Arc<Hub>, address: Address, mut first: Result<Connection, Error>, sender: Sender) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10), fastrand::Rng::new());
    let mut across = Across::default();
    loop {
        match first {
            Ok(connection) => {
                tracing::debug!(nsqd = %address, version = connection.granted.version, round_trip = ?connection.round_trip, "subscribed");
                let stopping = hub.stopping.clone();
                let mut link = Link::new(&hub, connection, &sender, stopping, &mut across);
                let (ended, lived) = (link.run().await, link.lived);
                // who breaks the protocol again and again is met ever more rarely
                let is_sound = link.answered || !ended.as_ref().is_err_and(Error::is_misconduct);
                if lived && is_sound {
                    backoff.reset();
                }
                match ended {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(nsqd = %address, "connection lost: {error}"),
                }
                hub.look_again.notify_one();
            }
            Err(error) => tracing::debug!(nsqd = %address, "no connection: {error}"),
        }
        if !hub.wait_to_connect(&address, &mut backoff).await {
            return;
        }
        first = tokio::select! {
            () = hub.stopping.cancelled() => return,
            subscribed = subscribe(&hub, &hub.config.topic, &address) => subscribed,
        };
        if first.is_ok() {
            tracing::info!(nsqd = %address, "connected again");
        }
    }
}

/// Serves one connection until it is lost, or until `stopping`.
pub(super) async fn serve_once(
    hub: &Hub,
    connection: Connection,
    sender: &Sender,
    stopping: CancellationToken,
) -> Result<(), Error> {
    Link::new(hub, connection, sender, stopping, &mut Across::default()).run().await
}

/// How far the connection's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Messages come.
    Open,
    /// CLS is sent; CLOSE_WAIT is due by then.
    Closing(Instant),
    /// No more messages come. What is held is still to be answered.
    Draining,
}

/// What is known of an nsqd over all of a link's connections.
#[derive(Debug, Default)]
struct Across {
    /// What was finished.
    finished: Finished,
    /// How many of its messages the application holds. Those of ended connections count: else there would be more with each connection.
    with_application: Arc<AtomicUsize>,
    /// The highest RDY that it was told.
    most_rdy: u32,
}

struct Link<'a> {
    hub: &'a Hub,
    port: Arc<Port>,
    connection: Connection,
    /// Gone once no more messages come.
    sender: Option<Sender>,
    /// No more messages are wanted.
    stopping: CancellationToken,
    held: Held,
    across: &'a mut Across,
    /// The RDY that nsqd was told last.
    rdy: u32,
    phase: Phase,
    /// Answers as they were taken; kept for its room.
    answers: Vec<Answer>,
    /// False while the application has more than it may: then nsqd waits.
    reads: bool,
    /// Something was read.
    lived: bool,
    /// A message was answered.
    answered: bool,
    /// When something was read last.
    heard: Instant,
    /// When held messages were last looked through.
    looked: Instant,
}

impl<'a> Link<'a> {
    fn new(
        hub: &'a Hub,
        connection: Connection,
        sender: &Sender,
        stopping: CancellationToken,
        across: &'a mut Across,
    ) -> Self {
        let now = Instant::now();
        let (max_rdy, round_trip) = (connection.granted.max_rdy_count, connection.round_trip);
        let port = hub.join(&connection.address, max_rdy, round_trip, across.with_application.clone());
        Self {
            hub,
            port,
            connection,
            sender: Some(sender.clone()),
            stopping,
            held: Held::default(),
            across,
            rdy: 0,
            phase: Phase::Open,
            answers: Vec::new(),
            reads: true,
            lived: false,
            answered: false,
            heard: now,
            looked: now,
        }
    }

    async fn run(&mut self) -> Result<(), Error> {
        let ended = self.serve().await;
        self.port.close();
        self.hub.leave(self.port.id);
        ended
    }

    /// Serves the connection until it is lost, or until the consumer has stopped and everything is answered (`Ok`).
    async fn serve(&mut self) -> Result<(), Error> {
        let (stopping, port) = (self.stopping.clone(), self.port.clone());
        // the messages of the connections before may be too many already
        self.set_reads();
        // a heartbeat may have come with SUB's answer
        self.take_in()?;
        let mut alarm = std::pin::pin!(sleep(FAR));
        let mut write_failed = false;
        loop {
            let due = self.write();
            if self.phase == Phase::Draining && self.held.is_empty() && !self.connection.out.has_remaining() {
                self.say_goodbye().await;
                return Ok(());
            }
            if alarm.deadline().into_std() > due {
                alarm.as_mut().reset(due.into());
            }
            let Connection { stream, incoming, out, .. } = &mut self.connection;
            let (mut reader, mut writer) = stream.split();
            tokio::select! {
                biased;
                wrote = writer.write_buf(out), if out.has_remaining() && !write_failed => {
                    // what nsqd said before it closed may still be there to read
                    write_failed = wrote.is_err();
                }
                read = incoming.fill(&mut reader), if self.reads => {
                    self.lived = true;
                    if self.read(read)? {
                        // a quick handler's answers then go out with the new RDY, in one write
                        tokio::task::yield_now().await;
                    }
                }
                () = port.wake.notified() => {}
                () = stopping.cancelled(), if self.phase == Phase::Open => {
                    if self.rdy > 0 {
                        self.set_rdy(0);
                    }
                    Command::Cls.encode(&mut self.connection.out);
                    self.phase = Phase::Closing(Instant::now() + LAST_WORDS);
                }
                () = &mut alarm => {
                    self.tick()?;
                    alarm.as_mut().reset(tokio::time::Instant::now() + FAR);
                }
            }
        }
    }

    /// Gathers what is to be said: answers, and RDY. Returns when the next tick is due.
    fn write(&mut self) -> Instant {
        let mut answers = std::mem::take(&mut self.answers);
        self.port.take_answers(&mut answers);
        self.settle(&mut answers);
        let (rdy, flow_due) = self.hub.wishes(self.port.id);
        if rdy < self.rdy {
            self.set_rdy(rdy);
        }
        for Answer { id, verb, .. } in answers.drain(..) {
            let command = match verb {
                Verb::Finish => Command::Fin(id),
                Verb::Requeue(delay) => Command::Req { id, delay: millis(delay) },
                Verb::Abandon => Command::Req { id, delay: 0 },
                Verb::Release => self.untried(id, Duration::ZERO),
                Verb::PutOff(delay) => self.untried(id, delay),
                Verb::Touch => Command::Touch(id),
            };
            command.encode(&mut self.connection.out);
        }
        self.answers = answers;
        if rdy > self.rdy {
            self.set_rdy(rdy);
        }
        self.due(flow_due)
    }

    /// Gives a message back that was not tried. nsqd counts the delivery all the same, so it is noted here.
    fn untried(&self, id: MessageId, delay: Duration) -> Command {
        let delay = millis(delay);
        if self.connection.granted.give_back {
            return Command::Back { id, delay };
        }
        self.hub.config.given_back.note(&self.connection.address, id);
        Command::Req { id, delay }
    }

    /// Strikes answered messages off, and leaves only the answers that are to be sent.
    fn settle(&mut self, answers: &mut Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let now = Instant::now();
        let (mut done, mut failed, mut released) = (0, 0, 0);
        let (address, takes_back) = (&self.connection.address, self.connection.granted.give_back);
        answers.retain_mut(|Answer { id, attempts, verb }| {
            let count = match verb {
                Verb::Touch => return self.held.touched(*id, *attempts, now),
                Verb::Finish => &mut done,
                Verb::Requeue(_) | Verb::PutOff(_) => &mut failed,
                Verb::Abandon | Verb::Release => &mut released,
            };
            let Some(Answered { timestamp, copies }) = self.held.answered(*id, *attempts) else {
                tracing::debug!(nsqd = %address, %id, "answer not sent: another message has its id");
                return false;
            };
            match verb {
                Verb::Finish => self.across.finished.note(timestamp, *id),
                _ if copies == 0 => {}
                _ if takes_back => *verb = verb.of_a_copy(),
                _ => (0..copies).for_each(|_| self.hub.config.given_back.note(address, *id)),
            }
            *count += 1;
            true
        });
        self.answered |= done + failed > 0;
        self.hub.answered(self.port.id, done, failed, released);
        self.set_reads();
    }

    /// Reads on, or lets nsqd wait, by what is with the application.
    fn set_reads(&mut self) {
        let (messages, bytes) = (self.port.held_messages(), self.port.held_bytes());
        let reads = messages <= self.room() && bytes < MAX_BYTES;
        if reads && !self.reads {
            // it could not be heard meanwhile
            self.heard = Instant::now();
            self.connection.incoming.wait_anew();
        } else if !reads && self.reads {
            tracing::warn!(
                nsqd = %self.connection.address,
                "not read until more is answered: {messages} of its messages are not, and {bytes} bytes of all nsqds'"
            );
        }
        self.reads = reads;
    }

    /// Messages that may be here at once, by what this side asked for: what the peer says of itself is no bound.
    fn room(&self) -> usize {
        2 * self.across.most_rdy.max(LEEWAY) as usize
    }

    fn set_rdy(&mut self, rdy: u32) {
        if self.phase == Phase::Open {
            self.rdy = rdy;
            self.across.most_rdy = self.across.most_rdy.max(rdy);
            Command::Rdy(rdy.into()).encode(&mut self.connection.out);
        }
    }

    /// Takes in what was read; true if there were messages.
    fn read(&mut self, read: io::Result<usize>) -> Result<bool, Error> {
        let address = self.connection.address.clone();
        match read {
            Ok(0) => return Err(Error::Closed { address, source: None }),
            Ok(_) => self.heard = Instant::now(),
            Err(e) => return Err(Error::Closed { address, source: Some(e) }),
        }
        self.take_in()
    }

    /// Takes in the frames that are there; the messages go on together. True if there were any.
    fn take_in(&mut self) -> Result<bool, Error> {
        let address = self.connection.address.clone();
        let (mut batch, mut replaced) = (Vec::new(), 0);
        let given_back = self.hub.config.given_back.look(&address);
        loop {
            let broken = |source| Error::Frame { address: self.connection.address.clone(), source };
            match self.connection.incoming.next_frame().map_err(broken)? {
                None => break,
                Some(Frame::Message(message)) => {
                    if self.across.finished.has(&message) {
                        tracing::debug!(nsqd = %address, id = %message.id, attempts = message.attempts, "finished already: a copy is skipped");
                        Command::Fin(message.id).encode(&mut self.connection.out);
                        continue;
                    }
                    match self.held.arrived(&message, self.heard) {
                        Arrival::New => {}
                        Arrival::Replaces => replaced += 1,
                        Arrival::Copy => {
                            tracing::debug!(nsqd = %address, id = %message.id, attempts = message.attempts, "being worked on: a copy is not handed out");
                            continue;
                        }
                    }
                    let given_back = given_back.as_ref().map_or(0, |count| count(message.id));
                    batch.push(Delivery::new(message, self.port.clone(), given_back));
                }
                Some(Frame::Response(Response::Heartbeat)) => self.connection.answer_heartbeat(),
                Some(Frame::Response(Response::CloseWait)) => self.drain(),
                Some(Frame::Response(other)) => return Err(self.connection.unexpected(format!("{other:?}"))),
                Some(Frame::Error(error)) if !error.code.is_fatal() => {
                    tracing::debug!(nsqd = %self.connection.address, "{error}");
                }
                Some(Frame::Error(source)) => return Err(Error::Refused { address, source }),
            }
        }
        self.connection.check_unread()?;
        if self.held.len() > self.room() {
            return Err(self.connection.violation(format!(
                "{} messages at once, RDY was {}",
                self.held.len(),
                self.across.most_rdy
            )));
        }
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        if count > 0 {
            let id = self.port.id;
            self.hub.update(|flow, now| {
                flow.answered(id, 0, 0, replaced, now);
                flow.received(id, count, now);
            });
            self.set_reads();
            // a consumer that is gone drops them, which gives them back
            let _ = self.sender.as_ref().map(|sender| sender.send(batch));
        }
        Ok(count > 0)
    }

    /// No more messages come.
    fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.sender = None;
    }

    /// When something has to be looked after, whatever comes in until then.
    fn due(&self, flow: Option<Instant>) -> Instant {
        let heartbeat = self.hub.config.connect.heartbeat().filter(|_| self.reads);
        let silence = heartbeat.map(|every| self.heard + 2 * every);
        let touch = (!self.held.is_empty()).then(|| self.looked + self.touch_age());
        let close_wait = match self.phase {
            Phase::Closing(until) => Some(until),
            Phase::Open | Phase::Draining => None,
        };
        let look_again = (!self.reads).then(|| Instant::now() + LOOK_AGAIN);
        let frame = self.connection.frame_due().filter(|_| self.reads);
        [flow, silence, touch, close_wait, look_again, frame]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + FAR)
    }

    /// Looks after all that may be due.
    fn tick(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.hub.update(Flow::tick);
        if !self.reads {
            self.set_reads();
        }
        if let Some(every) = self.hub.config.connect.heartbeat()
            && self.reads
            && now >= self.heard + 2 * every
        {
            return Err(Error::Silent { address: self.connection.address.clone(), after: 2 * every });
        }
        if self.reads && self.connection.frame_due().is_some_and(|due| due <= now) {
            return Err(self.connection.slow());
        }
        if now >= self.looked + self.touch_age() {
            self.looked = now;
            for id in self.held.stale(self.touch_age(), now) {
                Command::Touch(id).encode(&mut self.connection.out);
            }
        }
        if matches!(self.phase, Phase::Closing(until) if until <= now) {
            tracing::warn!(nsqd = %self.connection.address, "no CLOSE_WAIT after CLS: closing without it");
            self.drain();
        }
        Ok(())
    }

    fn touch_age(&self) -> Duration {
        (Duration::from_millis(self.connection.granted.msg_timeout) / TOUCH_PART).max(LEAST_TOUCH_AGE)
    }

    /// Closes so that the last answers are surely read: ends our side, and waits until nsqd, having read it, ends its own.
    async fn say_goodbye(&mut self) {
        let Connection { stream, incoming, .. } = &mut self.connection;
        let last_words = async {
            stream.shutdown().await?;
            while incoming.fill(stream).await? > 0 {
                while let Ok(Some(_)) = incoming.next_frame() {}
            }
            io::Result::Ok(())
        };
        match timeout(LAST_WORDS, last_words).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!(nsqd = %self.connection.address, "while closing: {e}"),
            Err(_) => tracing::warn!(nsqd = %self.connection.address, "nsqd did not close the connection in time"),
        }
    }
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}
