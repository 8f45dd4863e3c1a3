//! `mqueue gateway --counter`: a queue of numbers to try workers on, without a publisher.

use nix::sys::signal::Signal;

use crate::support::{Finished, Gateway, Mqueue, Nsqd, mqueue, needs, wait_until};

fn worker(gateway: &Gateway, args: &str) -> Mqueue {
    mqueue(&format!("worker --queue {} {args}", gateway.url()))
}

/// Reads the numbers that a worker printed, each in a line that begins with `line`.
#[track_caller]
fn counted(worker: &Finished, line: &str) -> Vec<u64> {
    let number = |said: &str| said.strip_prefix(line).and_then(|number| number.parse().ok());
    worker.stdout.lines().map(|said| number(said).unwrap_or_else(|| panic!("{line}N, got {said:?}"))).collect()
}

#[test]
fn workers_count_together_and_the_log_has_each_workers_number() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--counter");
    let workers = [1, 2].map(|n| worker(&gateway, &format!("-n {n} -p 0.01 --count 20")).start());
    let [one, two] = workers.map(Mqueue::finish);
    let (one, two) = (counted(&one, "n=1 p=0.01 counter="), counted(&two, "n=2 p=0.01 counter="));
    for (n, numbers) in [(1, &one), (2, &two)] {
        assert_eq!(numbers.len(), 20, "{numbers:?}");
        for counter in numbers {
            let line = format!("fn=Flush n={n} counter={counter}");
            let said = || gateway.program.stderr().lines().filter(|said| said.ends_with(&line)).count();
            // the gateway's stderr is read by a thread of its own
            wait_until(&line, || said() > 0);
            assert_eq!(said(), 1, "{line}");
        }
    }
    let mut all = [one, two].concat();
    all.sort_unstable();
    // a number handed out to a worker that is ending goes to the next worker: no number is left out
    assert_eq!(all[..20], (1..=20).collect::<Vec<_>>());
    all.dedup();
    assert_eq!(all.len(), 40, "a number was given twice: {all:?}");
}

#[test]
fn the_embedded_broker_counts_at_the_workers_pace() {
    let mut gateway = Gateway::with("--listen 127.0.0.1:0 --counter");
    let mut raw = gateway.worker("jobs", "workers", "n=me");
    let job = raw.job().unwrap();
    assert_eq!((&job["body"], &job["attempts"]), (&"1".into(), &1.into()));
    gateway.wait_for_metric("published_total", 1);
    assert_eq!(gateway.answer(&job, "done").status, 200);
    let job = raw.job().unwrap();
    assert_eq!(job["body"], "2");
    // the worker disconnects, and its number is requeued
    drop(raw);
    let finished = worker(&gateway, "-n 7 --count 3").run();
    assert_eq!(counted(&finished, "n=7 p=0 counter="), [2, 3, 4]);
    wait_until("the log to say so", || gateway.program.times_said("fn=Flush n=7 counter=2 attempts=2") == 1);
    gateway.program.signal(Signal::SIGTERM);
    wait_until("the gateway to end", || gateway.program.has_ended());
    let ended = gateway.program.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn counting_continues_after_an_nsqd_outage() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--counter");
    let counting = worker(&gateway, "-n 1").start();
    counting.wait_for_lines(5);
    nsqd.stop();
    let before = counting.stdout().lines().count();
    nsqd.start_again();
    counting.wait_for_lines(before + 20);
    counting.signal(Signal::SIGTERM);
    let mut numbers = counted(&counting.finish(), "n=1 p=0 counter=");
    numbers.sort_unstable();
    numbers.dedup();
    let last = *numbers.last().unwrap();
    // numbers in flight are requeued when their message timeout is over
    let away = last as usize - numbers.len();
    assert!(away <= 2, "{away} numbers are missing: {numbers:?}");
}

#[test]
fn without_the_flag_no_numbers_are_published() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let waiting = gateway.get("/streams/jobs/groups/workers/jobs?create=true&wait=0.2s");
    assert_eq!((waiting.status, &waiting.body), (200, &serde_json::json!([])));
    assert_eq!(gateway.metric("published_total"), 0);
}
