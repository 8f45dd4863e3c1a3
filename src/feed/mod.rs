//! Feeds: lines over a stream socket, acknowledged at their end, or datagrams, which nobody acknowledges.
//!
//! ```text
//!  sender ── line \n line \n … end of the stream ──▶ receiver
//!         ◀─────────── OK 2 \n ────────────────────  what came is safe
//! ```
//!
//! That a line was written says only that the kernel has it: it dies with a receiver that has not read it, or has read and not yet
//! published it. So a sender counts lines as taken only by the answer. It asks for one by ending its side of the stream, as often as
//! it wants to know.

mod answer;
mod endpoint;
mod stale;

pub use answer::Answer;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub(crate) use stale::remove_stale;
