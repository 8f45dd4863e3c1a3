//! The shell around the lease: two connections, a clock, and the events.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::clock;
use super::episode::Episode;
use super::event;
use super::generator::Generator;
use super::lease::{Action, Beat, Charter, Config, Event as Happened, Lease, Secret, Token};
use super::line::{Line, Said};
use super::places::Places;
use super::vars::Vars;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::node::args::Args;
use mqueue::client::SubscriptionEvent;
use mqueue::plural::count;
use mqueue::proto::{Command, ErrorCode, Message, WireError};
use mqueue::shutdown::Shutdown;

/// Events that may be on their way to nsqd.
const AHEAD: usize = 1000;
/// Tokens that may be here at once: a second one is finished.
const TOKENS: u64 = 2;
/// Beats that may be on their way here.
const BEATS: u64 = 100;
const FAR: Duration = Duration::from_secs(1 << 30);

/// What nsqd is to answer, in this order.
#[derive(Debug)]
enum Asked {
    Beat(u64),
    Event,
    Mint,
}

type Counting = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

/// This node's place in the fleet.
pub(super) struct Post {
    places: Places,
    charter: Charter,
    lease: Lease,
    token: Line,
    ears: Line,
    asked: VecDeque<Asked>,
    counting: Option<Counting>,
    generator: Generator,
    vars: Arc<Vars>,
    leading: watch::Sender<bool>,
    /// Messages where tokens are that are none.
    no_tokens: Episode,
    /// Messages where beats are that are none.
    no_beats: Episode,
    /// Tokens and beats of nodes with other settings.
    others: Episode,
}

impl Post {
    /// Connects. Fails if nsqd cannot be had, or does not do.
    pub(super) async fn take(
        args: &Args,
        places: Places,
        vars: Arc<Vars>,
        leading: watch::Sender<bool>,
    ) -> Result<Self, Failure> {
        let token = places.open_token().await?;
        let ears = places.ears_line().await.map_err(|e| Failure::unavailable(&e))?;
        let mut rng = event::rng();
        let node = format!("{}-{}-{:016x}", hostname(), std::process::id(), rng.u64(..));
        let lease_ms = u64::try_from(args.ping_interval.as_millis()).unwrap_or(u64::MAX);
        let charter = Charter { stream: args.stream.clone(), lease_ms };
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|e| Failure::new(Exit::Unavailable, format!("no randomness from the system: {e}")))?;
        let config = Config { node, charter: charter.clone(), secret: Secret::new(secret) };
        let (for_token, for_ears) = (places.clone(), places.clone());
        Ok(Self {
            charter,
            lease: Lease::new(config, rng.fork()),
            token: Line::new("the token", token, Box::new(move || for_token.token_line())),
            ears: Line::new("beats", ears, Box::new(move || for_ears.ears_line())),
            asked: VecDeque::new(),
            counting: None,
            generator: Generator::new(args.stream.clone(), args.interval(), rng),
            places,
            vars,
            leading,
            no_tokens: Episode::default(),
            no_beats: Episode::default(),
            others: Episode::default(),
        })
    }

    /// Holds the post until the node is to end.
    pub(super) async fn stand(mut self, shutdown: &Shutdown) {
        self.say_that_it_waits();
        self.is_up();
        self.is_listening();
        loop {
            let now = clock::now();
            let wait = self.lease.due().map_or(FAR, |due| due.saturating_sub(now));
            let generates = self.lease.leads(now).is_some() && self.asked.len() < AHEAD;
            tokio::select! {
                biased;
                () = shutdown.draining.cancelled() => {
                    self.happened(Happened::Stop);
                    break;
                }
                said = self.token.next() => self.token_said(said),
                said = self.ears.next() => self.ears_said(said),
                count = counted(&mut self.counting) => {
                    self.counting = None;
                    self.happened(Happened::Counted(count));
                }
                () = tokio::time::sleep(wait) => self.happened(Happened::Tick),
                _ = self.generator.due(), if generates => self.generate(),
            }
        }
        self.look();
        self.token.close().await;
    }

    fn is_up(&mut self) {
        self.happened(Happened::Connected { max_hold: self.token.max_hold() });
    }

    fn is_listening(&mut self) {
        self.ears.say(&Command::Rdy(BEATS));
        self.happened(Happened::Listening);
    }

    fn token_said(&mut self, said: Said) {
        match said {
            Said::Up => self.is_up(),
            Said::Lost => self.token_lost(),
            Said::Heard(SubscriptionEvent::Message(message)) => self.delivered(&message),
            Said::Heard(SubscriptionEvent::Published) => match self.asked.pop_front() {
                Some(Asked::Beat(number)) => self.happened(Happened::Proven { number }),
                Some(Asked::Event) => drop(self.vars.published.fetch_add(1, Ordering::Relaxed)),
                Some(Asked::Mint) | None => {}
            },
            Said::Heard(SubscriptionEvent::Failed(error)) => {
                tracing::debug!("{error}");
                match error.code {
                    ErrorCode::TouchFailed => self.happened(Happened::Lost),
                    ErrorCode::Fenced => self.fenced(&error),
                    _ => {}
                }
            }
        }
    }

    /// An event was refused: the stream is in a later epoch, which the error begins with.
    fn fenced(&mut self, error: &WireError) {
        self.asked.pop_front();
        let epoch = str::from_utf8(&error.text).ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
        tracing::warn!("an event was refused, it came too late: {error}");
        self.happened(Happened::Fenced { epoch: epoch.unwrap_or(0) });
    }

    fn token_lost(&mut self) {
        self.asked.clear();
        self.happened(Happened::Disconnected);
    }

    /// A message of the token's stream; what is no token has no place there.
    fn delivered(&mut self, message: &Message) {
        match serde_json::from_slice(&message.body) {
            Ok(charter) => {
                let token = Token { id: message.id, delivery: message.attempts };
                let published = milliseconds(message);
                self.happened(Happened::Taken { token, published, charter });
            }
            Err(error) => {
                if let Some(count) = self.no_tokens.happens(clock::now()) {
                    tracing::warn!(count, "removed a message from {} that is no token: {error}", self.places.token);
                }
                self.token.say(&Command::Fin(message.id));
            }
        }
    }

    fn ears_said(&mut self, said: Said) {
        match said {
            Said::Up => self.is_listening(),
            Said::Lost => self.happened(Happened::Deaf),
            Said::Heard(SubscriptionEvent::Message(message)) => {
                self.ears.say(&Command::Fin(message.id));
                match serde_json::from_slice::<Beat>(&message.body) {
                    Ok(beat) => {
                        self.happened(Happened::Heard { beat, published: milliseconds(&message) });
                    }
                    Err(error) => {
                        if let Some(count) = self.no_beats.happens(clock::now()) {
                            tracing::warn!(count, "a message in {} is no beat: {error}", self.places.beats);
                        }
                    }
                }
            }
            Said::Heard(SubscriptionEvent::Published | SubscriptionEvent::Failed(_)) => {}
        }
    }

    fn happened(&mut self, what: Happened) {
        self.lease.know(self.vars.seen_epoch.load(Ordering::Relaxed));
        for action in self.lease.handle(what, clock::now()) {
            self.act(action);
        }
        self.look();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ready(ready) => self.tell(&Command::Rdy(if ready { TOKENS } else { 0 })),
            Action::Beat { beat, touch } => {
                touch.into_iter().for_each(|token| self.tell(&Command::Touch(token.id)));
                let body = Bytes::from(serde_json::to_vec(&beat).expect("text and numbers"));
                self.publish(Command::Pub { topic: self.places.beats.clone(), body }, Asked::Beat(beat.number));
            }
            Action::Finish(token) => self.tell(&Command::Fin(token.id)),
            Action::GiveBack(token) => self.tell(&Command::Req { id: token.id, delay: 0 }),
            Action::PutOff(token) => self.tell(&Command::Req { id: token.id, delay: self.charter.lease_ms / 4 }),
            Action::Count => self.counting = Some(Box::pin(self.places.clone().count())),
            Action::Mint => {
                tracing::info!(stream = %self.places.token, "no node has a token: published one");
                let body = Bytes::from(serde_json::to_vec(&self.charter).expect("text and numbers"));
                self.publish(Command::Pub { topic: self.places.token.clone(), body }, Asked::Mint);
            }
            Action::Reconnect => {
                tracing::warn!("nsqd did not answer in time: gave the token up");
                self.token.again();
                self.token_lost();
            }
            Action::Relisten => {
                self.ears.again();
                self.happened(Happened::Deaf);
            }
            Action::Differs(theirs) => self.differs(&theirs),
        }
    }

    /// Without a connection it is not said: what it is about went with the last one.
    fn tell(&mut self, command: &Command) {
        self.token.say(command);
    }

    fn publish(&mut self, command: Command, asked: Asked) {
        if self.token.say(&command) {
            self.asked.push_back(asked);
        }
    }

    fn generate(&mut self) {
        // asked as late as can be: what follows is a write
        let Some(epoch) = self.lease.leads(clock::now()) else { return self.look() };
        let command = self.generator.event(epoch, self.token.fences());
        self.publish(command, Asked::Event);
        self.vars.generated.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells whoever wants to know that this node generates, or no longer.
    fn look(&mut self) {
        let epoch = self.lease.leads(clock::now()).unwrap_or(0);
        let before = self.vars.epoch.swap(epoch, Ordering::Relaxed);
        if before == epoch {
            return;
        }
        if before > 0 {
            tracing::info!(epoch = before, "no longer generating: {}", count(self.generator.events(), "event"));
            self.say_that_it_waits();
        }
        if epoch > 0 {
            self.vars.terms.fetch_add(1, Ordering::Relaxed);
            self.generator.begin(epoch);
            tracing::info!(epoch, stream = %self.generator.stream(), "generating");
        }
        self.leading.send_replace(epoch > 0);
    }

    /// A node that only generates does nothing else meanwhile.
    fn say_that_it_waits(&self) {
        if self.vars.only_generates {
            tracing::info!(
                stream = %self.generator.stream(),
                "waiting to generate: it begins when no other node generates"
            );
        }
    }

    /// Others have agreed on something else. They may be a fleet of their own, or somebody makes up beats.
    fn differs(&mut self, theirs: &Charter) {
        let Some(count) = self.others.happens(clock::now()) else { return };
        let shown = |charter: &Charter| {
            let lease = humantime::format_duration(Duration::from_millis(charter.lease_ms)).to_string();
            format!("stream {}, ping interval {lease}", charter.stream)
        };
        tracing::warn!(
            count,
            "nodes with other settings use {} ({}; here: {}): use the same on all, or another --token-stream",
            self.places.token,
            shown(theirs),
            shown(&self.charter)
        );
    }
}

/// When nsqd took a message, in milliseconds since 1970.
fn milliseconds(message: &Message) -> u64 {
    u64::try_from(message.timestamp / 1_000_000).unwrap_or(0)
}

async fn counted(counting: &mut Option<Counting>) -> Option<u64> {
    match counting {
        Some(counting) => counting.await,
        None => std::future::pending().await,
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "node".to_owned(), |name| name.to_string_lossy().into_owned())
}
