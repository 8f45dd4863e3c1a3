//! A model of nsqd: each stream's messages are copied to its groups' channels.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::world::{Event, Id, Pid, START, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Queue,
    InFlight(Pid),
    Deferred,
    Finished,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) group: usize,
    pub(super) place: Place,
    /// The time since which it could be delivered.
    pub(super) ready: Duration,
    pub(super) attempts: u32,
    /// A handler has finished it.
    pub(super) handled: bool,
    /// It arrived while its group slept, and wakeup gets its copy.
    pub(super) heard: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) pid: Pid,
    /// RDY 0 and CLS were received.
    leaving: bool,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) stream: usize,
    pub(super) queue: VecDeque<Id>,
    in_flight: BTreeSet<Id>,
    deferred: BTreeSet<Id>,
    finished: u64,
    /// Messages that arrived, were requeued, or timed out since nsqd started.
    queued: u64,
    published: u64,
    pub(super) clients: Vec<Client>,
    /// The last time a consumer was connected, unless one is connected now.
    left: Duration,
    /// The end of the time in which a failure excuses waiting.
    pub(super) excused: Duration,
    /// The end of the time in which its consumers crash at their start.
    pub(super) crashes_until: Duration,
}

impl Channel {
    pub(super) fn new(stream: usize) -> Self {
        Self {
            stream,
            queue: VecDeque::new(),
            in_flight: BTreeSet::new(),
            deferred: BTreeSet::new(),
            finished: 0,
            queued: 0,
            published: 0,
            clients: Vec::new(),
            left: Duration::ZERO,
            excused: Duration::ZERO,
            crashes_until: Duration::ZERO,
        }
    }

    /// Computed as wakeup does from the counts of `/stats`.
    pub(super) fn handed_out(&self) -> u64 {
        self.queued.wrapping_sub((self.queue.len() + self.deferred.len()) as u64)
    }

    /// Returns the last time a consumer was connected.
    pub(super) fn served(&self, now: Duration) -> Duration {
        if self.clients.is_empty() { self.left } else { now }
    }

    /// Returns the number of messages that wait or are in flight.
    pub(super) fn unfinished(&self) -> u64 {
        (self.queue.len() + self.in_flight.len()) as u64
    }

    pub(super) fn is_done(&self) -> bool {
        self.finished == self.published
    }

    /// Returns the violated invariant, if there is one.
    pub(super) fn wrong(&self, messages: &[Message]) -> Option<String> {
        let places = self.queue.iter().map(|id| (id, Place::Queue));
        let places = places.chain(self.deferred.iter().map(|id| (id, Place::Deferred)));
        for (id, place) in places {
            if messages[*id].place != place {
                return Some(format!("{id} is in {place:?} and {:?}", messages[*id].place));
            }
        }
        if let Some(id) = self.in_flight.iter().find(|id| !matches!(messages[**id].place, Place::InFlight(_))) {
            return Some(format!("{id} is in flight and {:?}", messages[*id].place));
        }
        let there = (self.queue.len() + self.in_flight.len() + self.deferred.len()) as u64;
        (there + self.finished != self.published).then(|| format!("of {} some are nowhere", self.published))
    }
}

impl World {
    /// Publishes a message, and schedules the next one.
    pub(super) fn publish_on(&mut self, stream: usize) {
        self.publish(stream);
        let gap = match self.random.u8(0..4) {
            0 => self.between_ms(0, 20),
            1 => self.settings.idle_timeout + self.between_ms(0, 700),
            _ => self.between_ms(0, 4000) + self.settings.idle_timeout,
        };
        self.after(gap, Event::PublishOn { stream });
    }

    pub(super) fn publish(&mut self, stream: usize) {
        if self.left == 0 || !self.nsqd_is_up {
            return;
        }
        self.left -= 1;
        self.tally.published += 1;
        let deferred = self.chance(10);
        let heard = if deferred { Vec::new() } else { self.edge(stream) };
        for group in 0..self.channels.len() {
            if self.channels[group].stream != stream {
                continue;
            }
            let id = self.messages.len();
            self.channels[group].published += 1;
            self.channels[group].queued += 1;
            let (place, heard) = (Place::Queue, heard.iter().any(|host| self.can_be_woken(*host, group)));
            self.messages.push(Message { group, place, ready: self.now, attempts: 0, handled: false, heard });
            if deferred { self.defer(id) } else { self.ready(id) }
        }
    }

    fn defer(&mut self, id: Id) {
        let message = &mut self.messages[id];
        message.place = Place::Deferred;
        self.channels[message.group].deferred.insert(id);
        self.after_ms(300, 4000, Event::Due(id));
    }

    pub(super) fn due(&mut self, id: Id) {
        let group = self.messages[id].group;
        if self.nsqd_is_up && self.channels[group].deferred.remove(&id) {
            self.ready(id);
        }
    }

    fn ready(&mut self, id: Id) {
        let message = &mut self.messages[id];
        (message.place, message.ready) = (Place::Queue, self.now);
        let group = message.group;
        self.channels[group].queue.push_back(id);
        self.hand_out(group);
    }

    /// Delivers waiting messages to ready consumers.
    pub(super) fn hand_out(&mut self, group: usize) {
        while self.nsqd_is_up {
            let wants: Vec<Pid> = self.channels[group].clients.iter().filter(|c| !c.leaving).map(|c| c.pid).collect();
            let Some(pid) = self.random.choice(&wants).copied() else { return };
            let Some(id) = self.channels[group].queue.pop_front() else { return };
            self.waited(id);
            let message = &mut self.messages[id];
            message.place = Place::InFlight(pid);
            message.attempts += 1;
            let attempt = message.attempts;
            self.channels[group].in_flight.insert(id);
            self.after(self.processes[pid].link, Event::Arrive { pid, id, attempt });
            // nsqd checks its timers at intervals
            let scan = self.between_ms(0, 100);
            self.after(self.settings.msg_timeout + scan, Event::TimedOut { id, attempt });
        }
    }

    /// Delivers a message, which must not have waited too long.
    fn waited(&mut self, id: Id) {
        let message = &self.messages[id];
        let excused = self.channels[message.group].excused;
        let wait = self.now.saturating_sub(message.ready.max(excused));
        if wait > self.settings.longest_wait() + START {
            self.wrong = Some(format!("message {id} of group {} waited for {wait:?}", message.group));
        }
        if excused <= message.ready {
            self.tally.waits.push(wait);
            if message.heard && message.attempts == 0 {
                self.tally.heard.push(wait);
            }
        }
    }

    pub(super) fn timed_out(&mut self, id: Id, attempt: u32) {
        let message = &self.messages[id];
        if self.nsqd_is_up && message.attempts == attempt && matches!(message.place, Place::InFlight(_)) {
            self.tally.count("message timeouts");
            let channel = &mut self.channels[message.group];
            channel.in_flight.remove(&id);
            channel.queued += 1;
            self.ready(id);
        }
    }

    /// REQ without a delay: the message waits again, ready since the first time.
    pub(super) fn given_back(&mut self, id: Id, attempt: u32) {
        let message = &mut self.messages[id];
        let channel = &mut self.channels[message.group];
        if self.nsqd_is_up && message.attempts == attempt && channel.in_flight.remove(&id) {
            message.place = Place::Queue;
            channel.queued += 1;
            channel.queue.push_back(id);
            let group = message.group;
            self.hand_out(group);
        }
    }

    /// FIN or REQ.
    pub(super) fn answered(&mut self, id: Id, attempt: u32, done: bool) {
        let message = &mut self.messages[id];
        let group = message.group;
        if !self.nsqd_is_up || message.attempts != attempt || !self.channels[group].in_flight.remove(&id) {
            return;
        }
        if !done {
            self.channels[group].queued += 1;
            return self.defer(id);
        }
        if !message.handled {
            self.wrong = Some(format!("message {id} is finished, but was not handled"));
        }
        message.place = Place::Finished;
        self.channels[group].finished += 1;
    }

    pub(super) fn subscribed(&mut self, pid: Pid) {
        let group = self.group_of(pid);
        self.channels[group].clients.push(Client { pid, leaving: false });
        self.hand_out(group);
    }

    /// Handles RDY 0 and CLS: messages sent before arrive before the response.
    pub(super) fn leave(&mut self, pid: Pid) {
        let group = self.group_of(pid);
        if let Some(client) = self.channels[group].clients.iter_mut().find(|client| client.pid == pid) {
            client.leaving = true;
            self.after(self.processes[pid].link, Event::CloseWait(pid));
        }
    }

    pub(super) fn disconnected(&mut self, pid: Pid) {
        let group = self.group_of(pid);
        let channel = &mut self.channels[group];
        let before = channel.clients.len();
        channel.clients.retain(|client| client.pid != pid);
        if channel.clients.len() < before {
            channel.left = self.now;
        }
    }

    /// Stops nsqd cleanly; it stores its messages for its next start.
    pub(super) fn nsqd_goes(&mut self) {
        self.nsqd_is_up = false;
        self.listed.clear();
        for group in 0..self.channels.len() {
            let channel = &mut self.channels[group];
            channel.queued = 0;
            let back: Vec<Id> = std::mem::take(&mut channel.in_flight).into_iter().collect();
            let deferred: Vec<Id> = std::mem::take(&mut channel.deferred).into_iter().collect();
            let clients = std::mem::take(&mut channel.clients);
            if !clients.is_empty() {
                channel.left = self.now;
            }
            for id in back.into_iter().chain(deferred) {
                self.messages[id].place = Place::Queue;
                self.messages[id].ready = self.now;
                self.channels[group].queue.push_back(id);
            }
            clients.into_iter().for_each(|client| self.cut_off(client.pid));
        }
    }
}
