//! The messages of one broker that match, page by page.

use mqueue::client::{HttpError, Nsqd, PeekQuery};
use mqueue::proto::{PeekState, PeekedMessage};

use crate::commands::common::body_pattern::BodyPattern;
use crate::commands::common::message_lines::MessageFormat;
use crate::commands::peek::args::Args;

/// Messages in an answer, if those that match are searched for.
const SEARCHED: u64 = 2_000;
/// Most messages in an answer.
const MOST: u64 = 200;

/// A broker's messages in one state.
pub(super) struct PeekReader {
    nsqd: Nsqd,
    address: String,
    query: PeekQuery,
    grep: Option<BodyPattern>,
}

/// The messages of a page that match.
pub(super) struct FoundMessages {
    pub(super) messages: Vec<PeekedMessage>,
    /// True for the last page.
    pub(super) is_end: bool,
}

impl PeekReader {
    pub(super) fn new(nsqd: Nsqd, args: &Args, state: PeekState, format: MessageFormat) -> Self {
        let stream = args.target.stream.clone();
        let query = match &args.target.group {
            Some(group) => PeekQuery::of_group(stream, group.clone(), state),
            None => PeekQuery::of_stream(stream),
        };
        let most = if args.grep.is_some() { SEARCHED } else { args.count.min(MOST) };
        let mut query = query.with_limit(usize::try_from(most).unwrap_or(1));
        if args.grep.is_none() {
            query.max_body = format.needed_bytes();
        }
        Self { address: nsqd.to_string(), nsqd, query, grep: args.grep.clone() }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Reads pages until there are messages that match, or no more.
    ///
    /// # Errors
    /// Fails as [`Nsqd::peek`] does.
    pub(super) async fn next(&mut self) -> Result<FoundMessages, HttpError> {
        loop {
            let mut page = self.nsqd.peek(&self.query).await?;
            if let Some(grep) = &self.grep {
                page.messages.retain(|message| grep.matches(&message.body));
            }
            let is_end = page.next.is_none();
            self.query.after = page.next;
            if is_end || !page.messages.is_empty() {
                return Ok(FoundMessages { messages: page.messages, is_end });
            }
        }
    }
}
