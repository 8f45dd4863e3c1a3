//! A log that writes nothing (`--memory`): messages are lost when the process ends.

use std::io;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Change, Log, LogLocation, LogUsage, PublishedBatch, Relocated};
use crate::proto::Bodies;

/// A log that keeps nothing.
#[derive(Debug, Default)]
pub struct MemoryLog;

impl Log for MemoryLog {
    fn publish(&mut self, _: &PublishedBatch<'_>) -> io::Result<Option<LogLocation>> {
        Ok(None)
    }

    fn note(&mut self, _: &Change) {}

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn relocate(&mut self, _: &Relocated<'_>) -> io::Result<Option<LogLocation>> {
        Ok(None)
    }

    fn read(&mut self, _: LogLocation, _: u32, _: u32) -> io::Result<Bodies> {
        Err(io::Error::new(io::ErrorKind::NotFound, "there is no log"))
    }

    fn hold(&mut self, _: u32, _: u32, _: u64) {}

    fn spent(&mut self, _: u32, _: u32, _: u64) {}

    fn recovered(&mut self) {}

    fn compaction_candidate(&mut self) -> Option<u32> {
        None
    }

    fn postpone_compaction(&mut self, _: u32) {}

    fn next_compaction(&self) -> Option<Instant> {
        None
    }

    fn usage(&self) -> LogUsage {
        LogUsage::default()
    }

    fn failure(&mut self) -> Option<String> {
        None
    }

    fn failure_notify(&self) -> Arc<Notify> {
        Arc::default()
    }

    fn io_bytes(&self) -> u64 {
        0
    }

    fn position(&self) -> u64 {
        0
    }
}
