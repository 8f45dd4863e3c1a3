//! The subcommands: a module each, which takes its arguments and runs to the end. They do not import each other.

pub mod bench;
pub mod broker;
mod brokers;
mod child;
pub mod consumer;
pub mod demo;
pub mod doctor;
mod embedded;
pub mod errors;
mod exit;
mod fleet;
pub mod gateway;
pub mod ingest;
mod job;
mod lines;
pub mod node;
mod open_files;
pub mod output;
mod picture;
pub mod pipeline;
pub mod producer;
mod redriven;
pub mod send;
pub mod simulate;
#[cfg(test)]
mod sleeping;
pub mod stage;
pub mod wakeup;
mod words;
pub mod worker;
mod working;

pub use exit::{Exit, Failure};
