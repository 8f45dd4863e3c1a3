//! The task that owns the connection to one nsqd: reads messages, writes replies and RDY.
//!
//! Each turn of the loop writes all queued replies at once: a lower RDY before the FINs, which
//! would otherwise make room for unwanted messages, and a higher RDY after them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::delivery::{Delivery, HeldOfNsqd, QueuedReply, Reply, ReplyQueue};
use super::finished::RecentlyFinished;
use super::in_flight::{AnsweredMessage, Arrival, InFlightMessages, MAX_COPIES};
use super::shared::ConsumerShared;
use super::touch::TouchTimer;
use crate::backoff::Backoff;
use crate::client::connection::{Connection, Step};
use crate::client::{Address, Error, Flow};
use crate::io_error::describe;
use crate::proto::{Command, Frame, MessageId, Response, TopicName};

type DeliverySender = UnboundedSender<Vec<Delivery>>;

/// The time limit for CLOSE_WAIT after CLS, and for the end of the stream after this side's end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The least limit of messages in flight. Redelivered messages arrive beyond RDY.
const MIN_IN_FLIGHT_LIMIT: u32 = 1000;
/// The messages in flight on one connection that are always allowed beyond its RDY.
const LEEWAY: usize = 100;
/// Bytes of unanswered messages, on all of the consumer's connections including ended ones, above
/// which nothing is read: an nsqd that ignores RDY must not fill the memory.
const MAX_HELD_BYTES: usize = 1 << 30;
/// Bytes of one nsqd's unanswered messages beyond RDY, on ended connections, too, above which it is
/// disconnected, and not read until some are answered.
const MAX_BYTES_BEYOND_RDY: usize = 64 << 20;
/// The interval at which a connection with paused reading checks whether it may read again:
/// messages of other connections may have been answered.
const READ_RECHECK: Duration = Duration::from_millis(100);
/// A deadline that is never reached.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// Connects to `address` and subscribes to the consumer's channel of `topic`.
pub(super) async fn subscribe(
    shared: &ConsumerShared,
    topic: &TopicName,
    address: &Address,
) -> Result<Connection, Error> {
    let mut connection = Connection::open(address, &shared.config.connect).await?;
    let (topic, channel) = (topic.clone(), shared.config.channel.clone());
    match connection.ask(&Command::Sub { topic, channel }).await? {
        Response::Ok => Ok(connection),
        other => Err(connection.unexpected(format!("{other:?}"))),
    }
}

/// Keeps a subscription at `address` until the consumer stops, or until the connection ends after
/// discovery dropped the address.
pub(super) async fn run(
    shared: Arc<ConsumerShared>,
    address: Address,
    mut first: Result<Connection, Error>,
    sender: DeliverySender,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10), fastrand::Rng::new());
    let mut history = LinkHistory::default();
    loop {
        match first {
            Ok(connection) => {
                tracing::debug!(nsqd = %address, version = connection.granted.version, round_trip = ?connection.round_trip, "subscribed");
                let stopping = shared.stopping.clone();
                let mut link = SubscriptionLink::new(&shared, connection, &sender, stopping, &mut history);
                let (ended, read_anything) = (link.run().await, link.read_anything);
                // the delay grows for an nsqd that violates the protocol again and again, and for
                // one that misbehaves before any message is answered
                let is_sound = match &ended {
                    Err(Error::Violation { .. }) => false,
                    Err(error) => link.answered || !error.is_misconduct(),
                    Ok(()) => true,
                };
                if read_anything && is_sound {
                    backoff.reset();
                }
                match ended {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(nsqd = %address, "connection lost: {error}"),
                }
                shared.discover_soon.notify_one();
            }
            Err(error) => tracing::debug!(nsqd = %address, "no connection: {error}"),
        }
        if !shared.wait_to_connect(&address, &mut backoff).await {
            return;
        }
        first = tokio::select! {
            () = shared.stopping.cancelled() => return,
            subscribed = subscribe(&shared, &shared.config.topic, &address) => subscribed,
        };
        if first.is_ok() {
            tracing::info!(nsqd = %address, "connected again");
        }
    }
}

/// Serves one connection until it is lost or `stopping` is cancelled.
pub(super) async fn serve_once(
    shared: &ConsumerShared,
    connection: Connection,
    sender: &DeliverySender,
    stopping: CancellationToken,
) -> Result<(), Error> {
    SubscriptionLink::new(shared, connection, sender, stopping, &mut LinkHistory::default()).run().await
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkPhase {
    /// Messages arrive.
    Open,
    /// CLS is sent; CLOSE_WAIT has to arrive by this time.
    Closing(Instant),
    /// No more messages arrive; those in flight are still to be answered.
    Draining,
}

/// The state of an nsqd that outlives a connection.
#[derive(Debug, Default)]
struct LinkHistory {
    /// The messages finished last.
    finished: RecentlyFinished,
    /// This nsqd's unanswered messages.
    held: Arc<HeldOfNsqd>,
    /// The highest RDY sent to this nsqd.
    highest_rdy: u32,
}

struct SubscriptionLink<'a> {
    shared: &'a ConsumerShared,
    replies: Arc<ReplyQueue>,
    connection: Connection,
    /// `None` once no more messages arrive.
    sender: Option<DeliverySender>,
    /// Cancelled when no more messages are wanted.
    stopping: CancellationToken,
    in_flight: InFlightMessages,
    history: &'a mut LinkHistory,
    /// The RDY sent last.
    rdy: u32,
    phase: LinkPhase,
    /// A buffer for taken replies, kept for its capacity.
    answers: Vec<QueuedReply>,
    /// False while reading is paused because the application has too many unanswered messages.
    reads: bool,
    /// True if any bytes were read.
    read_anything: bool,
    /// True if a message was answered.
    answered: bool,
    /// The time of the last read.
    heard: Instant,
    touch: TouchTimer,
}

impl<'a> SubscriptionLink<'a> {
    fn new(
        shared: &'a ConsumerShared,
        connection: Connection,
        sender: &DeliverySender,
        stopping: CancellationToken,
        history: &'a mut LinkHistory,
    ) -> Self {
        let now = Instant::now();
        let (max_rdy, round_trip) = (connection.granted.max_rdy_count, connection.round_trip);
        let touch = TouchTimer::new(connection.granted.msg_timeout, now);
        let replies = shared.join(&connection.address, max_rdy, round_trip, history.held.clone());
        Self {
            shared,
            replies,
            connection,
            sender: Some(sender.clone()),
            stopping,
            in_flight: InFlightMessages::default(),
            history,
            rdy: 0,
            phase: LinkPhase::Open,
            answers: Vec::new(),
            reads: true,
            read_anything: false,
            answered: false,
            heard: now,
            touch,
        }
    }

    async fn run(&mut self) -> Result<(), Error> {
        let ended = self.serve().await;
        self.replies.close();
        self.shared.leave(self.replies.id);
        ended
    }

    /// Serves the connection until it is lost, or until the consumer has stopped and every message
    /// is answered (`Ok`).
    async fn serve(&mut self) -> Result<(), Error> {
        let (stopping, replies) = (self.stopping.clone(), self.replies.clone());
        // unanswered messages of earlier connections may exceed the limit already
        self.update_reading();
        // a heartbeat may have come with SUB's answer
        self.read_frames()?;
        let mut timer = std::pin::pin!(sleep(NEVER));
        loop {
            let due = self.write();
            if self.phase == LinkPhase::Draining && self.in_flight.is_empty() && !self.connection.has_unsent() {
                self.close_gracefully().await;
                return Ok(());
            }
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                step = self.connection.exchange(self.reads) => if let Step::Read(read) = step {
                    self.read_anything = true;
                    if self.read(read)? {
                        // so that the replies of a quick handler and the new RDY go out in one
                        // write
                        tokio::task::yield_now().await;
                    }
                },
                () = replies.wake.notified() => {}
                () = stopping.cancelled(), if self.phase == LinkPhase::Open => {
                    if self.rdy > 0 {
                        self.set_rdy(0);
                    }
                    Command::Cls.encode(&mut self.connection.out);
                    self.phase = LinkPhase::Closing(Instant::now() + CLOSE_TIMEOUT);
                }
                () = &mut timer => {
                    self.tick()?;
                    timer.as_mut().reset(Instant::now() + NEVER);
                }
            }
        }
    }

    /// Encodes queued replies and RDY; returns the time of the next tick.
    fn write(&mut self) -> Instant {
        let mut answers = std::mem::take(&mut self.answers);
        self.replies.take_replies(&mut answers);
        self.apply_replies(&mut answers);
        let (rdy, flow_due) = self.shared.rdy_and_deadline(self.replies.id);
        if rdy < self.rdy {
            self.set_rdy(rdy);
        }
        for QueuedReply { id, reply, .. } in answers.drain(..) {
            let command = match reply {
                Reply::Finish => Command::Fin(id),
                Reply::Requeue(delay) => Command::Req { id, delay: millis(delay) },
                Reply::Abandon => Command::Req { id, delay: 0 },
                Reply::Release => self.untried_command(id, Duration::ZERO),
                Reply::RequeueUntried(delay) => self.untried_command(id, delay),
                Reply::Touch => Command::Touch(id),
            };
            command.encode(&mut self.connection.out);
        }
        self.answers = answers;
        if rdy > self.rdy {
            self.set_rdy(rdy);
        }
        self.due(flow_due)
    }

    /// The command that requeues an untried message: BACK, or REQ on nsqd, which counts the
    /// delivery as an attempt; that is recorded here.
    fn untried_command(&self, id: MessageId, delay: Duration) -> Command {
        let delay = millis(delay);
        if self.connection.granted.give_back {
            return Command::Back { id, delay };
        }
        self.shared.config.given_back.count_requeue(&self.connection.address, id);
        Command::Req { id, delay }
    }

    /// Removes answered messages from those in flight, and drops replies that must not be sent.
    fn apply_replies(&mut self, answers: &mut Vec<QueuedReply>) {
        if answers.is_empty() {
            return;
        }
        let now = Instant::now();
        let (mut done, mut failed, mut released) = (0, 0, 0);
        let (address, takes_back) = (&self.connection.address, self.connection.granted.give_back);
        answers.retain_mut(|QueuedReply { id, attempts, reply }| {
            let count = match reply {
                Reply::Touch => return self.in_flight.touched(*id, *attempts, now),
                Reply::Finish => &mut done,
                Reply::Requeue(_) | Reply::RequeueUntried(_) => &mut failed,
                Reply::Abandon | Reply::Release => &mut released,
            };
            let Some(AnsweredMessage { timestamp, copies }) = self.in_flight.answered(*id, *attempts) else {
                tracing::debug!(nsqd = %address, %id, "reply not sent: another message has its id");
                return false;
            };
            match reply {
                Reply::Finish => self.history.finished.add(timestamp, *id),
                _ if copies == 0 => {}
                _ if takes_back => *reply = reply.for_untried_copy(),
                _ => (0..copies).for_each(|_| self.shared.config.given_back.count_requeue(address, *id)),
            }
            *count += 1;
            true
        });
        self.answered |= done + failed > 0;
        self.shared.answered(self.replies.id, done, failed, released);
        self.update_reading();
    }

    /// Pauses or resumes reading by the amount of unanswered messages.
    fn update_reading(&mut self) {
        let (messages, bytes) = (self.replies.held_messages(), self.replies.held_bytes());
        let reads = messages <= self.in_flight_limit()
            && bytes < MAX_HELD_BYTES
            && self.replies.held_bytes_beyond_rdy() <= MAX_BYTES_BEYOND_RDY;
        if reads && !self.reads {
            // nothing was read meanwhile, so silence starts now
            self.heard = Instant::now();
            self.connection.incoming.restart_frame_deadline();
        } else if !reads && self.reads {
            tracing::warn!(
                nsqd = %self.connection.address,
                "reading pauses until messages are answered: {messages} of this nsqd and {bytes} bytes of all nsqds are unanswered"
            );
        }
        self.reads = reads;
    }

    /// The limit of messages in flight on this connection. While this process is frozen, nsqd sends
    /// as many as RDY allows after each message timeout, until it misses two heartbeats.
    fn connection_limit(&self) -> usize {
        let timeouts = self.shared.config.connect.heartbeat().map_or(u128::MAX, |every| {
            (2 * every).as_millis().div_ceil(self.connection.granted.msg_timeout.max(1).into())
        });
        let times = usize::try_from(timeouts).unwrap_or(usize::MAX).saturating_add(2);
        let by_timeouts = times.saturating_mul(self.history.highest_rdy as usize).saturating_add(LEEWAY);
        by_timeouts.min(self.in_flight_limit())
    }

    /// The limit of unanswered messages of this nsqd, by the RDY that this side sent: nsqd's own
    /// claims are no limit.
    fn in_flight_limit(&self) -> usize {
        2 * self.history.highest_rdy.max(MIN_IN_FLIGHT_LIMIT) as usize
    }

    /// True if more messages are in flight than nsqd may send when it obeys RDY. Those that timed
    /// out at nsqd while this process was frozen make room there for as many again.
    fn is_beyond_rdy(&self) -> bool {
        self.in_flight.len() > 2 * self.history.highest_rdy as usize
    }

    fn set_rdy(&mut self, rdy: u32) {
        if self.phase == LinkPhase::Open {
            self.rdy = rdy;
            self.history.highest_rdy = self.history.highest_rdy.max(rdy);
            Command::Rdy(rdy.into()).encode(&mut self.connection.out);
        }
    }

    /// Processes received bytes; true if there were messages.
    fn read(&mut self, read: io::Result<usize>) -> Result<bool, Error> {
        match read {
            Ok(0) => return Err(self.connection.closed(None)),
            Ok(_) => self.heard = Instant::now(),
            Err(e) => return Err(self.connection.closed(Some(e))),
        }
        self.read_frames()
    }

    /// Processes complete frames and delivers their messages together. True if there were any.
    fn read_frames(&mut self) -> Result<bool, Error> {
        let address = self.connection.address.clone();
        let (mut batch, mut replaced) = (Vec::new(), 0);
        let given_back = self.shared.config.given_back.counter(&address);
        loop {
            let broken = |source| Error::Frame { address: self.connection.address.clone(), source };
            match self.connection.incoming.next_frame().map_err(broken)? {
                None => break,
                Some(Frame::Message(message)) => {
                    if let Some(copies) = self.history.finished.arrived(&message) {
                        if copies > MAX_COPIES {
                            return Err(self.repeats(message.id));
                        }
                        tracing::debug!(nsqd = %address, id = %message.id, attempts = message.attempts, "redelivered after it was finished; answered with FIN");
                        Command::Fin(message.id).encode(&mut self.connection.out);
                        continue;
                    }
                    match self.in_flight.arrived(&message, self.heard) {
                        Arrival::New => {}
                        Arrival::Replaces => replaced += 1,
                        Arrival::Copy => {
                            tracing::debug!(nsqd = %address, id = %message.id, attempts = message.attempts, "redelivered while being handled; not delivered again");
                            continue;
                        }
                        Arrival::Excess => return Err(self.repeats(message.id)),
                    }
                    let given_back = given_back.as_ref().map_or(0, |count| count(message.id));
                    let delivery = Delivery::new(message, self.replies.clone(), given_back);
                    batch.push(if self.is_beyond_rdy() { delivery.beyond_rdy() } else { delivery });
                }
                Some(Frame::Response(Response::Heartbeat)) => self.connection.answer_heartbeat(),
                Some(Frame::Response(Response::CloseWait)) => self.end_delivery(),
                Some(Frame::Response(other)) => return Err(self.connection.unexpected(format!("{other:?}"))),
                Some(Frame::Error(error)) if !error.code.is_fatal() => {
                    tracing::debug!(nsqd = %self.connection.address, "{error}");
                }
                Some(Frame::Error(source)) => return Err(Error::Refused { address, source }),
            }
        }
        self.connection.check_unread()?;
        if self.in_flight.len() > self.connection_limit() {
            return Err(self.connection.violation(format!(
                "{} messages at once, RDY was {}",
                self.in_flight.len(),
                self.history.highest_rdy
            )));
        }
        let beyond = self.replies.held_bytes_beyond_rdy();
        if beyond > MAX_BYTES_BEYOND_RDY {
            let rdy = self.history.highest_rdy;
            return Err(self.connection.violation(format!("{beyond} bytes of messages beyond RDY, which was {rdy}")));
        }
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        if count > 0 {
            let id = self.replies.id;
            self.shared.update(|flow, now| {
                flow.received(id, count, now);
                flow.answered(id, 0, 0, replaced, now);
            });
            self.update_reading();
            // a dropped consumer drops the deliveries, which requeues them
            let _ = self.sender.as_ref().map(|sender| sender.send(batch));
        }
        Ok(count > 0)
    }

    /// The error of a connection with too many copies of one message.
    fn repeats(&self, id: MessageId) -> Error {
        self.connection.violation(format!("it repeats message {id} again and again"))
    }

    /// Ends delivery: no more messages arrive.
    fn end_delivery(&mut self) {
        self.phase = LinkPhase::Draining;
        self.sender = None;
    }

    /// The time of the next tick, unless something happens first.
    fn due(&self, flow: Option<Instant>) -> Instant {
        let heartbeat = self.shared.config.connect.heartbeat().filter(|_| self.reads);
        let silence = heartbeat.map(|every| self.heard + 2 * every);
        let touch = self.touch.due(&self.in_flight);
        let close_wait = match self.phase {
            LinkPhase::Closing(until) => Some(until),
            LinkPhase::Open | LinkPhase::Draining => None,
        };
        let discover_soon = (!self.reads).then(|| Instant::now() + READ_RECHECK);
        let frame = self.connection.frame_due().filter(|_| self.reads);
        [flow, silence, touch, close_wait, discover_soon, frame]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// Handles everything that is due.
    fn tick(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.shared.update(Flow::tick);
        if !self.reads {
            self.update_reading();
        }
        if let Some(every) = self.shared.config.connect.heartbeat()
            && self.reads
            && now >= self.heard + 2 * every
        {
            return Err(Error::Silent { address: self.connection.address.clone(), after: 2 * every });
        }
        if self.reads && self.connection.frame_due().is_some_and(|due| due <= now) {
            return Err(self.connection.slow_frame_error());
        }
        for id in self.touch.take_due(&mut self.in_flight, now) {
            Command::Touch(id).encode(&mut self.connection.out);
        }
        if matches!(self.phase, LinkPhase::Closing(until) if until <= now) {
            tracing::warn!(nsqd = %self.connection.address, "no CLOSE_WAIT in time after CLS; the connection is closed without it");
            self.end_delivery();
        }
        Ok(())
    }

    /// Closes so that the last answers are surely read: ends our side, and waits until nsqd, having
    /// read it, ends its own.
    async fn close_gracefully(&mut self) {
        match timeout(CLOSE_TIMEOUT, self.connection.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::debug!(nsqd = %self.connection.address, "closing the connection failed: {}", describe(&e))
            }
            Err(_) => tracing::warn!(nsqd = %self.connection.address, "nsqd did not close the connection in time"),
        }
    }
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}
