//! A run: its plan, its clock, and what is counted, as all who take part in it see it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::meter::Meter;
use super::plan::Plan;
use super::series::Series;
use super::tally::{Tally, Window};

/// All of it is one task, so a cell is as good as a lock.
pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) begun: Instant,
    pub(super) tally: RefCell<Tally>,
    pub(super) client: RefCell<Meter>,
    pub(super) broker: RefCell<Meter>,
    pub(super) series: RefCell<Series>,
    /// Cancelled when the measured time is over: nothing more is published.
    pub(super) closed: CancellationToken,
    /// Messages that may still be published once it is measured.
    left: Cell<u64>,
    /// What ended it before its time.
    trouble: RefCell<Option<String>>,
}

impl Run {
    /// One that begins now.
    pub(super) fn begin(plan: Plan, client: Meter, broker: Meter) -> Self {
        let begun = Instant::now();
        let from = begun + plan.warm_up();
        let until = plan.duration().map(|duration| from + duration);
        Self {
            begun,
            tally: RefCell::new(Tally::new(Window { from, until })),
            client: RefCell::new(client),
            broker: RefCell::new(broker),
            series: RefCell::default(),
            closed: CancellationToken::new(),
            left: Cell::new(plan.messages.unwrap_or(u64::MAX)),
            trouble: RefCell::default(),
            plan,
        }
    }

    /// A moment as it stands in a message.
    pub(super) fn stamp(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The moment that stands in a message. One that cannot be was not written by this run, and is now.
    pub(super) fn moment(&self, stamp: u64, now: Instant) -> Instant {
        self.begun.checked_add(Duration::from_nanos(stamp)).filter(|moment| *moment <= now).unwrap_or(now)
    }

    /// So many messages may be published at a moment, `most` at the most; none when the time or the number is used up.
    pub(super) fn take(&self, most: u32, moment: Instant) -> Option<u64> {
        let window = self.tally.borrow().window;
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

    /// Ends it before its time, and says why.
    pub(super) fn fail(&self, why: impl ToString) {
        self.trouble.borrow_mut().get_or_insert_with(|| why.to_string());
        self.close(Instant::now());
    }

    /// What ended it before its time.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Ends the measured time, unless it is over.
    pub(super) fn close(&self, at: Instant) {
        if self.closed.is_cancelled() {
            return;
        }
        {
            let window = &mut self.tally.borrow_mut().window;
            window.until = Some(window.until.map_or(at, |until| until.min(at)).max(window.from));
        }
        self.look();
        self.closed.cancel();
    }

    /// Opens the meters, looks at them as long as it is measured, and ends it when its time is over or it is to be stopped. Never ends,
    /// for it runs beside the work.
    pub(super) async fn watch(&self, stop: &CancellationToken) -> Infallible {
        let measuring = async {
            let Window { from, until } = self.tally.borrow().window;
            sleep_until(from.into()).await;
            self.client.borrow_mut().begin();
            self.broker.borrow_mut().begin();
            self.series.borrow_mut().begin(&mut self.tally.borrow_mut(), Instant::now());
            let step = Series::step(self.plan.duration());
            let mut next = from + step;
            while until.is_none_or(|until| next < until) && !self.closed.is_cancelled() {
                sleep_until(next.into()).await;
                self.look();
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

    fn look(&self) {
        if self.closed.is_cancelled() {
            return;
        }
        let (client, broker) = (self.client.borrow_mut().look(), self.broker.borrow_mut().look());
        self.series.borrow_mut().push(&mut self.tally.borrow_mut(), client, broker, Instant::now());
    }
}
