//! **mqueue**: producers and consumers for [NSQ](https://nsq.io) that lose no message.
//!
//! ```text
//!   Publisher ──PUB──▶ nsqd: topic ─┬─▶ channel "1" ──▶ Consumer ─▶ Worker ─▶ Handler
//!                                   └─▶ channel "2" ──▶ Consumer ─▶ Worker ─▶ Handler
//! ```
//!
//! # The nouns
//! - A *topic* (in commands: a stream) is what is published to; each of its *channels* (groups) gets a copy of every message, and
//!   the consumers of one channel share them.
//! - [`client::Publisher`] publishes; a call ends when nsqd has the message.
//! - [`client::Consumer`] receives; each [`client::Delivery`] is answered once.
//! - A [`handler::Handler`] does the work for a message and gives a [`handler::Verdict`].
//! - A [`worker::Worker`] joins the two: concurrency, retries, dead letters, ending when idle.
//! - A [`broker::Broker`] is an nsqd in the program.
//!
//! # A message's journey
//! `publish` queues it; a link's task writes it, with what else has gathered, as PUB or MPUB; nsqd answers OK, and `publish`
//! returns. nsqd copies it to each channel and sends it to a connection whose RDY has room ([`client::Flow`] decides how
//! much). The consumer's link hands it out as a delivery; the worker runs the handler; the verdict becomes FIN (done), REQ
//! (again later), or a dead letter whose OK comes before the FIN. While it is out, the link keeps it alive with TOUCH. Whatever ends in
//! between, before FIN the message is nsqd's, and it comes again: **at least once, always**.
//!
//! # Features
//! Without default features this is a client: publisher, consumer, worker, with some 35 crates below it. Each of these adds to it:
//!
//! | feature | adds |
//! |---|---|
//! | `lookup` | nsqd's and nsqlookupd's HTTP APIs, and consumers that find nsqds by nsqlookupd |
//! | `handlers` | the handlers of the command line: exec, pipe, http, unix, forward, file |
//! | `broker` | an nsqd in the process |
//! | `systemd` | passed sockets, and notes to systemd |
//! | `cli` (default) | all of these, and the program `mqueue` |
//!
//! # The layers
//! Each uses only what stands below it:
//!
//! | module | owns |
//! |---|---|
//! | [`worker`] | Consumer × Handler |
//! | [`handler`] | what is done with a message: print, exec, http, unix, forward, file, sleep; what it must look like |
//! | `wake` | which groups have messages and nobody awake, and how their sockets are poked; for mqueue's own commands |
//! | [`client`] | connections, publishing, consuming, the HTTP APIs |
//! | [`broker`] | the embedded broker: state, log, TCP and HTTP |
//! | [`http`] | HTTP requests within limits, and a small server beside other work |
//! | [`net`] | raw connections, each with a deadline; ports to listen on; feeds of lines and packets, and their acknowledgement |
//! | [`systemd`] | passed sockets, and notes to systemd |
//! | [`backoff`], [`shutdown`] | waiting, and ending |
//! | [`proto`] | the wire protocol, pure |
//!
//! The program `mqueue` is a crate of its own (`src/main.rs`, `src/commands/`) that uses this library as any other program would.

#![cfg_attr(test, allow(clippy::unwrap_used))]
// the map above names what some features add
#![cfg_attr(not(feature = "cli"), allow(rustdoc::broken_intra_doc_links))]

pub mod backoff;
#[cfg(feature = "broker")]
pub mod broker;
pub mod client;
pub mod handler;
#[cfg(feature = "lookup")]
pub mod http;
#[cfg(feature = "lookup")]
#[doc(hidden)]
pub mod io_error;
pub mod net;
#[doc(hidden)]
pub mod plural;
pub mod proto;
pub mod shutdown;
#[cfg(feature = "systemd")]
pub mod systemd;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod wake;
pub mod worker;
