//! The messages of one broker that match, page by page.

use std::time::Duration;

use mqueue::client::{HttpError, Nsqd, PeekQuery};
use mqueue::proto::{PeekState, PeekedMessage};

use crate::commands::common::body_pattern::BodyPattern;
use crate::commands::common::message_lines::MessageFormat;
use crate::commands::peek::args::Args;

/// Messages in an answer, if those that match are searched for.
const SEARCHED: usize = 2_000;
/// Most messages in an answer.
const MOST: usize = 200;

/// The time that a broker with many messages leaves to the others for their first ones.
const OTHERS_TIME: Duration = Duration::from_millis(100);

/// A broker's messages in one state.
pub(super) struct PeekReader {
    nsqd: Nsqd,
    address: String,
    query: PeekQuery,
    grep: Option<BodyPattern>,
    /// Messages to return at first, if there are other brokers.
    share: Option<usize>,
    /// Messages that were found, and not returned yet.
    found: Vec<PeekedMessage>,
    /// True once there are no further pages.
    is_end: bool,
    has_returned: bool,
}

/// The messages of a page that match.
pub(super) struct FoundMessages {
    pub(super) messages: Vec<PeekedMessage>,
    /// True for the last ones.
    pub(super) is_end: bool,
}

impl PeekReader {
    /// Prepares a reader for `wanted` messages of this many brokers.
    pub(super) fn new(
        nsqd: Nsqd,
        args: &Args,
        state: PeekState,
        format: MessageFormat,
        wanted: u64,
        brokers: usize,
    ) -> Self {
        let stream = args.target.stream.clone();
        let query = match &args.target.group {
            Some(group) => PeekQuery::of_group(stream, group.clone(), state),
            None => PeekQuery::of_stream(stream),
        };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let share = (brokers > 1).then(|| wanted.div_ceil(brokers));
        let most = if args.grep.is_some() { SEARCHED } else { share.unwrap_or(wanted).clamp(1, MOST) };
        let mut query = query.with_limit(most);
        if args.grep.is_none() {
            query.max_body = format.needed_bytes();
        }
        let (address, grep) = (nsqd.to_string(), args.grep.clone());
        Self { address, nsqd, query, grep, share, found: Vec::new(), is_end: false, has_returned: false }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Reads pages until there are messages that match, or no more. Of several brokers, each returns
    /// its share first.
    ///
    /// # Errors
    /// Fails as [`Nsqd::peek`] does.
    pub(super) async fn next(&mut self) -> Result<FoundMessages, HttpError> {
        let is_first = !std::mem::replace(&mut self.has_returned, true);
        while self.found.is_empty() && !self.is_end {
            let mut page = self.nsqd.peek(&self.query).await?;
            if let Some(grep) = &self.grep {
                page.messages.retain(|message| grep.matches(&message.body));
            }
            self.is_end = page.next.is_none();
            self.query.after = page.next;
            self.found = page.messages;
        }
        let share = self.share.filter(|share| is_first && *share < self.found.len());
        let rest = share.map_or_else(Vec::new, |share| self.found.split_off(share));
        if self.share.is_some() && !is_first {
            self.share = None;
            tokio::time::sleep(OTHERS_TIME).await;
        }
        let messages = std::mem::replace(&mut self.found, rest);
        Ok(FoundMessages { messages, is_end: self.is_end && self.found.is_empty() })
    }
}
