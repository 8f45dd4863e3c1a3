//! Modules that several commands share.

pub(crate) mod broker_args;
pub(crate) mod broker_process;
pub(crate) mod child_process;
pub(crate) mod client_args;
pub(crate) mod confirm;
pub(crate) mod context;
pub(crate) mod embedded_broker;
pub(crate) mod exit;
pub(crate) mod failure_args;
pub(crate) mod file_args;
pub(crate) mod handler_environment;
pub(crate) mod job;
pub(crate) mod journal;

pub(crate) mod latency;
pub(crate) mod metrics;
pub(crate) mod notice;
pub(crate) mod open_files;
pub(crate) mod plot;
pub(crate) mod plot_file;
pub(crate) mod precise_timer;
pub(crate) mod record_splitter;
pub(crate) mod retry_stream;
pub(crate) mod run_broker;
pub(crate) mod schedule;
pub(crate) mod security_args;
pub(crate) mod service;
pub(crate) mod socket_args;
pub(crate) mod stdout;
pub(crate) mod stdout_thread;
pub(crate) mod text_table;
pub(crate) mod values;
pub(crate) mod worker_flags;
