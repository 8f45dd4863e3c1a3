//! The clock, the scheduled events, and the invariants.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::consumer::Process;
use super::nsqd::{Channel, Message};
use super::settings::{Settings, Tally};
use super::unit::Unit;
use super::wakeup::{Answer, Watch};
use crate::commands::consumer::lifecycle::PendingCheck;
use mqueue::wake::hosts::WakeHost;

/// The number of a process.
pub(super) type Pid = usize;
/// The number of a message in a channel.
pub(super) type Id = usize;

/// wakeup's poll interval.
pub(super) const POLL: Duration = Duration::from_secs(1);
/// The longest start of a consumer: a poke, systemd, the connection, and nsqd's answer to wakeup.
pub(super) const START: Duration = Duration::from_millis(350);
/// The longest run of a handler.
pub(super) const HANDLING: Duration = Duration::from_millis(600);
/// The number of last events that a failed run prints.
const TOLD: usize = 60;

#[derive(Debug)]
pub(super) enum Event {
    Publish { stream: usize },
    PublishOn { stream: usize },
    // nsqd
    Due(Id),
    TimedOut { id: Id, attempt: u32 },
    Answered { id: Id, attempt: u32, done: bool },
    GivenBack { id: Id, attempt: u32 },
    Leave(Pid),
    Gone(Pid),
    // a consumer
    Begin(Pid),
    Subscribe(Pid),
    Reconnect(Pid),
    Arrive { pid: Pid, id: Id, attempt: u32 },
    Handled { pid: Pid, id: Id, attempt: u32 },
    LookIdle(Pid),
    CloseWait(Pid),
    TakePokes(Pid),
    Look(Pid),
    Looked(Pid, PendingCheck),
    Exited { pid: Pid, failed: bool },
    // systemd
    Poke { unit: usize },
    // wakeup
    Tick { watch: u32 },
    PollAgain { watch: u32 },
    Polled { watch: u32, answer: Answer },
    Listens { watch: u32, stream: usize },
    Heard { watch: u32, stream: usize },
    Listed { watch: u32 },
    Unlisted { watch: u32 },
    // trouble
    Trouble,
    Kill(Pid),
    NsqdReturns,
    WakeupReturns { watch: u32 },
}

pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) random: fastrand::Rng,
    pub(super) now: Duration,
    pub(super) epoch: Instant,
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    /// Messages left to publish.
    pub(super) left: u32,
    pub(super) nsqd_is_up: bool,
    pub(super) channels: Vec<Channel>,
    pub(super) messages: Vec<Message>,
    pub(super) units: Vec<Unit>,
    pub(super) processes: Vec<Process>,
    /// The wakeup of each host.
    pub(super) watches: Vec<Watch>,
    /// The number of the next run of a wakeup.
    pub(super) runs: u32,
    /// The hosts that nsqd lists, by the number of their run.
    pub(super) listed: BTreeMap<u32, Arc<WakeHost>>,
    /// The violated invariant.
    pub(super) wrong: Option<String>,
    pub(super) tally: Tally,
    tells: bool,
    told: VecDeque<String>,
}

impl World {
    pub(super) fn new(seed: u64, tells: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = Settings::any(&mut random);
        let units = settings.hosts * settings.groups.len() * settings.instances;
        let hosts = settings.hosts as u32;
        let mut world = Self {
            channels: settings.groups.iter().map(|stream| Channel::new(*stream)).collect(),
            messages: Vec::new(),
            units: (0..units).map(|unit| Unit::new(unit / settings.instances % settings.groups.len())).collect(),
            processes: Vec::new(),
            watches: (0..hosts).map(Watch::new).collect(),
            runs: hosts,
            listed: BTreeMap::new(),
            settings,
            random,
            now: Duration::ZERO,
            epoch: Instant::now(),
            events: BTreeMap::new(),
            scheduled: 0,
            left: 40,
            nsqd_is_up: true,
            wrong: None,
            tally: Tally::default(),
            tells,
            told: VecDeque::new(),
        };
        (0..hosts).for_each(|watch| world.after_ms(0, 1000, Event::Tick { watch }));
        (0..world.settings.streams).for_each(|stream| world.after_ms(0, 3000, Event::PublishOn { stream }));
        (0..world.settings.troubles).for_each(|_| world.after_ms(1000, 60_000, Event::Trouble));
        world
    }

    /// Runs to the end, or to the first violated invariant.
    pub(super) fn play(&mut self) -> Result<Tally, String> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if self.tells {
                self.told.push_back(format!("{:9.4} {event:?}", at.as_secs_f64()));
            }
            self.now = at;
            self.happen(event);
            self.check();
            if let Some(wrong) = self.wrong.take() {
                return Err(wrong);
            }
            if self.is_over() {
                return Ok(std::mem::take(&mut self.tally));
            }
            if at > Duration::from_secs(1000) {
                return Err(format!("it never ends: {:?}", self.channels));
            }
        }
        Err("nothing happens any more".to_owned())
    }

    /// Returns the settings and the last events.
    pub(super) fn told(&self) -> String {
        let last: Vec<&str> = self.told.iter().skip(self.told.len().saturating_sub(TOLD)).map(String::as_str).collect();
        format!("{:?}\n{}", self.settings, last.join("\n"))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Publish { stream } => self.publish(stream),
            Event::PublishOn { stream } => self.publish_on(stream),
            Event::Due(id) => self.due(id),
            Event::TimedOut { id, attempt } => self.timed_out(id, attempt),
            Event::Answered { id, attempt, done } => self.answered(id, attempt, done),
            Event::GivenBack { id, attempt } => self.given_back(id, attempt),
            Event::Leave(pid) => self.leave(pid),
            Event::Gone(pid) => self.gone(pid),
            Event::Begin(pid) => self.begin(pid),
            Event::Subscribe(pid) => self.subscribe(pid),
            Event::Reconnect(pid) => self.reconnect(pid),
            Event::Arrive { pid, id, attempt } => self.arrive(pid, id, attempt),
            Event::Handled { pid, id, attempt } => self.handled(pid, id, attempt),
            Event::LookIdle(pid) => self.look_idle(pid),
            Event::CloseWait(pid) => self.close_wait(pid),
            Event::TakePokes(pid) => self.take_pokes(pid),
            Event::Look(pid) => self.look(pid),
            Event::Looked(pid, left) => self.looked(pid, left),
            Event::Exited { pid, failed } => self.exited(pid, failed),
            Event::Poke { unit } => self.poke(unit),
            Event::Tick { watch } => self.tick(watch),
            Event::PollAgain { watch } => self.poll_again(watch),
            Event::Polled { watch, answer } => self.polled(watch, answer),
            Event::Listens { watch, stream } => self.listens(watch, stream),
            Event::Heard { watch, stream } => self.heard(watch, stream),
            Event::Listed { watch } => self.is_listed(watch),
            Event::Unlisted { watch } => self.unlisted(watch),
            Event::Trouble => self.trouble(),
            Event::Kill(pid) => self.kill(pid),
            Event::NsqdReturns => self.nsqd_returns(),
            Event::WakeupReturns { watch } => self.wakeup_returns(watch),
        }
    }

    fn check(&mut self) {
        for (group, channel) in self.channels.iter().enumerate() {
            if let Some(wrong) = channel.wrong(&self.messages) {
                self.wrong = Some(format!("group {group}: {wrong}: {channel:?}"));
            }
            if channel.clients.len() > self.settings.hosts * self.settings.instances {
                self.wrong = Some(format!("group {group} has {} consumers", channel.clients.len()));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0 && self.channels.iter().all(Channel::is_done) && self.units.iter().all(Unit::sleeps)
    }

    pub(super) fn clock(&self) -> Instant {
        self.epoch + self.now
    }

    pub(super) fn since_epoch(&self, instant: Instant) -> Duration {
        instant - self.epoch
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((at.max(self.now), self.scheduled), event);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Schedules an event after a random delay in milliseconds.
    pub(super) fn after_ms(&mut self, least: u64, most: u64, event: Event) {
        let delay = self.between_ms(least, most);
        self.after(delay, event);
    }

    pub(super) fn between_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.random.u64(least * 1000..=most * 1000))
    }

    /// Returns true with this probability in percent.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.u32(0..100) < percent
    }
}
