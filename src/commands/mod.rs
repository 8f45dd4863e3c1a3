//! The subcommands, one module each. A module takes its arguments and runs to the end; modules do
//! not import each other.

pub(crate) mod admin;
pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod cli;
pub(crate) mod common;
pub(crate) mod completions;
pub(crate) mod consumer;
pub(crate) mod context;
pub(crate) mod demo;
pub(crate) mod doctor;
#[cfg(test)]
mod documentation_tests;
pub(crate) mod errors;
pub(crate) mod examples;
#[cfg(test)]
mod flag_tests;
pub(crate) mod gateway;
pub(crate) mod ingest;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod named_brokers;
pub(crate) mod node;
pub(crate) mod on_demand;
pub(crate) mod peek;
pub(crate) mod pipeline;
pub(crate) mod producer;
pub(crate) mod prove;
pub(crate) mod record;
#[cfg(test)]
mod reference_tests;
pub(crate) mod refusal;
pub(crate) mod replay;
pub(crate) mod send;
pub(crate) mod simulate;
pub(crate) mod stage;
pub(crate) mod tail;
pub(crate) mod top;
pub(crate) mod wakeup;
pub(crate) mod web;
pub(crate) mod worker;
