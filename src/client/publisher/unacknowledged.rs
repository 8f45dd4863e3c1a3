//! What is on its way on one connection, in the order in which nsqd will answer.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::queue::{PublishQueue, Request};

/// Bytes on their way to one nsqd beyond which a link takes no more: enough to keep a fast one busy, and the rest is left to the
/// other links.
const MAX_BYTES: usize = 4 << 20;

/// Commands without an answer.
#[derive(Debug, Default)]
pub(super) struct UnacknowledgedWindow {
    /// Requests on their way, oldest first.
    requests: VecDeque<Request>,
    /// How many of them each command has.
    command_sizes: VecDeque<usize>,
    /// Their bytes.
    bytes: usize,
}

impl UnacknowledgedWindow {
    /// True if nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.command_sizes.is_empty()
    }

    /// True if another command may go out.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < MAX_BYTES
    }

    /// Takes the requests of the next command, which is to be sent now; `None` if there is no room or nothing waits.
    pub(super) fn take(&mut self, shared: &PublishQueue) -> Option<impl ExactSizeIterator<Item = &Request> + Clone> {
        if !self.has_room() {
            if shared.has_waiting() {
                shared.ready.notify_one();
            }
            return None;
        }
        let old = self.requests.len();
        let taken = shared.take(&mut self.requests);
        if taken == 0 {
            return None;
        }
        for request in self.requests.range_mut(old..) {
            self.bytes += request.bytes();
            if request.mark_sent() {
                shared.resent.fetch_add(request.messages(), Ordering::Relaxed);
            }
        }
        self.command_sizes.push_back(taken);
        Some(self.requests.range(old..))
    }

    /// The oldest command has its answer: its requests.
    pub(super) fn pop(&mut self) -> Vec<Request> {
        let count = self.command_sizes.pop_front().unwrap_or(0);
        let group: Vec<Request> = self.requests.drain(..count).collect();
        self.bytes -= group.iter().map(Request::bytes).sum::<usize>();
        group
    }

    /// The oldest command was taken.
    pub(super) fn acknowledged(&mut self, shared: &PublishQueue) {
        for request in self.pop() {
            shared.acknowledged.fetch_add(request.messages(), Ordering::Relaxed);
            request.resolve(Ok(()));
        }
    }

    /// The connection has ended: what has no answer is to be sent again.
    pub(super) fn give_back(&mut self, shared: &PublishQueue) {
        let Self { requests, .. } = std::mem::take(self);
        shared.put_back(requests);
    }
}
