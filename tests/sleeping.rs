//! Sleeping consumers on a real systemd, which scripts/with-systemd boots: each test is a script in
//! tests/systemd.

use std::path::Path;
use std::process::Command;

use crate::support::needs;

/// Runs `tests/systemd/NAME` inside; skips the test if it cannot run here, which is a failure with
/// MQUEUE_REQUIRE_PEERS=1.
fn inside(script: &str) {
    inside_with(script, &[]);
}

/// The same with counts in place of the script's own, which `make soak` plays (MQUEUE_SOAK=1).
fn inside_with(script: &str, counts: &[(&str, &str)]) {
    boot(&[], script, counts);
}

/// The same with flags of with-systemd.
fn boot(flags: &[&Path], script: &str, counts: &[(&str, &str)]) {
    let counts = if std::env::var("MQUEUE_SOAK").is_ok_and(|v| v == "1") { &[] } else { counts };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let required = std::env::var("MQUEUE_REQUIRE_PEERS").is_ok_and(|v| v == "1");
    let booted = nix::unistd::geteuid().is_root() && Path::new("/lib/systemd/systemd").exists();
    if !booted {
        assert!(!required, "{script} needs root and the package systemd");
        eprintln!("skipped: {script}: it needs root and the package systemd");
        return;
    }
    let run = Command::new(root.join("scripts/with-systemd"))
        .args(flags)
        .arg(root.join("tests/systemd").join(script))
        .env("MQUEUE", env!("CARGO_BIN_EXE_mqueue"))
        // a debug build takes longer to start, and other tests run beside this one
        .env("SLACK", "2")
        .envs(counts.iter().copied())
        .output()
        .expect("the script is there");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    eprintln!("{said}");
    match run.status.code() {
        Some(0) => {}
        Some(77) if !required => {}
        code => panic!("{script} ended with {code:?}"),
    }
}

#[test]
fn a_consumer_sleeps_and_wakes_again_and_again() {
    needs!("nsqd");
    inside_with("sleeps-and-wakes", &[("ROUNDS", "15")]);
}

#[test]
fn a_consumer_that_crashes_at_start_does_not_fail_its_socket() {
    needs!("nsqd");
    inside_with("crashes-at-start", &[("CRASHES", "6")]);
}

#[test]
fn fifty_consumers_woken_at_once_all_handle_their_message() {
    needs!("nsqd");
    inside("fifty-at-once");
}

#[test]
fn handlers_work_within_the_hardening() {
    needs!("nsqd");
    inside("handlers-confined");
}

#[test]
fn a_broker_sleeps_between_clients_and_wakes_for_deferred_messages() {
    inside_with("broker-sleeps-and-wakes", &[("SLEEPS", "6")]);
}

#[test]
fn deferred_messages_outlive_a_reboot_with_everything_asleep() {
    // overlayfs cannot write to every file system, but it can to tmpfs
    let disk = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    for _ in 0..3 {
        boot(&[Path::new("--disk"), disk.path()], "reboots", &[("LATE", "15")]);
    }
}

#[test]
fn connections_at_any_moment_of_the_brokers_exit_are_served() {
    inside_with("broker-lossless-around-the-idle-exit", &[("SECONDS_LONG", "15"), ("KILLS", "8")]);
}

#[test]
fn a_sleeping_broker_wakes_sleeping_consumers() {
    inside("broker-wakes-consumers");
}

#[test]
fn a_sleeping_broker_that_fails_is_bounded_and_shown() {
    inside("broker-bad-cases");
}

#[test]
fn the_units_are_sound_and_hardened() {
    inside("units-are-sound");
}

#[test]
fn every_daemon_runs_as_a_unit() {
    inside("daemons-run");
}

#[test]
fn systemd_socket_activate_wakes_a_consumer() {
    needs!("nsqd");
    inside("socket-activate");
}

#[test]
fn doctor_reports_problems_of_units_and_their_fixes() {
    needs!("nsqd");
    inside("doctor");
}

#[test]
fn messages_at_any_moment_of_a_consumers_exit_are_handled_in_time() {
    needs!("nsqd");
    inside_with("lossless-around-the-idle-timeout", &[("SECONDS_LONG", "20")]);
}

#[test]
fn a_failing_consumer_is_started_at_wakeups_pace() {
    needs!("nsqd");
    inside("retries-at-wakeups-pace");
}

#[test]
fn a_killed_wakeup_an_nsqd_outage_and_a_removed_socket_lose_no_message() {
    needs!("nsqd");
    inside("survives");
}

#[test]
fn a_full_journal_stops_no_consumer() {
    needs!("nsqd");
    inside("journals-disk-is-full");
}

#[test]
fn systemd_and_the_journal_show_a_consumers_state() {
    needs!("nsqd");
    inside("tells-systemd");
}

#[test]
fn a_message_wakes_its_consumer_about_as_fast_as_systemd_starts_a_unit() {
    needs!("nsqd");
    inside_with("wakes-fast", &[("WAKES", "30")]);
}
