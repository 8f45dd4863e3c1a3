//! `mqueue prove`: power cuts and other faults for a broker, and a judgement of what it lost.
//!
//! ```text
//!  CasePlan (of a seed) ─▶ case: Target on a CaseDisk ◀── faults
//!                                  ▲  │
//!                         load: publishers, consumer ─▶ CaseHistory ─▶ judge ─▶ ProofReport
//! ```
//!
//! The layer (`layer`) and the judge (`judge`) know nothing of the targets, and the targets nothing
//! of faults.

pub(crate) mod args;
mod body;
mod case;
mod clock;
mod faults;
mod history;
mod judge;
mod layer;
mod load;
mod report;
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use self::args::{Args, FaultName, RuleName, TargetName};
use self::case::CaseDisk;
use self::clock::{ClockLibrary, SteppedClock};
use self::faults::{CasePlan, FaultKind};
use self::judge::Durability;
use self::layer::{DirectoryRule, MountError};
use self::report::ProofReport;
use self::targets::Target;
use self::targets::beanstalkd::{self, Beanstalkd};
use self::targets::broker::BrokerTarget;
use self::targets::nats::{self, JetStream};
use self::targets::nsqd::NsqdTarget;
use self::targets::port_target::PortTarget;
use self::targets::redis::{self, Redis};
use super::broker::args::SyncWhen;
use super::common::exit::{Exit, Failure};
use super::common::stdout;
use mqueue::io_error::describe;
use mqueue::shutdown::Shutdown;

/// nsqd's default for --sync-timeout.
const NSQD_SYNC_TIMEOUT: Duration = Duration::from_secs(2);
/// Default duration of a run.
const DURATION: Duration = Duration::from_secs(60);
/// Time for the current case after Ctrl-C.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let (sync, judge_as) = (args.sync, args.judge_as.unwrap_or(args.sync));
    let program = |name: &str| find_program(args.program.as_deref().unwrap_or(Path::new(name)));
    match args.target {
        TargetName::Broker => prove(&args, &BrokerTarget { sync, judge_as }).await,
        TargetName::Nsqd | TargetName::NsqdDurable => {
            let is_durable = args.target == TargetName::NsqdDurable;
            let durability = args.judge_as.map_or(Durability::Nothing, |rules| durability(rules, NSQD_SYNC_TIMEOUT));
            prove(&args, &NsqdTarget { program: program("nsqd")?, is_durable, durability }).await
        }
        TargetName::Redis => {
            let durability = durability(judge_as, redis::EVERYSEC);
            prove(&args, &PortTarget::<Redis>::new(program("redis-server")?, sync, durability)).await
        }
        TargetName::JetStream => {
            let durability = durability(judge_as, nats::SYNC_INTERVAL);
            prove(&args, &PortTarget::<JetStream>::new(program("nats-server")?, sync, durability)).await
        }
        TargetName::Beanstalkd => {
            let durability = durability(judge_as, beanstalkd::SYNC_INTERVAL);
            prove(&args, &PortTarget::<Beanstalkd>::new(program("beanstalkd")?, sync, durability)).await
        }
    }
}

/// Finds a program: a path, or a name on PATH.
fn find_program(name: &Path) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = if name.components().count() > 1 { Some(name.to_owned()) } else { candidates.find(|it| it.is_file()) };
    found.filter(|program| program.is_file()).ok_or_else(|| {
        let line = format!("cannot find {}: install it, or name it with --program", name.display());
        Failure::new(Exit::Failure, line)
    })
}

/// The promise of a time of syncing.
fn durability(sync: SyncWhen, interval: Duration) -> Durability {
    match sync {
        SyncWhen::Always => Durability::Always,
        SyncWhen::Interval => Durability::Within(interval),
        SyncWhen::Never => Durability::Process,
    }
}

async fn prove<T: Target>(args: &Args, target: &T) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(GRACE)?;
    let mut run = ProofRun::new(args, target.knows_damage())?;
    if run.faults.contains(&FaultKind::Clock) {
        let library = ClockLibrary::find(&target.program()?);
        let failed = |why| Failure::new(Exit::Failure, format!("steps of the clock are impossible: {why}"));
        run.clock = Some(library.map_err(failed)?);
    }
    let first = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let (begun, cases) = (Instant::now(), args.cases.unwrap_or(u64::MAX));
    let duration = if args.cases.is_some() { Duration::MAX } else { args.duration.unwrap_or(DURATION) };
    tracing::info!("{}, in {}, seed {first}", target.describe(), run.parent.display());
    let mut report = ProofReport::new(target.describe(), first);
    report.left_out.clone_from(&run.left_out);
    for n in 0..cases {
        if shutdown.draining.is_cancelled() || (n > 0 && begun.elapsed() >= duration) {
            break;
        }
        let seed = first.wrapping_add(n);
        tokio::select! {
            biased;
            () = shutdown.now.cancelled() => return Ok(Exit::Interrupted),
            added = run.case(args, target, seed, &mut report) => added?,
        }
    }
    report.end(begun.elapsed());
    stdout::print(&if args.json { serde_json::to_string(&report)? + "\n" } else { report.text() })?;
    Ok(if report.violations > 0 { Exit::Failure } else { Exit::Success })
}

/// Settings of all cases of a run.
struct ProofRun {
    parent: PathBuf,
    faults: Vec<FaultKind>,
    /// The rule of the disk on which the power can be cut; `None` without such a disk.
    rule: Option<DirectoryRule>,
    left_out: Option<String>,
    /// The library that steps the clock, if it is stepped.
    clock: Option<ClockLibrary>,
}

impl ProofRun {
    fn new(args: &Args, knows_damage: bool) -> anyhow::Result<Self> {
        let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
        let mut run =
            Self { parent, faults: faults(&args.faults, knows_damage), rule: None, left_out: None, clock: None };
        if !run.faults.iter().any(|kind| kind.needs_layer()) {
            return Ok(run);
        }
        let rule = match args.directories {
            RuleName::Posix => DirectoryRule::Posix,
            RuleName::Journal => DirectoryRule::Journal,
        };
        let folder = CaseFolder::new(&run.parent)?;
        match CaseDisk::new(&folder.0, Some(rule)) {
            Ok(_) => run.rule = Some(rule),
            Err(error) => match error.downcast_ref::<MountError>() {
                Some(MountError::Folder { .. }) | None => return Err(error),
                Some(_) => {
                    run.faults.retain(|kind| !kind.needs_layer());
                    if run.faults.is_empty() {
                        return Err(error.context("power cuts and failing disks are impossible"));
                    }
                    tracing::warn!("power cuts and failing disks are left out: {error}");
                    run.left_out = Some(format!("power cuts and failing disks: {error}"));
                }
            },
        }
        Ok(run)
    }

    async fn case<T: Target>(
        &self,
        args: &Args,
        target: &T,
        seed: u64,
        report: &mut ProofReport,
    ) -> anyhow::Result<()> {
        let mut plan = CasePlan::new(seed, &self.faults);
        let [folder, clock] = [CaseFolder::new(&self.parent)?, CaseFolder::new(&self.parent)?];
        plan.settings.clock = self.clock.as_ref().map(|library| SteppedClock::new(library, &clock.0)).transpose()?;
        let disk = CaseDisk::new(&folder.0, self.rule)?;
        tracing::debug!(?plan, "case");
        let case = case::run(target, &plan, &disk).await.context("the disk of the case fails")?;
        let command = repeat(args, &target.arguments(), seed);
        for violation in case.judgement.violations.iter().take(3) {
            tracing::error!("{}; repeat: {command}", violation.text);
        }
        report.add(case, &command);
        Ok(())
    }
}

fn faults(names: &[FaultName], knows_damage: bool) -> Vec<FaultKind> {
    let kinds = names.iter().flat_map(|name| match name {
        FaultName::Kill => vec![FaultKind::Kill],
        FaultName::Stop => vec![FaultKind::Stop],
        FaultName::Clock => vec![FaultKind::Clock],
        FaultName::Power => FaultKind::POWER.to_vec(),
        FaultName::Full => FaultKind::FULL.to_vec(),
        FaultName::Errors => FaultKind::ERRORS.to_vec(),
        FaultName::Slow => FaultKind::SLOW.to_vec(),
        FaultName::Damage => FaultKind::DAMAGE.to_vec(),
    });
    kinds.filter(|kind| knows_damage || !matches!(kind, FaultKind::Damage(_))).collect()
}

/// The command that repeats a case.
fn repeat(args: &Args, target: &str, seed: u64) -> String {
    let faults: Vec<&str> = args.faults.iter().map(|fault| fault.word()).collect();
    let rule = match args.directories {
        RuleName::Posix => "posix",
        RuleName::Journal => "journal",
    };
    let judged = match (args.target, args.judge_as) {
        (TargetName::Broker, _) | (_, None) => String::new(),
        (_, Some(rules)) => format!(" --judge-as {}", targets::sync_word(rules)),
    };
    let program = args.program.as_ref().map_or_else(String::new, |path| format!(" --program {}", path.display()));
    format!(
        "mqueue prove {target}{judged}{program} --faults {} --directories {rule} --seed {seed} --cases 1",
        faults.join(",")
    )
}

/// A folder for a case's files; removed at the end.
struct CaseFolder(PathBuf);

impl CaseFolder {
    fn new(parent: &Path) -> Result<Self, Failure> {
        let path = parent.join(format!("mqueue-prove-{:08x}", fastrand::u32(..)));
        let failed = |error| {
            let (path, error) = (path.display(), describe(&error));
            let line = format!("cannot create {path}: {error}: name another folder with --folder");
            Failure::new(Exit::Failure, line)
        };
        std::fs::create_dir(&path).map_err(failed)?;
        Ok(Self(path))
    }
}

impl Drop for CaseFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
