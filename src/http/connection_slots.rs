//! Slots for connections: a limit, and the eviction of idle connections when it is reached.
//!
//! ```text
//!            ┌ no request: evictable ┐   ┌ waits for a turn: evictable ┐   ┌ has a turn: stays ┐
//!   enter ──▶│                       │──▶│                             │──▶│                   │
//!            └───────────────────────┘   └─────────────────────────────┘   └────────┬──────────┘
//!                       ▲                                                           │
//!                       └──────────────────────── end of the turn ──────────────────┘
//! ```
//!
//! An evicted connection has its slot until it is closed: there are never more sockets than slots,
//! and one that waits for a slot.
//!
//! There are fewer turns than slots. Most of the difference is reserved for health checks, which
//! need no turn: they are answered while slow readers hold all turns. The rest is for evicted
//! connections, which may take a while to close.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The maximum of slots for health checks.
const RESERVE: usize = 64;
/// The minimum idle time before eviction. A request follows the handshake immediately, and a
/// thousand silent connections have to be evicted within seconds.
const MIN_IDLE: Duration = Duration::from_millis(50);

/// The slots of one or more listeners.
#[derive(Debug, Clone)]
pub struct ConnectionSlots(Arc<SlotPool>);

#[derive(Debug)]
struct SlotPool {
    table: Mutex<SlotTable>,
    freed: Notify,
    turns: Arc<Semaphore>,
    /// Serializes requests with long responses.
    yield_to_others: tokio::sync::Mutex<()>,
    /// The number of connections that wait for a slot.
    waiting: AtomicUsize,
    places: usize,
    /// The slots, of `places`, that only evicted connections may have: a new connection waits for
    /// the end of an evicted one only when these are all taken.
    closing_places: usize,
}

#[derive(Debug, Default)]
struct SlotTable {
    /// Connections with a slot, evicted ones included.
    open: usize,
    /// Evicted connections that are not closed yet.
    closing: usize,
    entered: u64,
    /// Connections that may be evicted, by the start of their idle time.
    idle: BTreeMap<(Instant, u64), CancellationToken>,
}

/// The reason why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoSlot {
    /// An evicted connection is being closed.
    Closing,
    /// A connection may be evicted at this time.
    Until(Instant),
    /// No connection is idle.
    Busy,
}

impl SlotTable {
    /// Evicts the connection that is idle for longest, unless `closing` connections are being
    /// closed already. Returns what to wait for.
    fn evict_idle(&mut self, closing: usize) -> NoSlot {
        if self.closing >= closing {
            return NoSlot::Closing;
        }
        let Some(oldest) = self.idle.first_entry() else { return NoSlot::Busy };
        let due = oldest.key().0 + MIN_IDLE;
        if due > Instant::now() {
            return NoSlot::Until(due);
        }
        oldest.remove().cancel();
        self.closing += 1;
        NoSlot::Closing
    }
}

impl ConnectionSlots {
    /// Creates this many turns and [`ConnectionSlots::reserve`] more slots.
    pub fn new(turns: usize) -> Self {
        let turns = turns.max(1);
        Self::with(turns, turns + Self::reserve(turns), Self::closing_places(turns))
    }

    /// Creates this many slots and no turns.
    pub fn without_turns(places: usize) -> Self {
        Self::with(0, places.max(1), 0)
    }

    fn with(turns: usize, places: usize, closing_places: usize) -> Self {
        let turns = Arc::new(Semaphore::new(turns.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(SlotPool {
            table: Mutex::default(),
            freed: Notify::new(),
            turns,
            yield_to_others: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
            places,
            closing_places,
        }))
    }

    /// Returns the number of slots.
    pub fn count(&self) -> usize {
        self.0.places
    }

    /// Returns the number of slots beyond this many turns.
    pub fn reserve(turns: usize) -> usize {
        Self::health_places(turns) + Self::closing_places(turns)
    }

    fn health_places(turns: usize) -> usize {
        RESERVE.min(turns.div_ceil(2)).max(2)
    }

    fn closing_places(turns: usize) -> usize {
        Self::health_places(turns) / 2
    }

    /// Waits for a slot; evicts an idle connection if necessary, and waits until it is closed.
    /// Cancel-safe.
    pub async fn enter(&self) -> ConnectionSlot {
        let slot = self.enter_with(|_| true).await;
        slot.expect("a caller that always waits gets a slot")
    }

    /// Waits for a slot only while an evicted connection is being closed. `None` if no connection
    /// may be evicted now. Cancel-safe.
    pub async fn enter_soon(&self) -> Option<ConnectionSlot> {
        self.enter_with(|reason| reason == NoSlot::Closing).await
    }

    /// Waits for a slot as long as the reason for having none deserves `waited`.
    async fn enter_with(&self, waited: impl Fn(NoSlot) -> bool) -> Option<ConnectionSlot> {
        if let Ok(place) = self.try_enter() {
            return Some(place);
        }
        let _waits = WaitingConnection::new(&self.0);
        loop {
            let freed = self.0.freed.notified();
            let reason = match self.try_enter() {
                Ok(place) => return Some(place),
                Err(reason) if !waited(reason) => return None,
                Err(reason) => reason,
            };
            let due = async {
                match reason {
                    NoSlot::Until(at) => sleep_until(at).await,
                    NoSlot::Closing | NoSlot::Busy => std::future::pending().await,
                }
            };
            tokio::select! {
                () = freed => {}
                () = due => {}
            }
        }
    }

    /// Returns a slot, if there is one.
    fn try_enter(&self) -> Result<ConnectionSlot, NoSlot> {
        let mut table = self.0.lock();
        if self.0.is_full(&table) {
            // one for each connection that waits
            let closing = self.0.waiting.load(Ordering::Relaxed).max(self.0.closing_places).max(1);
            let reason = table.evict_idle(closing);
            if self.0.is_full(&table) {
                return Err(reason);
            }
        }
        table.open += 1;
        table.entered += 1;
        let (number, since, evicted) = (table.entered, Instant::now(), CancellationToken::new());
        table.idle.insert((since, number), evicted.clone());
        drop(table);
        Ok(ConnectionSlot(Arc::new(SlotState {
            shared: self.0.clone(),
            number,
            idle_since: Mutex::new(Some(since)),
            evicted,
            has_waiting_request: AtomicBool::new(false),
        })))
    }
}

/// Counts a connection that waits for a slot.
struct WaitingConnection<'a>(&'a SlotPool);

impl<'a> WaitingConnection<'a> {
    fn new(shared: &'a SlotPool) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for WaitingConnection<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SlotPool {
    /// True if a new connection has to wait.
    fn is_full(&self, table: &SlotTable) -> bool {
        table.open - table.closing.min(self.closing_places) >= self.places - self.closing_places
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's slot. It is free when all clones are dropped: drop them after the socket.
#[derive(Debug, Clone)]
pub struct ConnectionSlot(Arc<SlotState>);

#[derive(Debug)]
struct SlotState {
    shared: Arc<SlotPool>,
    number: u64,
    idle_since: Mutex<Option<Instant>>,
    evicted: CancellationToken,
    /// A request waits for its turn, or has waited in vain.
    has_waiting_request: AtomicBool,
}

impl ConnectionSlot {
    /// Waits until the connection is evicted. Cancel-safe.
    pub async fn evicted(&self) {
        self.0.evicted.cancelled().await;
    }

    /// Protects the connection from eviction while the guard lives. `None` if it was evicted
    /// already.
    pub fn busy(&self) -> Option<BusyGuard> {
        let mut table = self.0.shared.lock();
        if self.0.evicted.is_cancelled() {
            return None;
        }
        if let Some(since) = self.0.idle_since().take() {
            table.idle.remove(&(since, self.0.number));
        }
        Some(BusyGuard { state: self.0.clone(), request_turn: None })
    }

    /// True if a request waits for its turn, or has waited in vain: it gets a response before the
    /// connection is closed.
    pub fn has_waiting_request(&self) -> bool {
        self.0.has_waiting_request.load(Ordering::Relaxed)
    }

    /// True if another connection waits for a slot: a connection that sends one request after the
    /// other, and is never idle for long, then gets one response only.
    pub fn others_wait(&self) -> bool {
        self.0.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Yields to all tasks that are ready, one caller at a time. So a thousand responses that take
    /// long to build do not block other work between them. Cancel-safe.
    pub async fn yield_to_others(&self) {
        let _alone = self.0.shared.yield_to_others.lock().await;
        tokio::task::yield_now().await;
    }

    /// Waits for a turn for at most `patience`. `None` if it got none, or if the connection was
    /// evicted. Cancel-safe.
    pub async fn request_turn(&self, patience: Duration) -> Option<BusyGuard> {
        self.0.has_waiting_request.store(true, Ordering::Relaxed);
        let request_turn = async { self.0.shared.turns.clone().acquire_owned().await.ok() };
        let request_turn = tokio::select! {
            biased;
            request_turn = request_turn => request_turn?,
            () = self.evicted() => return None,
            () = tokio::time::sleep(patience) => return None,
        };
        let mut busy = self.busy()?;
        busy.request_turn = Some(request_turn);
        self.0.has_waiting_request.store(false, Ordering::Relaxed);
        Some(busy)
    }
}

impl SlotState {
    fn idle_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SlotState {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        if self.evicted.is_cancelled() {
            table.closing -= 1;
        } else if let Some(since) = self.idle_since().take() {
            table.idle.remove(&(since, self.number));
        }
        table.open -= 1;
        drop(table);
        self.shared.freed.notify_one();
    }
}

/// Protects a connection from eviction, and holds its turn if it has one.
#[derive(Debug)]
pub struct BusyGuard {
    state: Arc<SlotState>,
    request_turn: Option<OwnedSemaphorePermit>,
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        drop(self.request_turn.take());
        let (state, since) = (&self.state, Instant::now());
        let mut table = state.shared.lock();
        if let Some(before) = state.idle_since().replace(since) {
            table.idle.remove(&(before, state.number));
        }
        table.idle.insert((since, state.number), state.evicted.clone());
        drop(table);
        // a waiting connection computes anew when this one may be evicted
        state.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_is_evicted() {
        let places = ConnectionSlots::with(2, 4, 0);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(places.enter().await);
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        let request_turn = all[0].request_turn(Duration::ZERO).await.expect("there are two");
        let start = Instant::now();
        let mut entering = Box::pin(places.enter());
        tokio::select! {
            _ = &mut entering => panic!("no connection is closed yet"),
            () = all[1].evicted() => {}
        }
        assert_eq!(start.elapsed(), Duration::from_millis(20), "50 ms after the second came");
        assert!(all[1].busy().is_none() && all[2].busy().is_some(), "the second makes way, not the one with a turn");
        tokio::time::advance(10 * MIN_IDLE).await;
        assert!(futures_util::poll!(&mut entering).is_pending(), "the evicted one is not closed yet");
        assert!(!all[2].0.evicted.is_cancelled(), "one makes way for one");
        drop((request_turn, all.remove(1)));
        let fifth = entering.await;
        assert_eq!(places.0.lock().open, 4);
        drop((all, fifth));
        let table = places.0.lock();
        assert_eq!((table.open, table.closing, table.idle.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_evicted_connections_are_not_waited_for() {
        let places = ConnectionSlots::with(0, 4, 2);
        let mut all = vec![places.enter().await, places.enter().await];
        for open in [3, 4] {
            tokio::time::advance(MIN_IDLE).await;
            all.push(places.enter().now_or_never().expect("one makes way and is closed later"));
            assert_eq!(places.0.lock().open, open);
        }
        tokio::time::advance(MIN_IDLE).await;
        let mut entering = Box::pin(places.enter());
        assert!(futures_util::poll!(&mut entering).is_pending(), "there are never more than four");
        drop(all.remove(0));
        entering.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_only_for_a_closing_one_is_refused_while_all_are_busy() {
        let places = ConnectionSlots::without_turns(1);
        let first = places.enter().await;
        let busy = first.busy();
        assert!(places.enter_soon().await.is_none(), "it is busy");
        drop(busy);
        assert!(places.enter_soon().await.is_none(), "it is idle for less than 50 ms");
        tokio::time::advance(MIN_IDLE).await;
        let mut entering = Box::pin(places.enter_soon());
        assert!(futures_util::poll!(&mut entering).is_pending(), "the first is being closed");
        assert!(first.busy().is_none());
        drop(first);
        assert!(entering.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_connections_are_visible_to_slot_holders() {
        let places = ConnectionSlots::without_turns(1);
        let first = places.enter().await;
        assert!(!first.others_wait());
        let mut waiting = Box::pin(places.enter());
        assert!(futures_util::poll!(&mut waiting).is_pending() && first.others_wait());
        drop(waiting);
        assert!(!first.others_wait());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_with_a_turn_stay_and_reserved_slots_serve_others() {
        let places = ConnectionSlots::with(1, 3, 0);
        let (busy, waiting) = (places.enter().await, places.enter().await);
        let request_turn = busy.request_turn(Duration::from_secs(1)).await.expect("it is free");
        assert!(waiting.request_turn(Duration::from_secs(1)).await.is_none(), "it is taken");
        let (_third, start) = (places.enter().await, Instant::now());
        let mut entering = Box::pin(places.enter());
        tokio::select! {
            _ = &mut entering => panic!("no connection is closed yet"),
            () = waiting.evicted() => {}
        }
        assert!(start.elapsed() <= MIN_IDLE && waiting.busy().is_none(), "who waits makes way");
        drop(waiting);
        let _fourth = entering.await;
        drop((request_turn, busy));
        places.enter().await.request_turn(Duration::ZERO).await.expect("the turn is free again");
    }
}
