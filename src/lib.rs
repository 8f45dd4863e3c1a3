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
//! # The layers
//! Each uses only what stands below it:
//!
//! | module | owns |
//! |---|---|
//! | [`app`], [`cli`] | the subcommands and their flags |
//! | [`worker`] | Consumer × Handler |
//! | [`handler`] | what is done with a message: print, exec, http, unix, forward, file, sleep; what it must look like |
//! | [`client`] | connections, publishing, consuming, the HTTP APIs |
//! | [`broker`] | the embedded broker: state, log, TCP and HTTP |
//! | `net` | raw connections, each with a deadline, and ports to listen on |
//! | [`proto`] | the wire protocol, pure |
//! | [`systemd`] | passed sockets, and notes to systemd |
//! | [`serve`], [`metrics`] | a small HTTP server beside a command's work, and counters for Prometheus |
//! | [`feed`] | lines and packets over sockets, and their acknowledgement |
//! | [`report`], [`backoff`], [`shutdown`] | figures, waiting, and ending |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod app;
pub mod backoff;
pub mod broker;
pub mod cli;
pub mod client;
pub mod feed;
pub mod handler;
mod http;
pub mod metrics;
mod net;
mod pace;
mod plot;
mod plural;
pub mod proto;
mod reason;
mod records;
pub mod report;
pub mod serve;
pub mod shutdown;
pub mod systemd;
pub mod worker;
