//! **mqueue**: producers and consumers for [NSQ](https://nsq.io) that lose no message.
//!
//! ```text
//!   Publisher ──PUB──▶ nsqd: topic ─┬─▶ channel "1" ──▶ Consumer ─▶ Worker ─▶ Handler
//!                                   └─▶ channel "2" ──▶ Consumer ─▶ Worker ─▶ Handler
//! ```
//!
//! # The nouns
//! - A *topic* (in commands: a stream) is published to. Each of its *channels* (groups) gets a copy
//!   of every message, and the consumers of one channel share its messages.
//! - [`client::Publisher`] publishes; a call returns when nsqd has acknowledged the message.
//! - [`client::Consumer`] receives; each [`client::Delivery`] is answered once.
//! - A [`handler::Handler`] does the work for a message and returns a [`handler::Verdict`].
//! - A [`worker::Worker`] joins the two: concurrency, retries, dead letters, idle timeout.
//! - A [`broker::Broker`] is an nsqd inside the program.
//!
//! # A message's journey
//! `publish` queues the message; a link's task writes it, together with other queued messages, as
//! PUB or MPUB; nsqd answers OK, and `publish` returns. nsqd copies the message to each channel and
//! sends it to a connection whose RDY has room ([`client::Flow`] decides how much). The consumer's
//! link delivers it; the worker runs the handler; the verdict becomes FIN (done), REQ (retry
//! later), or a dead letter whose OK precedes the FIN. While the message is in flight, the link
//! keeps it alive with TOUCH. Before the FIN the message is nsqd's, and nsqd redelivers it if
//! anything fails: **at least once, always**.
//!
//! # Example
//! A consumer with its own handler. A message is tried at most three times, 5 s and 10 s apart, and
//! then
//! published to the topic `foo.dead` as a dead letter:
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use mqueue::{client::{Consumer, ConsumerConfig}, handler::Verdict, proto::Message};
//! use mqueue::{shutdown::Shutdown, worker::{Worker, WorkerConfig}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let handler = |message: Message| async move {
//!     match str::from_utf8(&message.body) {
//!         Ok("") => Verdict::drop("empty"), // a dead letter at once
//!         Ok(text) if text.len() % 2 == 1 => Verdict::retry("odd length"),
//!         Ok(_) => Verdict::done(), // FIN
//!         Err(error) => Verdict::drop(error.to_string()),
//!     }
//! };
//! let config = ConsumerConfig::new("foo".parse()?, "archive".parse()?);
//! let consumer = Consumer::connect(config.with_nsqd("127.0.0.1:4150".parse()?)).await?;
//! let tries = WorkerConfig::default().with_max_attempts(3);
//! let shutdown = Shutdown::on_signals(Duration::from_secs(30))?; // drains on Ctrl-C
//! Worker::new(consumer, Arc::new(handler), tries)?.run(&shutdown).await;
//! # Ok(())
//! # }
//! ```
//!
//! The program needs tokio with the features `macros` and `rt`. The library logs with
//! [tracing](https://docs.rs/tracing), and a program without a subscriber sees nothing of
//! reconnections, retries and dead letters: `tracing_subscriber::fmt().init()` prints them.
//!
//! # Features
//! Without default features the crate is a client: publisher, consumer and worker, with about 35
//! dependencies. Each feature adds:
//!
//! | feature | adds |
//! |---|---|
//! | `lookup` | nsqd's and nsqlookupd's HTTP APIs, and consumers that find nsqds by nsqlookupd |
//! | `handlers` | the handlers of the command line: exec, pipe, http, unix, forward, file |
//! | `broker` | an nsqd inside the program |
//! | `systemd` | activation sockets, and notifications to systemd |
//! | `tls` | TLS to nsqd and nsqlookupd |
//! | `compression` | Deflate and Snappy between client and nsqd |
//! | `cli` (default) | all of these, and the program `mqueue` |
//!
//! # The layers
//! Each module uses only the modules below it:
//!
//! | module | owns |
//! |---|---|
//! | [`worker`] | running a handler for a consumer's messages: retries, dead letters |
//! | [`handler`] | handlers of messages: print, exec, pipe, http, unix, forward, file, sleep; checks by a JSON schema |
//! | `wake` | which channels have messages and no consumer, and poking their sockets; for mqueue's own commands |
//! | [`cluster`] | all nsqds at one moment, and actions on all that have a stream or group |
//! | [`client`] | connections, publishing, consuming, the HTTP APIs |
//! | [`broker`] | the embedded broker: state, log, TCP and HTTP |
//! | [`http`] | HTTP requests within limits, and a small server beside other work |
//! | [`net`] | connections with deadlines; ports to listen on; feeds of lines and packets with acknowledgement |
//! | [`systemd`] | activation sockets, and notifications to systemd |
//! | [`backoff`], [`shutdown`] | delays between retries, and graceful shutdown |
//! | [`proto`] | the wire protocol, pure |
//! | [`duration_histogram`] | counts of durations, for metrics |
//!
//! The program `mqueue` is a crate of its own (`src/main.rs`, `src/commands/`) that uses this
//! library as any other program would.

#![cfg_attr(test, allow(clippy::unwrap_used))]
// the documentation above links to items of optional features
#![cfg_attr(not(feature = "cli"), allow(rustdoc::broken_intra_doc_links))]

pub mod backoff;
#[cfg(feature = "broker")]
pub mod broker;
pub mod client;
#[cfg(feature = "lookup")]
pub mod cluster;
pub mod duration_histogram;
pub mod handler;
#[cfg(feature = "lookup")]
pub mod http;
#[doc(hidden)]
pub mod io_error;
pub mod net;
#[doc(hidden)]
pub mod plural;
pub mod proto;
pub mod shutdown;
#[cfg(test)]
mod simulated;
#[cfg(feature = "systemd")]
pub mod systemd;
#[cfg(all(feature = "broker", feature = "systemd"))]
#[doc(hidden)]
pub mod wake;
pub mod worker;
