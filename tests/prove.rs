//! `mqueue prove`: power cuts for the embedded broker, and faults that it must find.

use std::process::{Child, Command};

use nix::sys::signal::Signal;

use crate::support::{Finished, Mqueue, mqueue, needs, peer, skip, wait_until};

/// Returns the report of a run, or `None`, and skips the test, if power cuts are impossible here.
fn report(finished: &Finished) -> Option<serde_json::Value> {
    let report: serde_json::Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    match &report["left_out"] {
        serde_json::Value::Null => Some(report),
        why => {
            // not a peer that can be installed: containers often have no /dev/fuse
            eprintln!("skipped: {why}");
            None
        }
    }
}

fn power_cuts(report: &serde_json::Value) -> u64 {
    let faults = report["faults"].as_array().expect("a list").iter();
    let cuts = faults.filter(|fault| fault["fault"].as_str().is_some_and(|name| name.starts_with("power cut")));
    cuts.map(|fault| fault["times"].as_u64().expect("a number")).sum()
}

#[test]
fn a_broker_that_syncs_before_ok_keeps_its_promise_through_power_cuts() {
    let finished = mqueue("prove broker --sync always --cases 4 --seed 2 --json").run();
    let Some(report) = report(&finished) else { return };
    assert_eq!((finished.code, &report["violations"]), (Some(0), &0.into()), "{finished:?}");
    assert!(power_cuts(&report) > 0 && report["messages"]["acknowledged"].as_u64() > Some(0), "{report}");
}

#[test]
fn losses_within_the_interval_are_allowed_and_counted() {
    let finished = mqueue("prove broker --sync interval --faults power --cases 3 --seed 1 --json").run();
    let Some(report) = report(&finished) else { return };
    assert_eq!((finished.code, &report["violations"]), (Some(0), &0.into()), "{finished:?}");
    assert!(report["lost_as_allowed"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_broker_that_acknowledges_before_it_syncs_is_found_and_the_printed_command_finds_it_again() {
    let run = "prove broker --sync never --judge-as always --faults power --cases 2 --seed 1 --json";
    let finished = mqueue(run).run();
    let Some(report) = report(&finished) else { return };
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let lost = report["described"].as_array().expect("a list").iter().find(|found| found["kind"] == "lost");
    let command = lost.expect("a lost message")["command"].as_str().expect("a command");
    let again = mqueue(command.strip_prefix("mqueue ").expect("a command of this program")).run();
    assert_eq!(again.code, Some(1), "{command}: {again:?}");
    assert!(again.stdout.contains(" is lost: ") && again.stdout.contains("repeat: mqueue prove"), "{again:?}");
}

#[test]
fn without_a_usable_fuse_power_cuts_are_left_out_and_the_rest_runs() {
    let hidden = "mount --bind /dev/null /dev/fuse";
    let can = Command::new("unshare").args(["-m", "sh", "-c", hidden]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        return skip("/dev/fuse can only be hidden by root");
    }
    let prove =
        |args: &str| Mqueue::shell(&format!("unshare -m sh -c '{hidden} && exec \"$0\" prove {args}' \"$0\"")).run();
    let finished = prove("--cases 1 --seed 1");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for words in ["kill -9", "left out: power cuts and failing disks: cannot mount", "0 violations in 1 case"] {
        assert!(finished.stdout.contains(words), "{words}: {finished:?}");
    }
    let finished = prove("--cases 1 --faults power");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.stderr.starts_with("mqueue: power cuts and failing disks are impossible: cannot mount"),
        "{finished:?}"
    );
}

#[test]
fn ctrl_c_ends_after_the_case_with_the_table_and_leaves_no_mount_and_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = mqueue("prove --duration 300 --folder").arg(&folder.path().display().to_string()).start();
    running.wait_to_say("mqueue broker");
    running.signal(Signal::SIGINT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("0 violations in "), "{finished:?}");
    let mounts = std::fs::read_to_string("/proc/mounts").expect("readable");
    assert!(!mounts.contains(&folder.path().display().to_string()), "{mounts}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

/// Starts a process with a mount namespace of its own, while something is mounted below `folder`.
/// Returns `None`, and skips the test, if that is impossible.
fn namespace_with_mount(folder: &str) -> Option<Child> {
    let can = Command::new("unshare").args(["-m", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        skip("unshare -m needs root");
        return None;
    }
    let mut found = None;
    wait_until("a copy of the mount", || {
        let mut child = Command::new("unshare").args(["-m", "sleep", "600"]).spawn().expect("it was there");
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        wait_until("a namespace", || read("comm").trim() == "sleep");
        if read("mounts").contains(folder) {
            found = Some(child);
            return true;
        }
        child.kill().and_then(|()| child.wait()).expect("it runs");
        false
    });
    found
}

#[test]
fn a_copy_of_the_mount_in_another_namespace_does_not_keep_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let running = mqueue("prove --duration 300 --folder").arg(&path).start();
    running.wait_to_say("mqueue broker");
    if running.times_said("left out") > 0 {
        return;
    }
    let Some(mut holder) = namespace_with_mount(&path) else { return };
    running.signal(Signal::SIGINT);
    let finished = running.finish();
    holder.kill().and_then(|()| holder.wait()).expect("it runs");
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
fn a_folder_that_does_not_exist_is_one_line() {
    let finished = mqueue("prove --cases 1 --folder /nonexistent").run();
    assert_eq!(finished.code, Some(1));
    let line = "mqueue: cannot create /nonexistent/mqueue-prove-";
    assert!(finished.stderr.starts_with(line) && finished.stderr.lines().count() == 1, "{finished:?}");
}

#[test]
fn damage_of_the_log_costs_at_most_the_damaged_units_and_is_named() {
    let finished = mqueue("prove broker --faults damage --cases 4 --seed 1 --json").run();
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("a report");
    assert_eq!((finished.code, &report["violations"]), (Some(0), &0.into()), "{finished:?}");
    let faults = report["faults"].as_array().expect("a list");
    let damaged = faults.iter().filter(|fault| fault["fault"].as_str().is_some_and(|name| name.contains(", ")));
    assert!(damaged.count() > 0, "{report}");
}

/// Proves a peer for some cases, by kills and power cuts.
fn prove_peer(target: &str, program: &std::path::Path) -> Option<(Finished, serde_json::Value)> {
    let args = format!("prove {target} --faults kill,power --directories journal --cases 3 --seed 1 --json --program");
    let finished = mqueue(&args).arg(&program.display().to_string()).run();
    let report = report(&finished)?;
    assert!(report["messages"]["delivered"].as_u64() > Some(0), "{finished:?}");
    Some((finished, report))
}

#[test]
fn nsqd_loses_what_it_had_in_memory_which_is_no_violation() {
    needs!("nsqd");
    let nsqd = peer("nsqd").expect("it was found");
    let Some((finished, report)) = prove_peer("nsqd", &nsqd) else { return };
    assert!(report["lost_as_allowed"].as_u64() > Some(0), "{finished:?}");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    prove_peer("nsqd-durable", &nsqd);
}

#[test]
fn other_brokers_are_published_to_killed_and_read_empty() {
    for (target, name) in [("redis", "redis-server"), ("beanstalkd", "beanstalkd"), ("jet-stream", "nats-server")] {
        match peer(name) {
            Some(program) => drop(prove_peer(target, &program)),
            None => eprintln!("skipped: {name} is missing"),
        }
    }
}

#[test]
fn a_missing_program_is_one_line() {
    for (args, named) in [("", "nsqd"), ("--program /nonexistent/nsqd", "/nonexistent/nsqd")] {
        let finished = mqueue(&format!("prove nsqd --cases 1 {args}")).env("PATH", "/nonexistent").run();
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let line = format!("mqueue: cannot find {named}: install it, or name it with --program\n");
        assert_eq!(finished.stderr, line);
    }
}

#[test]
fn steps_of_the_clock_break_no_promise() {
    let finished = mqueue("prove broker --faults clock,kill --cases 4 --seed 1 --json").run();
    if finished.stderr.contains("libfaketime is missing") {
        return skip("libfaketime is missing (apt install libfaketime)");
    }
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("a report");
    let faults = report["faults"].as_array().expect("a list");
    assert!(faults.iter().any(|fault| fault["fault"] == "clock stepped"), "{report}");
    assert!(report["messages"]["acknowledged"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_program_that_does_not_load_libfaketime_is_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("nsqd");
    std::fs::write(&program, "static").expect("written");
    let finished = mqueue("prove nsqd --faults clock --cases 1 --program").arg(&program.display().to_string()).run();
    assert_eq!(finished.code, Some(1));
    let line = "mqueue: steps of the clock are impossible: ";
    assert!(finished.stderr.starts_with(line) && finished.stderr.lines().count() == 1, "{finished:?}");
}
