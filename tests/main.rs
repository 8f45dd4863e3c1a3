//! The tests on real programs: the mqueue binary, and the library, against real nsqd and
//! nsqlookupd.
//!
//! A missing program is reported (`skipped: …`), and with MQUEUE_REQUIRE_PEERS=1 it is a failure.
//! Ports are the system's choice, folders are temporary, and nothing sleeps: every wait is for a
//! condition, with a deadline.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

mod admin;
mod bad_input;
mod bad_input_consumer;
mod bench;
mod bridge;
mod broker_backup;
mod broker_clients;
mod broker_crash;
mod broker_damage;
mod broker_eio;
mod broker_full;
mod broker_hostile;
mod broker_limits;
mod broker_tools;
mod broker_unix;
mod browser;
mod completions;
mod conformance;
mod context;
mod counter;
mod create;
mod crowd;
mod demo;
mod doctor;
mod doctor_security;
mod documentation;
mod drop_in;
mod errors;
mod fence;
mod file;
mod first_run;
mod flags;
mod gateway;
mod gateway_security;
mod groups;
mod handler_commands;
mod hostile;
mod hostile_http;
mod http_handler;
mod idle;
mod import;
mod ingest;
mod json_reference;
mod layers;
mod lookup;
mod lossless;
mod lost;
mod ls;
mod manual;
mod metrics;
mod metrics_pages;
mod named_by_http;
mod network;
mod node;
mod peek;
mod pipe;
mod pipeline;
mod print;
mod prove;
mod record;
mod remedies;
mod retry;
mod security;
mod security_hostile;
mod security_restarts;
mod signals;
mod silent_nsqd;
mod simulate;
mod sleeping;
mod statistics;
#[allow(dead_code, unused_imports, reason = "shared with the benchmark: each uses a part of it")]
mod support;
mod tail;
#[cfg(feature = "tokio-nsq")]
mod tokio_nsq;
mod top;
mod touch;
mod wakeup;
mod wakeup_bad_input;
mod wakeup_edge;
mod wakeup_hosts;
mod wakeup_hosts_load;
mod wakeup_listen;
mod wakeup_outage;
mod wakeup_thousand;
mod web;
mod web_browser;
mod web_cost;
mod web_letters;
mod worker;
