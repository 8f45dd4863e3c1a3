//! The state of a run that its parts share: plan, clock and counts.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::meter::UsageMeter;
use super::plan::BenchPlan;
use super::series::BenchSeries;
use super::stats::{BenchStats, Window};

/// A run. All its parts run in one task, so cells do instead of locks.
pub(super) struct BenchRun {
    pub(super) plan: BenchPlan,
    pub(super) begun: Instant,
    pub(super) stats: RefCell<BenchStats>,
    pub(super) client: RefCell<UsageMeter>,
    pub(super) broker: RefCell<UsageMeter>,
    pub(super) series: RefCell<BenchSeries>,
    /// Cancelled when the measured time is over: nothing more is published.
    pub(super) closed: CancellationToken,
    /// Messages that may still be published in the measured time.
    left: Cell<u64>,
    /// Reason for an early end.
    failure: RefCell<Option<String>>,
}

impl BenchRun {
    /// Makes a run that begins now.
    pub(super) fn begin(plan: BenchPlan, client: UsageMeter, broker: UsageMeter) -> Self {
        let begun = Instant::now();
        let from = begun + plan.warm_up();
        let until = plan.duration().map(|duration| from + duration);
        Self {
            begun,
            stats: RefCell::new(BenchStats::new(Window { from, until })),
            client: RefCell::new(client),
            broker: RefCell::new(broker),
            series: RefCell::default(),
            closed: CancellationToken::new(),
            left: Cell::new(plan.messages.unwrap_or(u64::MAX)),
            failure: RefCell::default(),
            plan,
        }
    }

    /// Converts a moment to a message's stamp.
    pub(super) fn stamp(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Converts a message's stamp to a moment. A stamp in the future was not written by this run,
    /// and counts as `now`.
    pub(super) fn moment(&self, stamp: u64, now: Instant) -> Instant {
        self.begun.checked_add(Duration::from_nanos(stamp)).filter(|moment| *moment <= now).unwrap_or(now)
    }

    /// Reserves up to `most` messages to publish at `moment`; `None` when the time or the number of
    /// messages is used up.
    pub(super) fn reserve(&self, most: u32, moment: Instant) -> Option<u64> {
        let window = self.stats.borrow().window;
        if window.until.is_some_and(|until| moment >= until) {
            return None;
        }
        if moment < window.from {
            return Some(u64::from(most));
        }
        let taken = self.left.get().min(u64::from(most));
        self.left.set(self.left.get() - taken);
        (taken > 0).then_some(taken)
    }

    /// Ends the run early, and notes why.
    pub(super) fn fail(&self, why: impl ToString) {
        self.failure.borrow_mut().get_or_insert_with(|| why.to_string());
        self.close(Instant::now());
    }

    /// The reason for an early end.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Ends the measured time, unless it is over.
    pub(super) fn close(&self, at: Instant) {
        if self.closed.is_cancelled() {
            return;
        }
        {
            let window = &mut self.stats.borrow_mut().window;
            window.until = Some(window.until.map_or(at, |until| until.min(at)).max(window.from));
        }
        self.read();
        self.closed.cancel();
    }

    /// Starts the meters and reads them during the measured time; closes the run when its time is
    /// over or a stop is requested. Never returns; runs beside the load.
    pub(super) async fn watch(&self, stop: &CancellationToken) -> Infallible {
        let measuring = async {
            let Window { from, until } = self.stats.borrow().window;
            sleep_until(from.into()).await;
            self.client.borrow_mut().begin();
            self.broker.borrow_mut().begin();
            self.series.borrow_mut().begin(&mut self.stats.borrow_mut(), Instant::now());
            let step = BenchSeries::step(self.plan.duration());
            let mut next = from + step;
            while until.is_none_or(|until| next < until) && !self.closed.is_cancelled() {
                sleep_until(next.into()).await;
                self.read();
                next += step;
            }
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => self.closed.cancelled().await,
            }
        };
        tokio::select! {
            () = measuring => {}
            () = stop.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
        self.close(Instant::now());
        loop {
            sleep(Duration::from_secs(3600)).await;
        }
    }

    fn read(&self) {
        if self.closed.is_cancelled() {
            return;
        }
        let (client, broker) = (self.client.borrow_mut().read(), self.broker.borrow_mut().read());
        self.series.borrow_mut().push(&mut self.stats.borrow_mut(), client, broker, Instant::now());
    }
}
