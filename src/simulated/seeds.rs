//! Runs of many seeds, in processes of their own.

// a run of seeds reports what it did
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::ops::Range;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::random;
use super::world::{Outcome, run, runtime};

/// Seeds that one process runs.
const BATCH: u64 = 50;

/// The longest time that a seed takes, on a busy machine.
const SEED_TIMEOUT: Duration = Duration::from_secs(120);

/// True if a run ends after the first seed that broke a promise.
fn stops_when_broken() -> bool {
    std::env::var_os("UNTIL_BROKEN").is_some()
}

/// Runs the world of a seed; ends the process if that takes too long.
fn run_within_timeout(seed: u64) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if receiver.recv_timeout(SEED_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("SEEDS={seed}..{}: no end within {SEED_TIMEOUT:?}", seed + 1);
                std::process::exit(1);
            }
        });
        let outcome = run(seed);
        let _ = sender.send(());
        outcome
    })
}

/// Runs the seeds of a range within a batch, and prints those that broke a promise.
fn run_batch(seeds: Range<u64>) {
    // tokio counts the runtimes and their threads in a process; its random numbers depend on that
    for seed in seeds.start / BATCH * BATCH..seeds.start {
        std::thread::spawn(move || {
            random::seed_thread(seed);
            runtime().block_on(async {});
        })
        .join()
        .unwrap();
    }
    let (mut total, mut broken) = (Outcome::default(), 0);
    for seed in seeds.clone() {
        println!("{BEGINS}{seed}..{}", seed + 1);
        let outcome = run_within_timeout(seed);
        total.acknowledged += outcome.acknowledged;
        total.handlings += outcome.handlings;
        total.letters += outcome.letters;
        for (trouble, count) in outcome.troubles {
            *total.troubles.entry(trouble).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            broken += 1;
            eprintln!("SEEDS={seed}..{}: {}", seed + 1, outcome.violations.join("; "));
            if stops_when_broken() {
                break;
            }
        }
    }
    let Outcome { acknowledged, handlings, letters, troubles, .. } = total;
    println!("seeds {seeds:?}: {acknowledged} acknowledged, {handlings} handled, {letters} dead letters, {troubles:?}");
    assert!(broken == 0, "{broken} of the seeds {seeds:?} broke a promise");
}

/// The beginning of the line that a batch prints before each seed.
const BEGINS: &str = "begins SEEDS=";

/// The range of the variable SEEDS, or another one.
fn seeds_or(other: Range<u64>) -> Range<u64> {
    let Ok(seeds) = std::env::var("SEEDS") else { return other };
    let (first, end) = seeds.split_once("..").expect("SEEDS=0..1000");
    first.parse().unwrap()..end.parse().unwrap()
}

#[test]
#[ignore = "it runs in a process of its own, which the tests below start"]
fn a_batch() {
    run_batch(seeds_or(0..BATCH));
}

/// Lines that processes have printed.
#[derive(Debug, Default)]
struct Printed {
    /// The counts of each batch.
    counts: Vec<String>,
    /// The seeds that broke a promise.
    broken: Vec<String>,
}

impl Printed {
    /// Adds what a batch printed, and prints it.
    fn add(&mut self, ended: &Output) {
        let (stdout, stderr) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        if std::env::var_os("VERBOSE").is_some() {
            eprint!("{stderr}");
        }
        for line in stdout.lines().filter(|line| line.starts_with("seeds")) {
            println!("{line}");
            self.counts.push(line.to_owned());
        }
        let before = self.broken.len();
        self.broken.extend(stderr.lines().filter(|line| line.starts_with("SEEDS=")).map(str::to_owned));
        if !ended.status.success() && self.broken.len() == before {
            let seed = stdout.lines().rev().find_map(|line| line.strip_prefix(BEGINS)).unwrap_or("none");
            let last = stderr.lines().rev().take(5).collect::<Vec<_>>().join(" < ");
            self.broken.push(format!("SEEDS={seed}: the process ended, {}: {last}", ended.status));
        }
        for broken in &self.broken[before..] {
            println!("{broken}\n    repeat it: make simulated-world {}", broken.split(':').next().unwrap_or_default());
        }
    }
}

/// Runs seeds in other processes, as many at once as there are processors.
fn run_processes(seeds: Range<u64>) -> Printed {
    let batches: Vec<_> = (seeds.start / BATCH..seeds.end.div_ceil(BATCH)).collect();
    let next = AtomicUsize::new(0);
    let printed = Mutex::new(Printed::default());
    let processes = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..processes {
            scope.spawn(|| {
                while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (first, end) = (seeds.start.max(batch * BATCH), seeds.end.min((batch + 1) * BATCH));
                    let ended = Command::new(std::env::current_exe().unwrap())
                        .args(["--exact", "simulated::seeds::a_batch", "--ignored", "--nocapture"])
                        .env("SEEDS", format!("{first}..{end}"))
                        .output()
                        .unwrap();
                    printed.lock().unwrap().add(&ended);
                    if !ended.status.success() && stops_when_broken() {
                        next.store(batches.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    printed.into_inner().unwrap()
}

#[test]
fn a_seed_repeats() {
    // in a batch, and alone
    let (batch, alone) = (run_processes(0..3), run_processes(2..3));
    let first_two = run_processes(0..2);
    assert_eq!(run_processes(2..3).counts, alone.counts);
    assert_eq!(total(&batch), total(&first_two) + total(&alone));
}

/// The number of handled messages that `run_batch` prints.
fn total(printed: &Printed) -> u64 {
    let words: Vec<&str> = printed.counts[0].split_whitespace().collect();
    let at = words.iter().position(|word| *word == "handled,").expect("a batch has run");
    words[at - 1].parse().unwrap()
}

#[test]
fn no_promise_is_broken_whatever_goes_wrong() {
    let printed = run_processes(seeds_or(0..20));
    let (broken, text) = (printed.broken.len(), printed.broken.join("\n"));
    assert!(broken == 0, "{broken} seeds broke a promise:\n{text}");
}
