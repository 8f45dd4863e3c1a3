//! Random operations on the state with a fake clock, and single cases.

use std::collections::{HashMap, HashSet};

use super::*;
use mqueue::proto::{ChannelName, TopicName};

type TestJobs = Jobs<u64, u64>;

const SECOND: Duration = Duration::from_secs(1);

fn key(group: &str) -> GroupKey {
    GroupKey { stream: TopicName::new("s").unwrap(), group: ChannelName::new(group).unwrap() }
}

fn limits(in_flight: u32, deadline: u32) -> WorkerLimits {
    WorkerLimits { in_flight, deadline: deadline * SECOND }
}

fn secret(n: u64) -> JobSecret {
    JobSecret(n.into())
}

/// Checks the invariants in the module's documentation.
fn check(jobs: &TestJobs) {
    let mut holders = HashSet::new();
    for (id, worker) in &jobs.workers {
        assert!(worker.held.len() <= worker.limits.in_flight as usize, "{id:?} holds too much");
        for secret in &worker.held {
            assert_eq!(jobs.held[secret].worker, *id);
            assert!(holders.insert(*secret), "held twice");
        }
        let is_available = jobs.groups[&worker.group].available.iter().filter(|other| *other == id).count();
        assert_eq!(is_available, usize::from(worker.has_room()), "{id:?} available");
        assert_eq!(worker.is_available, worker.has_room());
        let deadlines = jobs.deadlines.iter().filter(|(_, other)| other == id).count();
        assert_eq!(deadlines, usize::from(worker.has_deadline));
        assert!(worker.held.is_empty() || worker.has_deadline, "{id:?} would never be missed");
    }
    assert_eq!(holders.len(), jobs.held.len());
    for (key, group) in &jobs.groups {
        let workers: Vec<_> = jobs.workers.values().filter(|worker| worker.group == *key).collect();
        assert_eq!((group.workers, group.slots), (workers.len(), workers.iter().map(|worker| worker.slots()).sum()));
        assert!(group.available.iter().all(|id| jobs.workers.contains_key(id)));
        assert!(group.waiting.is_empty() || group.available.is_empty());
        let room: usize =
            workers.iter().filter(|w| w.has_room()).map(|w| w.limits.in_flight as usize - w.held.len()).sum();
        assert_eq!(jobs.room(key), room as u64);
    }
}

/// Random operations: jobs come, workers join, answer, leave and fall silent. Each job is answered
/// once, returned, or held.
#[test]
fn no_job_is_lost_or_held_twice_under_random_operations() {
    let start = Instant::now();
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut jobs = TestJobs::new();
        let (keys, mut now, mut next) = ([key("a"), key("b")], start, 0);
        let (mut workers, mut held): (Vec<WorkerId>, HashMap<u64, ()>) = (Vec::new(), HashMap::new());
        let (mut out, mut waiting) = (0, HashMap::new());
        for _ in 0..400 {
            let key = &keys[rng.usize(..2)];
            match rng.u8(..12) {
                0 => drop(jobs.open(key)),
                1..=2 => workers.extend(jobs.join(key, limits(rng.u32(1..4), rng.u32(1..20)), next, now)),
                3..=6 => {
                    next += 1;
                    if jobs.enqueue(key, next, now).is_ok() {
                        waiting.insert(next, key);
                    }
                }
                7 => {
                    let one = rng.u64(..=next);
                    let known = held.remove(&one).is_some();
                    let answered = jobs.answer(secret(one), now).map(|(job, _)| job);
                    assert_eq!(answered, known.then_some(one), "seed {seed}");
                    assert_eq!(jobs.answer(secret(one), now), None, "seed {seed}: a token works once");
                    out += u64::from(known);
                }
                8 => {
                    let one = rng.u64(..=next);
                    assert_eq!(jobs.touch(secret(one), now).copied(), held.get(&one).map(|()| one), "seed {seed}");
                }
                9 if !workers.is_empty() => {
                    let id = workers[rng.usize(..workers.len())];
                    match rng.u8(..4) {
                        0 => drop(jobs.leave(id)),
                        1 => drop(jobs.retire(id)),
                        _ => drop(jobs.set_blocked(id, rng.bool())),
                    }
                }
                10 => {
                    if jobs.close_unused(key) {
                        waiting.retain(|_, of| *of != key);
                    }
                }
                _ => {
                    now += rng.u32(..5) * SECOND;
                    jobs.tick(now);
                    jobs.expire_waiting(now);
                    assert!(jobs.due().is_none_or(|due| due > now), "seed {seed}");
                    let late =
                        jobs.workers.values().filter(|w| !w.held.is_empty() && w.heard + w.limits.deadline <= now);
                    assert_eq!(late.count(), 0, "seed {seed}: silent workers keep nothing");
                }
            }
            for key in &keys {
                while let Some(job) = jobs.next_waiting(key) {
                    assert!(waiting.remove(&job).is_some(), "seed {seed}: {job} did not wait");
                    assert!(jobs.hand_out(key, job, secret(job), now).is_ok(), "seed {seed}: a worker is available");
                    held.insert(job, ());
                }
                for job in jobs.take_returned(key) {
                    let was_there = held.remove(&job).is_some() || waiting.remove(&job).is_some();
                    assert!(was_there, "seed {seed}: {job} was returned, without having been held or waiting");
                    out += 1;
                }
            }
            check(&jobs);
            assert_eq!(jobs.held(), held.len(), "seed {seed}");
            assert_eq!(
                jobs.groups.values().map(|group| group.waiting.len()).sum::<usize>(),
                waiting.len(),
                "seed {seed}"
            );
        }
        assert!(out > 0, "seed {seed} did nothing");
    }
}

#[test]
fn jobs_are_handed_out_round_robin() {
    let (mut jobs, now, key) = (TestJobs::new(), Instant::now(), key("a"));
    jobs.open(&key);
    for worker in 0..3 {
        jobs.join(&key, limits(2, 60), worker, now).unwrap();
    }
    let got: Vec<u64> = (0..6).map(|n| jobs.hand_out(&key, n, secret(n), now).unwrap().1).collect();
    assert_eq!(got, [0, 1, 2, 0, 1, 2]);
    assert_eq!(jobs.hand_out(&key, 6, secret(6), now), Err(6), "all have what they asked for");
    // a fast worker gets more jobs, and slow ones do not block it
    for n in 7..20 {
        jobs.answer(secret(if n == 7 { 1 } else { n - 1 }), now).unwrap();
        assert_eq!(jobs.hand_out(&key, n, secret(n), now).map(|(_, outbox)| outbox), Ok(1));
    }
}

#[test]
fn a_worker_that_touches_its_job_is_not_silent() {
    let (mut jobs, start, key) = (TestJobs::new(), Instant::now(), key("a"));
    jobs.open(&key);
    jobs.join(&key, limits(2, 10), 0, start).unwrap();
    jobs.hand_out(&key, 1, secret(1), start).unwrap();
    jobs.hand_out(&key, 2, secret(2), start).unwrap();
    for seconds in [9, 18] {
        assert!(jobs.tick(start + seconds * SECOND).is_empty());
        jobs.touch(secret(1), start + seconds * SECOND).unwrap();
    }
    let due = jobs.due().unwrap();
    assert!(due <= start + 28 * SECOND, "it is looked at in time");
    assert!(jobs.tick(start + 27 * SECOND).is_empty());
    assert_eq!(jobs.tick(start + 28 * SECOND), [(key.clone(), 0, 2)]);
    let mut returned = jobs.take_returned(&key);
    returned.sort_unstable();
    assert_eq!(returned, [1, 2]);
}

#[test]
fn time_without_a_job_is_not_silence() {
    let (mut jobs, start, key) = (TestJobs::new(), Instant::now(), key("a"));
    jobs.open(&key);
    jobs.join(&key, limits(1, 10), 0, start).unwrap();
    let later = start + 1000 * SECOND;
    jobs.hand_out(&key, 1, secret(1), later).unwrap();
    assert!(jobs.tick(later + 9 * SECOND).is_empty());
    assert_eq!(jobs.tick(later + 10 * SECOND).len(), 1);
}

#[test]
fn a_retired_worker_is_removed_with_its_last_job() {
    let (mut jobs, now, key) = (TestJobs::new(), Instant::now(), key("a"));
    jobs.open(&key);
    let id = jobs.join(&key, limits(5, 10), 0, now).unwrap();
    jobs.hand_out(&key, 1, secret(1), now).unwrap();
    assert_eq!(jobs.retire(id), Some((key.clone(), None)));
    assert_eq!((jobs.slots(&key), jobs.hand_out(&key, 2, secret(2), now)), (1, Err(2)));
    assert!(!jobs.close_unused(&key));
    assert_eq!(jobs.answer(secret(1), now), Some((1, Some(0))), "and its outbox is returned");
    assert!(jobs.close_unused(&key));
}
