//! `mqueue demo`: output, exit code and cleanup.

use nix::sys::signal::Signal;

use crate::support::{Mqueue, mqueue, wait_until};

/// A demo with a folder for temporary files of its own, which must be empty at the end.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn demo(&self, duration: &str) -> Mqueue {
        mqueue(&format!("demo --for {duration}")).env("TMPDIR", self.0.path().to_str().expect("UTF-8"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let left: Vec<_> = std::fs::read_dir(self.0.path()).expect("a folder").collect();
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}

/// Reads the row of a group from the summary: published, handled, lost, twice.
fn row(shown: &str, group: &str) -> Vec<u64> {
    let summary = shown.split("published   handled").nth(1).unwrap_or_else(|| panic!("no summary in:\n{shown}"));
    let line = summary.lines().find(|line| line.trim_start().starts_with(group)).expect("a row");
    line.split_whitespace().skip(1).take(4).map(|word| word.parse().expect("a number")).collect()
}

#[test]
fn the_demo_shows_a_sleeping_group_that_is_woken_and_loses_no_message() {
    let stage = Stage::new();
    let ran = stage.demo("6s").run();
    eprintln!("{}", ran.stdout);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for group in ["mail", "reports"] {
        let row = row(&ran.stdout, group);
        assert!(row[0] >= 100, "{group} had {row:?}");
        assert_eq!((row[1], row[2]), (row[0], 0), "{group} handled what was published");
    }
    assert_eq!(ran.stdout.matches("woken by its socket").count(), 2, "two bursts");
    assert_eq!(ran.stdout.matches("asleep again").count(), 2);
    // then broker and consumer sleep, and two messages start both
    for (words, count) in [
        ("0 processes\n", 3),
        ("broker    started by the connection", 2),
        ("reports   started by the broker's poke", 2),
        ("after publishing began", 2),
        ("reports   idle for 1 s: gone", 2),
        ("broker    no client for 1 s: gone", 2),
        ("0 processes: 2 messages started both", 1),
    ] {
        assert_eq!(ran.stdout.matches(words).count(), count, "{words} in\n{}", ran.stdout);
    }
}

#[test]
fn ctrl_c_ends_the_demo_with_a_summary_and_leaves_nothing_behind() {
    let stage = Stage::new();
    let demo = stage.demo("60s").start();
    wait_until("a wake", || demo.stdout().contains("woken by its socket"));
    demo.signal(Signal::SIGINT);
    let ran = demo.finish();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(row(&ran.stdout, "reports")[2], 0, "{}", ran.stdout);
}

#[test]
fn an_uncreatable_folder_is_one_line() {
    let ran = mqueue("demo").env("TMPDIR", "/nonexistent").run();
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.lines().count() == 1 && ran.stderr.contains("TMPDIR"), "{ran:?}");
}
