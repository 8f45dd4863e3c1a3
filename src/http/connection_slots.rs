//! Places for connections: a limit, and who makes way when it is reached.
//!
//! ```text
//!            ┌ without a request: makes way ┐   ┌ waits for a turn: makes way ┐   ┌ has a turn: stays ┐
//!   enter ──▶│                              │──▶│                             │──▶│                   │
//!            └──────────────────────────────┘   └─────────────────────────────┘   └────────┬──────────┘
//!                          ▲                                                               │
//!                          └────────────────────────── turn over ──────────────────────────┘
//! ```
//!
//! There are fewer turns than places. The difference is kept for requests about health, which need no turn: they are answered while
//! all turns are taken by clients that read slowly.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Places beyond the turns, at most.
const KEPT: usize = 64;
/// How long a connection has been without a request, at least, when it makes way. A request comes right behind the handshake; and a
/// thousand connections that say nothing have to make way within seconds.
const LEAST_AGE: Duration = Duration::from_millis(50);

/// The places of one or more listeners.
#[derive(Debug, Clone)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    freed: Notify,
    turns: Arc<Semaphore>,
    /// Who asks for much goes through here.
    gate: tokio::sync::Mutex<()>,
    /// Connections that wait for a place.
    waiting: AtomicUsize,
    places: usize,
}

#[derive(Debug, Default)]
struct Table {
    open: usize,
    entered: u64,
    /// Those that may make way, by since when they are without a request.
    idle: BTreeMap<(Instant, u64), CancellationToken>,
}

impl Table {
    /// Has the one make way that is idle for longest. Fails with when it may, if there is one.
    fn make_way(&mut self) -> Result<(), Option<Instant>> {
        let Some(oldest) = self.idle.first_entry() else { return Err(None) };
        let due = oldest.key().0 + LEAST_AGE;
        if due > Instant::now() {
            return Err(Some(due));
        }
        oldest.remove().cancel();
        self.open -= 1;
        Ok(())
    }
}

impl Places {
    /// So many turns, and a few places more: how many [`Places::beyond`] says.
    pub fn new(turns: usize) -> Self {
        let turns = turns.max(1);
        Self::with(turns, turns + Self::beyond(turns))
    }

    /// So many places, and no turns.
    pub fn plain(places: usize) -> Self {
        Self::with(0, places.max(1))
    }

    fn with(turns: usize, places: usize) -> Self {
        let turns = Arc::new(Semaphore::new(turns.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Shared {
            table: Mutex::default(),
            freed: Notify::new(),
            turns,
            gate: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
            places,
        }))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.places
    }

    /// Places beyond so many turns.
    pub fn beyond(turns: usize) -> usize {
        KEPT.min(turns.div_ceil(2)).max(2)
    }

    /// Waits for a place; a connection without a request makes way. Cancel-safe.
    pub async fn enter(&self) -> Place {
        if let Ok(place) = self.try_enter() {
            return place;
        }
        let _waits = Waits::new(&self.0);
        loop {
            let freed = self.0.freed.notified();
            let due = match self.try_enter() {
                Ok(place) => return place,
                Err(due) => due,
            };
            let due = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = freed => {}
                () = due => {}
            }
        }
    }

    /// A place, if there is one. Fails with when a connection may make way, if one may.
    pub fn try_enter(&self) -> Result<Place, Option<Instant>> {
        let mut table = self.0.lock();
        if table.open >= self.0.places {
            table.make_way()?;
        }
        table.open += 1;
        table.entered += 1;
        let (number, since, ousted) = (table.entered, Instant::now(), CancellationToken::new());
        table.idle.insert((since, number), ousted.clone());
        drop(table);
        Ok(Place(Arc::new(Held {
            shared: self.0.clone(),
            number,
            idle_since: Mutex::new(Some(since)),
            ousted,
            asks: AtomicBool::new(false),
        })))
    }
}

/// A connection waits for a place.
struct Waits<'a>(&'a Shared);

impl<'a> Waits<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place. It is free when all clones are gone, or when the connection was ousted.
#[derive(Debug, Clone)]
pub struct Place(Arc<Held>);

#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    number: u64,
    idle_since: Mutex<Option<Instant>>,
    ousted: CancellationToken,
    /// A request waits for its turn, or waited in vain.
    asks: AtomicBool,
}

impl Place {
    /// Waits until the connection has to make way. Cancel-safe.
    pub async fn ousted(&self) {
        self.0.ousted.cancelled().await;
    }

    /// From here on, and as long as what is given lives, the connection stays. `None` if it has had to make way.
    pub fn stay(&self) -> Option<Stay> {
        let mut table = self.0.shared.lock();
        if self.0.ousted.is_cancelled() {
            return None;
        }
        if let Some(since) = self.0.idle_since().take() {
            table.idle.remove(&(since, self.0.number));
        }
        Some(Stay { held: self.0.clone(), turn: None })
    }

    /// True if a request waits for its turn, or has waited in vain: whoever asked is to be told.
    pub fn asks(&self) -> bool {
        self.0.asks.load(Ordering::Relaxed)
    }

    /// True if another connection waits for a place: then one that asks for one thing after the other, and is never idle for long, is to
    /// have one answer, and not all of them.
    pub fn is_wanted(&self) -> bool {
        self.0.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until all other tasks that can run have run since somebody went through here before. So of a thousand answers that take long to
    /// make, each is made with all others' work between it and the next one. Cancel-safe.
    pub async fn gate(&self) {
        let _alone = self.0.shared.gate.lock().await;
        tokio::task::yield_now().await;
    }

    /// Waits for a turn, for this long at most. `None` if there was none until then, or if the connection has to make way. Cancel-safe.
    pub async fn turn(&self, patience: Duration) -> Option<Stay> {
        self.0.asks.store(true, Ordering::Relaxed);
        let turn = async { self.0.shared.turns.clone().acquire_owned().await.ok() };
        let turn = tokio::select! {
            biased;
            turn = turn => turn?,
            () = self.ousted() => return None,
            () = tokio::time::sleep(patience) => return None,
        };
        let mut stay = self.stay()?;
        stay.turn = Some(turn);
        self.0.asks.store(false, Ordering::Relaxed);
        Some(stay)
    }
}

impl Held {
    fn idle_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        if !self.ousted.is_cancelled() {
            if let Some(since) = self.idle_since().take() {
                table.idle.remove(&(since, self.number));
            }
            table.open -= 1;
            drop(table);
            self.shared.freed.notify_one();
        }
    }
}

/// Something that a connection is not to be interrupted in.
#[derive(Debug)]
pub struct Stay {
    held: Arc<Held>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Stay {
    fn drop(&mut self) {
        drop(self.turn.take());
        let (held, since) = (&self.held, Instant::now());
        let mut table = held.shared.lock();
        if let Some(before) = held.idle_since().replace(since) {
            table.idle.remove(&(before, held.number));
        }
        table.idle.insert((since, held.number), held.ousted.clone());
        drop(table);
        // who waits for a place looks when this one may make way
        held.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_without_a_request_for_longest_makes_way() {
        let places = Places::new(2);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(places.enter().await);
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        let turn = all[0].turn(Duration::ZERO).await.expect("there are two");
        let start = Instant::now();
        let fifth = places.enter().await;
        assert_eq!(start.elapsed(), Duration::from_millis(20), "50 ms after the second came");
        assert!(all[1].stay().is_none() && all[2].stay().is_some(), "the second makes way, not the one with a turn");
        drop(turn);
        drop(all.remove(1));
        tokio::time::advance(LEAST_AGE).await;
        let sixth = places.try_enter().expect("another makes way");
        assert_eq!(places.0.lock().open, 4);
        drop((all, fifth, sixth));
        let table = places.0.lock();
        assert_eq!((table.open, table.idle.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_wanted_while_somebody_waits_for_one() {
        let places = Places::plain(1);
        let first = places.enter().await;
        assert!(!first.is_wanted());
        let mut waiting = Box::pin(places.enter());
        assert!(futures_util::poll!(&mut waiting).is_pending() && first.is_wanted());
        drop(waiting);
        assert!(!first.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_turn_stays_and_places_are_kept_for_others() {
        let places = Places::new(1);
        let (busy, waiting) = (places.enter().await, places.enter().await);
        let turn = busy.turn(Duration::from_secs(1)).await.expect("it is free");
        assert!(waiting.turn(Duration::from_secs(1)).await.is_none(), "it is taken");
        let (_third, start) = (places.enter().await, Instant::now());
        let _fourth = places.enter().await;
        assert!(start.elapsed() <= LEAST_AGE && waiting.stay().is_none(), "who waits makes way");
        drop((turn, busy));
        places.enter().await.turn(Duration::ZERO).await.expect("the turn is free again");
    }
}
