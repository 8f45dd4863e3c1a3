//! Copies in flight: their timeout, TOUCH, and who may answer them.

use super::super::log::ChannelId;
use super::channel::{Channel, QueuedRun};
use super::consumer_commands::NotOwned;
use super::message_store::MessageRun;
use super::session::SessionId;
use super::store::Store;
use super::time::{Micros, Millis};
use super::{BrokerState, Now};
use crate::proto::MessageId;

/// A copy in flight to a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlightCopy {
    pub(super) run: MessageRun,
    pub(super) attempts: u16,
    pub(super) session: SessionId,
    pub(super) delivered: Micros,
    /// When the copy times out and is requeued.
    pub(super) deadline: Micros,
}

impl BrokerState {
    /// Notes the attempts of all copies in flight in the log. For the end of the process: nobody
    /// can answer them any more, and after a restart they wait again.
    pub fn note_in_flight(&mut self) {
        for channel in self.channels.values() {
            for (message, copy) in &channel.in_flight {
                channel.note_requeued(*message, copy.attempts, None, &mut self.store);
            }
        }
    }

    /// Requeues a copy in flight that timed out, or deferred copies that are due.
    pub(super) fn requeue_expired(&mut self, id: ChannelId, message: u64, now: Now) {
        let channel = self.channels.get_mut(&id).expect("a removed channel has no timers");
        if let Some(copies) = channel.deferred.remove(message) {
            channel.deferred_count -= copies.run.count as usize;
            channel.enqueue(QueuedRun { run: copies.run, attempts: copies.attempts }, &self.store);
        } else {
            let copy = channel.in_flight.remove(&message).expect("each timer has its copy");
            channel.timeout_count += 1;
            channel.note_requeued(message, copy.attempts, None, &mut self.store);
            let run = self.store.split_copy(copy.run);
            channel.enqueue(QueuedRun { run, attempts: copy.attempts }, &self.store);
            if let Some(session) = self.sessions.get_mut(copy.session) {
                session.in_flight -= 1;
                channel.enqueue_ready(copy.session, &mut self.sessions);
            }
        }
        channel.deliver(&mut self.store, &mut self.sessions, now);
    }

    /// Extends a message's timeout (TOUCH) to the session's message timeout from now, but at most
    /// to `max_msg_timeout` after its delivery.
    pub fn touch(&mut self, id: SessionId, message: &MessageId, now: Now) -> Result<(), NotOwned> {
        let (channel, store, session) = self.replying(id)?;
        let number = channel.owned(id, message, store)?;
        let copy = channel.in_flight.get_mut(&number).expect("it was found");
        let most = Millis(store.limits.max_msg_timeout).micros();
        store.timers.remove(&(copy.deadline, channel.id, number));
        copy.deadline = now.after(Millis(session.settings.msg_timeout)).min(copy.delivered.saturating_add(most));
        store.timers.insert((copy.deadline, channel.id, number));
        Ok(())
    }
}

impl Channel {
    /// Removes a copy in flight, and its timer, from the session that owns it.
    pub(super) fn remove_in_flight(
        &mut self,
        id: SessionId,
        message: &MessageId,
        store: &mut Store,
    ) -> Result<(u64, InFlightCopy), NotOwned> {
        let number = self.owned(id, message, store)?;
        let copy = self.in_flight.remove(&number).expect("it was found");
        store.timers.remove(&(copy.deadline, self.id, number));
        Ok((number, copy))
    }

    /// The message's numeric id, if it is in flight to the session.
    pub(super) fn owned(&self, id: SessionId, message: &MessageId, store: &Store) -> Result<u64, NotOwned> {
        let number = store.message_id(message).ok_or(NotOwned::NotInFlight)?;
        match self.in_flight.get(&number) {
            None => Err(NotOwned::NotInFlight),
            Some(copy) if copy.session != id => Err(NotOwned::Others),
            Some(_) => Ok(number),
        }
    }
}
