//! At least once, while all programs are killed and restarted.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Mqueue, Nsqd, Sequences, mqueue, needs, wait_until};

const EVENTS: u64 = 200_000;

fn consumer(nsqd: &Nsqd) -> Mqueue {
    let args = "consumer --stream foo --group 1 --output body --msg-timeout 2s";
    mqueue(args).env("NSQD_TCP_ADDRESS", &nsqd.tcp()).start()
}

#[test]
fn no_acknowledged_event_is_lost_over_restarts_and_kills() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let args = format!("producer --stream foo --interval 0 --tasks 200 --count {EVENTS} --report json");
    let producer = mqueue(&args).env("NSQD_TCP_ADDRESS", &nsqd.tcp()).start();
    let mut seen = Sequences::default();
    let mut current = consumer(&nsqd);
    for turn in 1..=3 {
        wait_until("some events more", || current.stdout().len() > 1_000_000);
        nsqd.stop();
        nsqd.start_again();
        if turn < 3 {
            wait_until("some events after the restart", || current.stdout().len() > 2_000_000);
            current.signal(Signal::SIGKILL);
            seen.read(&current.finish().stdout);
            current = consumer(&nsqd);
        }
    }
    let report = producer.finish();
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert_eq!(report["acknowledged"], EVENTS, "{report}");
    let start = Instant::now();
    nsqd.wait_for_empty("foo", "1");
    current.signal(Signal::SIGTERM);
    let last = current.finish();
    assert_eq!(last.code, Some(0), "{}", last.stderr);
    seen.read(&last.stdout);
    assert_eq!(seen.distinct(), EVENTS, "every acknowledged event was consumed");
    eprintln!(
        "{EVENTS} events, {} resent, {} duplicates, drained in {:?}",
        report["resent"],
        seen.duplicates(),
        start.elapsed()
    );
    assert!(start.elapsed() < Duration::from_secs(60));
}
