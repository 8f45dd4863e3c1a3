//! A case: a program on a disk of its own, its load, its faults, and the reading of what is left.
//!
//! ```text
//!  start ─▶ work ─▶ fault ─▶ start ─▶ work ─▶ fault ─▶ … ─▶ start ─▶ read empty ─▶ judge
//! ```

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};

use super::faults::{CasePhase, CasePlan, DiskFault, FaultKind, FileDamage};
use super::history::{CaseHistory, ConsumerReply, FaultRecord, MessageCounts};
use super::judge::{Durability, Judgement, Violation, ViolationKind, judge};
use super::layer::{DirectoryRule, DiskTrouble, PowerDisk};
use super::load::{self, Clients};
use super::targets::{Target, TargetConsumer, TargetProcess};

/// Time without a message after which nothing more is expected to arrive, if all arrived.
const QUIET: Duration = Duration::from_millis(200);
/// The same, if some are missing.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest time for reading everything that is left.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);
/// Time within which publishing has to work again after a trouble.
const HEALING: Duration = Duration::from_secs(20);
/// A disk's sync takes its time, and so does the thread that calls it.
const SCHEDULING: Duration = Duration::from_millis(50);

/// The disk of a case.
#[derive(Debug)]
pub(super) enum CaseDisk {
    /// One that forgets what was not synced.
    Power(PowerDisk),
    /// A folder, without power cuts.
    Folder(std::path::PathBuf),
}

impl CaseDisk {
    /// Makes the disk below `folder`.
    pub(super) fn new(folder: &Path, rule: Option<DirectoryRule>) -> anyhow::Result<Self> {
        match rule {
            Some(rule) => Ok(Self::Power(PowerDisk::mount(folder, rule)?)),
            None => Ok(Self::Folder(folder.to_owned())),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Power(disk) => disk.path(),
            Self::Folder(path) => path,
        }
    }
}

/// A fault that happened, and its costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct FaultCost {
    pub(super) kind: FaultKind,
    /// Bytes written that the fault destroyed.
    pub(super) dropped_bytes: u64,
    /// The time from the next start to the first answer.
    pub(super) recovery: Option<Duration>,
}

/// The result of a case.
#[derive(Debug)]
pub(super) struct CaseResult {
    pub(super) counts: MessageCounts,
    pub(super) judgement: Judgement,
    pub(super) faults: Vec<FaultCost>,
    pub(super) peak_memory: u64,
    pub(super) longest_sync: Option<Duration>,
}

/// A case that runs.
struct RunningCase<'a, T: Target> {
    target: &'a T,
    plan: &'a CasePlan,
    disk: &'a CaseDisk,
    random: RefCell<Rng>,
    history: RefCell<CaseHistory>,
    faults: Vec<FaultCost>,
    starts: usize,
    peak_memory: u64,
    /// The offset of the target's wall clock, and the sum of all its steps back, in milliseconds.
    clock: Cell<(i64, u64)>,
}

/// Runs a case to its end.
///
/// # Errors
/// The disk fails; a failure of the target is a violation instead.
pub(super) async fn run<T: Target>(target: &T, plan: &CasePlan, disk: &CaseDisk) -> anyhow::Result<CaseResult> {
    let mut case = RunningCase {
        target,
        plan,
        disk,
        random: RefCell::new(Rng::with_seed(plan.seed ^ 0x5eed)),
        history: RefCell::default(),
        faults: Vec::new(),
        starts: 0,
        peak_memory: 0,
        clock: Cell::default(),
    };
    let failed = case.play().await?;
    let history = case.history.into_inner();
    let longest_sync = match disk {
        CaseDisk::Power(disk) => Some(disk.longest_sync()),
        CaseDisk::Folder(_) => None,
    };
    let durability = match target.durability() {
        Durability::Within(time) => Durability::Within(time + 2 * longest_sync.unwrap_or_default() + SCHEDULING),
        other => other,
    };
    let mut judgement = judge(&history, durability, target.is_ordered());
    if let Some(text) = failed {
        // what is lost cannot be told before it was read
        judgement = Judgement::default();
        let after = case.faults.last().map(|fault| fault.kind);
        judgement.violations.push(Violation { kind: ViolationKind::Failed, text, after });
    }
    Ok(CaseResult {
        counts: history.counts(),
        judgement,
        faults: case.faults,
        peak_memory: case.peak_memory,
        longest_sync,
    })
}

impl<T: Target> RunningCase<'_, T> {
    /// Plays all phases; returns the failure of the target, if it failed.
    async fn play(&mut self) -> anyhow::Result<Option<String>> {
        let mut process = match self.start().await {
            Ok(process) => process,
            Err(failure) => return Ok(Some(failure)),
        };
        for phase in &self.plan.phases {
            if let Err(failure) = self.work(&mut process, phase).await? {
                return Ok(Some(failure));
            }
        }
        let drained = timeout(DRAIN_TIMEOUT, self.drain(&process)).await;
        let drained = drained.unwrap_or_else(|_| Err(anyhow::anyhow!("messages come without end")));
        self.end(&mut process, Signal::SIGKILL).await;
        Ok(drained.err().map(|error| format!("it cannot be read empty: {error:#}{}", process.last_words())))
    }

    async fn start(&mut self) -> Result<TargetProcess, String> {
        self.starts += 1;
        let started = self.target.start(self.disk.path(), &self.plan.settings).await;
        let process = started.map_err(|error| format!("it does not start: {error:#}"))?;
        if let Some(fault) = self.faults.last_mut().filter(|fault| fault.kind.ends_process()) {
            fault.recovery = Some(process.recovery);
        }
        Ok(process)
    }

    /// Works, and ends with the phase's fault.
    async fn work(&mut self, process: &mut TargetProcess, phase: &CasePhase) -> anyhow::Result<Result<(), String>> {
        let (target, can_defer) = (self.target, self.target.can_defer());
        let (history, random, plan, start) = (&self.history, &self.random, self.plan, self.starts);
        let clients = Clients { history, random, plan, start, can_defer };
        let publishing = (0..self.plan.load.publishers).map(|n| clients.publish(target, process, n));
        let work = async {
            tokio::join!(join_all(publishing), clients.consume(target, process));
        };
        let played = tokio::select! {
            biased;
            played = self.play_fault(process, phase) => played,
            () = work => Ok(()),
        };
        if !phase.fault.ends_process() {
            self.fault(phase.fault, 0);
        }
        if process.has_ended() {
            return Ok(Err(format!("it ended by itself{}", process.last_words())));
        }
        if let Err(failure) = played {
            return Ok(Err(format!("{failure}{}", process.last_words())));
        }
        if !phase.fault.ends_process() {
            return Ok(Ok(()));
        }
        let dropped = self.cut(process, phase.fault).await?;
        self.fault(phase.fault, dropped);
        let damages = self.history.borrow().damages.len();
        if let FaultKind::Damage(kind) = phase.fault {
            self.damage(kind)?;
        }
        match self.start().await {
            Ok(started) => *process = started,
            Err(failure) => return Ok(Err(failure)),
        }
        let mut history = self.history.borrow_mut();
        let new = history.damages.get(damages).map(|(_, damage)| self.target.check_damage(damage, &process.output()));
        history.unnamed.extend(new.and_then(Result::err));
        Ok(Ok(()))
    }

    /// Lets the program work, and then plays a fault that does not end it.
    ///
    /// # Errors
    /// Publishing does not work again after the fault; described.
    async fn play_fault(&self, process: &TargetProcess, phase: &CasePhase) -> Result<(), String> {
        sleep(phase.work).await;
        if phase.fault.ends_process() {
            return Ok(());
        }
        self.set_trouble(None);
        let at = Instant::now();
        if phase.fault == FaultKind::Stop {
            process.signal(Signal::SIGSTOP);
            sleep(phase.trouble).await;
            process.signal(Signal::SIGCONT);
        } else if phase.fault == FaultKind::Clock {
            self.step_clock(phase.step).map_err(|error| format!("its clock cannot be stepped: {error}"))?;
            self.history.borrow_mut().faults.push(FaultRecord { kind: phase.fault, at, until: at });
            sleep(phase.trouble).await;
        } else {
            self.set_trouble(phase.disk_trouble());
            sleep(phase.trouble).await;
        }
        let lasts = phase.lasts && matches!(phase.fault, FaultKind::Disk(_));
        // a trouble that lasts is over with the process, at the latest
        let until = if lasts { at + Duration::from_secs(3_600) } else { Instant::now() };
        if phase.fault == FaultKind::Disk(DiskFault::SyncError) {
            self.history.borrow_mut().faults.push(FaultRecord { kind: phase.fault, at, until });
        }
        if lasts {
            return Ok(());
        }
        self.set_trouble(None);
        self.healed(phase.fault).await
    }

    fn step_clock(&self, step: i64) -> std::io::Result<()> {
        let (offset, back) = self.clock.get();
        let offset = offset + step;
        self.clock.set((offset, back + step.min(0).unsigned_abs()));
        self.plan.settings.clock.as_ref().map_or(Ok(()), |clock| clock.set(offset))
    }

    fn set_trouble(&self, trouble: Option<DiskTrouble>) {
        if let CaseDisk::Power(disk) = self.disk {
            disk.set_trouble(trouble);
        }
    }

    /// Waits until publishing works again.
    async fn healed(&self, fault: FaultKind) -> Result<(), String> {
        let begun = Instant::now();
        let has_room = || self.history.borrow().messages.len() <= load::MOST;
        while has_room() && !self.history.borrow().is_acknowledged_since(begun) {
            if begun.elapsed() > HEALING {
                let refusal = self.history.borrow().refusal.clone().unwrap_or_default();
                let seconds = HEALING.as_secs();
                return Err(format!("nothing is acknowledged {seconds} s after: {} {refusal}", fault.describe()));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn fault(&mut self, kind: FaultKind, dropped_bytes: u64) {
        self.faults.push(FaultCost { kind, dropped_bytes, recovery: None });
    }

    /// Damages a file of the ended process.
    fn damage(&self, kind: FileDamage) -> anyhow::Result<()> {
        let mut random = self.random.borrow_mut();
        let damage = self.target.damage(self.disk.path(), kind, self.plan.seed, &mut random)?;
        self.history.borrow_mut().damages.extend(damage.map(|damage| (Instant::now(), damage)));
        Ok(())
    }

    /// Ends the process by a fault; returns the bytes that the disk dropped.
    async fn cut(&mut self, process: &mut TargetProcess, kind: FaultKind) -> anyhow::Result<u64> {
        let (CaseDisk::Power(disk), FaultKind::Power(cut)) = (self.disk, kind) else {
            self.died(kind);
            self.end(process, Signal::SIGKILL).await;
            self.set_trouble(None);
            return Ok(0);
        };
        disk.freeze();
        self.died(kind);
        self.peak_memory = self.peak_memory.max(process.peak_memory());
        process.signal(Signal::SIGKILL);
        let report = disk.cut(cut, &mut self.random.borrow_mut())?;
        process.wait().await;
        self.set_trouble(None);
        Ok(report.bytes)
    }

    /// Records a fault that ends the process, and with it a trouble of the disk.
    fn died(&self, kind: FaultKind) {
        let (mut history, at) = (self.history.borrow_mut(), Instant::now());
        history.faults.iter_mut().for_each(|fault| fault.until = fault.until.min(at));
        history.faults.push(FaultRecord { kind, at, until: at });
    }

    async fn end(&mut self, process: &mut TargetProcess, signal: Signal) {
        self.peak_memory = self.peak_memory.max(process.peak_memory());
        process.signal(signal);
        process.wait().await;
    }

    /// Reads and finishes everything that is left.
    async fn drain(&self, process: &TargetProcess) -> anyhow::Result<()> {
        let mut consumer = self.target.consumer(process, 1_000).await?;
        loop {
            let expected = self.history.borrow().expected();
            let quiet = if expected == 0 { QUIET } else { PATIENCE } + self.plan.load.delay;
            // after a restart, deferred messages follow the wall clock
            let quiet = quiet + Duration::from_millis(self.clock.get().1);
            let Ok(delivered) = timeout(quiet, consumer.next()).await else { return Ok(()) };
            let delivered = delivered?;
            let place = load::delivered_message(&self.history, self.plan, self.starts, &delivered);
            consumer.finish(&delivered.id);
            consumer.flush().await?;
            if let Some(place) = place {
                load::replied(&self.history, place, ConsumerReply::Finish { confirmed: None });
            }
        }
    }
}
