//! Counts of messages sent, acknowledged and refused.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::commands::common::latency::{LatencyHistogram, Quantiles};

/// The counts of a run.
#[derive(Debug)]
pub(super) struct SendStats {
    started: Instant,
    sent: Cell<u64>,
    acknowledged: Cell<u64>,
    refused: Cell<u64>,
    again: Cell<u64>,
    /// Packets, which are never acknowledged.
    handed_over: Cell<u64>,
    late: RefCell<LatencyHistogram>,
}

/// The summary of a run.
#[derive(Debug, Serialize)]
pub(super) struct SendSummary {
    sent: u64,
    /// `None` for datagrams.
    acknowledged: Option<u64>,
    refused: u64,
    sent_again: u64,
    seconds: f64,
    messages_per_second: f64,
    /// Time from when a message was due to when the kernel had taken it.
    late_ms: Option<Quantiles>,
}

impl SendStats {
    pub(super) fn begin() -> Self {
        Self {
            started: Instant::now(),
            sent: Cell::default(),
            acknowledged: Cell::default(),
            refused: Cell::default(),
            again: Cell::default(),
            handed_over: Cell::default(),
            late: RefCell::default(),
        }
    }

    /// Counts messages sent for the first time.
    pub(super) fn sent(&self, count: u64) {
        self.sent.set(self.sent.get() + count);
    }

    /// Counts messages sent again.
    pub(super) fn again(&self, count: u64) {
        self.again.set(self.again.get() + count);
    }

    /// Records how late a message was written.
    pub(super) fn late(&self, late: Duration) {
        self.late.borrow_mut().record(late);
    }

    /// Counts the messages that the receiver settled, `refused` of them for good.
    pub(super) fn answered(&self, settled: u64, refused: u64) {
        let refused = refused.min(settled);
        self.acknowledged.set(self.acknowledged.get() + settled - refused);
        self.refused.set(self.refused.get() + refused);
    }

    /// Counts a packet that the kernel took.
    pub(super) fn handed_over(&self) {
        self.handed_over.set(self.handed_over.get() + 1);
    }

    pub(super) fn summary(&self) -> SendSummary {
        let seconds = self.started.elapsed().as_secs_f64();
        let packets = self.handed_over.get() > 0;
        SendSummary {
            sent: self.sent.get(),
            acknowledged: (!packets).then(|| self.acknowledged.get()),
            refused: self.refused.get(),
            sent_again: self.again.get(),
            seconds,
            messages_per_second: (self.sent.get() as f64 / seconds).round(),
            late_ms: self.late.borrow().quantiles(),
        }
    }
}

impl SendSummary {
    /// Returns true if all messages sent are acknowledged; always true for datagrams.
    pub(super) fn is_success(&self) -> bool {
        self.acknowledged.is_none_or(|acknowledged| acknowledged == self.sent)
    }
}

impl fmt::Display for SendSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, refused, sent_again, seconds, messages_per_second, .. } = self;
        match self.acknowledged {
            Some(acknowledged) => write!(f, "{sent} sent, {acknowledged} acknowledged, {sent_again} sent again")?,
            None => write!(f, "{sent} sent, which nobody acknowledges")?,
        }
        if *refused > 0 {
            write!(f, ", {refused} refused")?;
        }
        write!(f, "\n{seconds:.2} s, {messages_per_second:.0} messages/s")?;
        match &self.late_ms {
            Some(late) => write!(f, "\nlate {late}"),
            None => Ok(()),
        }
    }
}
