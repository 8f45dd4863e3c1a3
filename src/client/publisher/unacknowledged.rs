//! The unacknowledged commands of one connection, in the order in which nsqd answers.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::queue::{PublishQueue, Request};

/// Unacknowledged bytes of one nsqd above which its link takes no more requests: enough to keep a
/// fast nsqd busy, and the rest is left to the other links.
const MAX_BYTES: usize = 4 << 20;

/// The unacknowledged commands of one connection.
#[derive(Debug, Default)]
pub(super) struct UnacknowledgedWindow {
    /// Sent requests, oldest first.
    requests: VecDeque<Request>,
    /// The number of requests in each command.
    command_sizes: VecDeque<usize>,
    /// The requests' size in bytes.
    bytes: usize,
}

impl UnacknowledgedWindow {
    /// True if no command is unacknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.command_sizes.is_empty()
    }

    /// True if another command may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < MAX_BYTES
    }

    /// Takes the requests of the next command to send; `None` if there is no room or no request.
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

    /// Removes the oldest command and returns its requests.
    pub(super) fn pop(&mut self) -> Vec<Request> {
        let count = self.command_sizes.pop_front().unwrap_or(0);
        let group: Vec<Request> = self.requests.drain(..count).collect();
        self.bytes -= group.iter().map(Request::bytes).sum::<usize>();
        group
    }

    /// Resolves the requests of the oldest command: nsqd acknowledged it.
    pub(super) fn acknowledged(&mut self, shared: &PublishQueue) {
        for request in self.pop() {
            shared.acknowledged.fetch_add(request.messages(), Ordering::Relaxed);
            request.resolve(Ok(()));
        }
    }

    /// Returns all unacknowledged requests to the queue: the connection has ended.
    pub(super) fn return_requests(&mut self, shared: &PublishQueue) {
        let Self { requests, .. } = std::mem::take(self);
        shared.return_requests(requests);
    }
}
