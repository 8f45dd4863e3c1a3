//! `mqueue worker` on a gateway: its output and work, and that no job is lost when workers fail.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Gateway, Mqueue, Nsqd, mqueue, needs, wait_until, wait_within};

fn worker(gateway: &Gateway, args: &str) -> Mqueue {
    mqueue(&format!("worker --queue {} {args}", gateway.url()))
}

fn publish(gateway: &Gateway, jobs: usize) {
    let lines: String = (1..=jobs).map(|n| format!("{n}\n")).collect();
    assert_eq!(gateway.publish_lines("jobs", lines.as_bytes()).status, 200);
}

#[test]
fn a_worker_prints_its_jobs_and_logs_a_summary() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    publish(&gateway, 3);
    let finished = worker(&gateway, "-n 7 -p 0.05 --count 3").run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout, "n=7 p=0.05 counter=1\nn=7 p=0.05 counter=2\nn=7 p=0.05 counter=3\n");
    assert!(finished.stderr.contains("3 done, 0 retried, 0 dropped, 0 too late"), "{}", finished.stderr);
    nsqd.wait_for_empty("jobs", "workers");
    assert_eq!(gateway.program.times_said("job n=7 stream=jobs group=workers"), 3);
}

#[test]
fn verdicts_become_done_retry_or_dead_letter() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--retry-delay 10ms");
    publish(&gateway, 4);
    // 1: dead letter, 2: fails twice, the others are done
    let script = r#"read n; case $n in 1) exit 65;; 2) [ "$MQUEUE_ATTEMPTS" -gt 2 ];; esac"#;
    let mut command =
        worker(&gateway, "--in-flight 4 --count 3 --max-backoff 0 --handler").arg(&format!("exec:{script}")).start();
    wait_until("all to be settled", || command.has_ended());
    let finished = command.finish();
    assert!(finished.stderr.contains("3 done, 2 retried, 1 dropped, 0 too late"), "{}", finished.stderr);
    nsqd.wait_for_empty("jobs", "workers");
    assert_eq!(nsqd.published("jobs.dead"), 1);
    let unknown = worker(&gateway, "--handler forward:other").run();
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
}

#[test]
fn many_jobs_are_printed_in_batches() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    publish(&gateway, 20_000);
    let finished = mqueue(&format!("--log warn worker --queue {} --handler print --count 20000", gateway.url())).run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut numbers: Vec<u32> = finished.stdout.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20_000).collect::<Vec<_>>());
    nsqd.wait_for_empty("jobs", "workers");
}

#[test]
fn a_worker_waits_for_an_unreachable_gateway_and_can_be_stopped_meanwhile() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let address = gateway.address.clone();
    let waiting = worker(&gateway, "-n 1").start();
    publish(&gateway, 1);
    waiting.wait_for_lines(1);
    nsqd.wait_for_empty("jobs", "workers");
    drop(gateway);
    waiting.wait_to_say("trying again");
    let gateway = Gateway::start_on(&nsqd, &address, "");
    publish(&gateway, 1);
    waiting.wait_for_lines(2);
    waiting.wait_to_say("answers again");
    nsqd.wait_for_empty("jobs", "workers");
    drop(gateway);
    wait_until("it to be missed again", || waiting.times_said("trying again") == 2);
    waiting.signal(Signal::SIGINT);
    let finished = waiting.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[test]
fn a_stopped_worker_finishes_its_job_and_requeues_the_rest() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    publish(&gateway, 2);
    let ending = worker(&gateway, "-p 0.5").start();
    ending.wait_for_lines(1);
    ending.signal(Signal::SIGTERM);
    let finished = ending.finish();
    assert!(finished.code == Some(0) && finished.stderr.contains("1 done"), "{}", finished.stderr);
    wait_until("the other job to be left", || {
        let left = nsqd.channel("jobs", "workers");
        (left.depth, left.in_flight_count) == (1, 0)
    });
    // a closed stdout ends the worker, too, and is not a failure
    let closed = Mqueue::shell(&format!("$0 worker --queue {} -p 0.1 | head -0", gateway.url())).run();
    assert_eq!(closed.code, Some(0), "{}", closed.stderr);
    wait_until("it to be left still", || nsqd.channel("jobs", "workers").depth == 1);
}

#[test]
fn workers_on_two_gateways_share_a_group() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let (one, two) = (Gateway::start(&nsqd, ""), Gateway::start(&nsqd, ""));
    let (first, second) = (worker(&one, "-p 0.01").start(), worker(&two, "-p 0.01").start());
    nsqd.wait_for_clients("jobs", "workers", 2);
    publish(&one, 200);
    nsqd.wait_for_empty("jobs", "workers");
    let mut lines: Vec<String> =
        [&first, &second].iter().flat_map(|it| it.stdout().lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(first.stdout().lines().count() > 20 && second.stdout().lines().count() > 20);
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 200);
    // a job of one gateway cannot be answered at the other
    drop((first, second));
    publish(&one, 1);
    let job = one.worker("jobs", "workers", "").job().unwrap();
    assert_eq!(two.answer(&job, "done").status, 409);
}

#[test]
fn a_worker_pauses_when_its_jobs_fail_and_leaves_them_to_others() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--retry-delay 10ms");
    publish(&gateway, 100);
    let broken = worker(&gateway, "--handler exec:false").start();
    broken.wait_to_say("jobs fail one after the other");
    let sound = worker(&gateway, "--count 100").run();
    assert_eq!(sound.code, Some(0), "{}", sound.stderr);
    assert!(gateway.metric("jobs_retried_total") < 10, "{}", broken.stderr());
    broken.signal(Signal::SIGTERM);
    assert_eq!(broken.finish().code, Some(5), "a pause does not hold its end up");
    assert_eq!(nsqd.published("jobs.dead"), 0);
}

/// A network namespace for workers, in which a firewall cuts them off.
struct Namespace {
    name: String,
    gateway: String,
}

impl Namespace {
    /// `None`, with the reason on stderr, if namespaces are not permitted.
    fn new() -> Option<Self> {
        let pid = std::process::id();
        let (name, net) = (format!("mqueue-{pid}"), pid % 250);
        let (ours, theirs) = (format!("mq{pid}a"), format!("mq{pid}b"));
        let gateway = format!("10.231.{net}.1");
        let made = run("ip", &format!("netns add {name}"));
        let space = Self { name, gateway };
        let steps = [
            format!("link add {ours} type veth peer name {theirs}"),
            format!("link set {theirs} netns {}", space.name),
            format!("addr add {}/30 dev {ours}", space.gateway),
            format!("link set {ours} up"),
            format!("-n {} addr add 10.231.{net}.2/30 dev {theirs}", space.name),
            format!("-n {} link set {theirs} up", space.name),
        ];
        if made && steps.iter().all(|step| run("ip", step)) && space.cut() && space.mend() {
            return Some(space);
        }
        eprintln!("skipped: no network namespace with a firewall can be made here");
        None
    }

    fn run(&self, command: &str) -> bool {
        run("ip", &format!("netns exec {} {command}", self.name))
    }

    /// Drops all packets silently, in both directions.
    fn cut(&self) -> bool {
        self.run("iptables -A INPUT -j DROP") && self.run("iptables -A OUTPUT -j DROP")
    }

    fn mend(&self) -> bool {
        self.run("iptables -F INPUT") && self.run("iptables -F OUTPUT")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &format!("netns del {}", self.name));
    }
}

fn run(program: &str, args: &str) -> bool {
    let ran = Command::new(program).args(args.split_whitespace()).output();
    ran.is_ok_and(|output| output.status.success())
}

/// A fault of a worker.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Stop,
    Cut,
}

const DEADLINE: Duration = Duration::from_secs(1);
/// The slack for deadlines on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Ten workers, and their jobs.
struct Crew<'a> {
    gateway: &'a Gateway,
    pause: f64,
    workers: Vec<Mqueue>,
    names: usize,
    /// The number of times each job was done by workers that have ended.
    worked: HashMap<String, usize>,
}

impl<'a> Crew<'a> {
    fn start(&mut self, namespace: Option<&Namespace>) -> Mqueue {
        self.names += 1;
        let args = format!(
            "worker --queue {} -n {} -p {} --deadline {}s",
            self.gateway.url(),
            self.names,
            self.pause,
            DEADLINE.as_secs()
        );
        match namespace {
            None => mqueue(&args).start(),
            Some(space) => Mqueue::shell(&format!("exec ip netns exec {} $0 {args}", space.name)).start(),
        }
    }

    fn count(worked: &mut HashMap<String, usize>, worker: &Mqueue) {
        for line in worker.stdout().lines() {
            let counter = line.rsplit("counter=").next().expect("each line has one");
            *worked.entry(counter.to_owned()).or_default() += 1;
        }
    }

    /// Kills a worker and starts another in its place; returns the time until the gateway noticed.
    fn kill(&mut self, index: usize) -> Duration {
        let killed = Instant::now();
        self.workers[index].signal(Signal::SIGKILL);
        wait_within(SLACK, "a killed worker to be missed", || self.gateway.metric("workers") == 9);
        let missed = killed.elapsed();
        wait_until("its end", || self.workers[index].has_ended());
        let next = self.start(None);
        let gone = std::mem::replace(&mut self.workers[index], next);
        Self::count(&mut self.worked, &gone);
        missed
    }

    /// Stops a worker until its jobs were requeued.
    fn stop(&mut self, index: usize) -> Duration {
        let (stopped, silent) = (Instant::now(), self.gateway.metric("silent_workers_total"));
        self.workers[index].signal(Signal::SIGSTOP);
        let taken_back = || self.gateway.metric("silent_workers_total") > silent;
        wait_within(2 * DEADLINE + SLACK, "a stopped worker's jobs to be taken back", taken_back);
        let missed = stopped.elapsed();
        self.workers[index].signal(Signal::SIGCONT);
        missed
    }

    /// Cuts off the first worker's network.
    fn cut(&mut self, namespace: &Namespace) -> Duration {
        let (cut, silent) = (Instant::now(), self.gateway.metric("silent_workers_total"));
        assert!(namespace.cut());
        let missed = || self.gateway.metric("silent_workers_total") > silent || self.gateway.metric("workers") == 9;
        wait_within(2 * DEADLINE + SLACK, "a worker that is cut off to be missed", missed);
        let missed = cut.elapsed();
        assert!(namespace.mend());
        missed
    }
}

/// Runs jobs on ten workers that are killed, stopped and cut off; every job is done.
fn storm(jobs: usize, faults: usize, pause: f64) {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let namespace = Namespace::new();
    let nsqd = Nsqd::start();
    let listen = namespace.as_ref().map_or("127.0.0.1:0".to_owned(), |space| format!("{}:0", space.gateway));
    let gateway = Gateway::start_on(&nsqd, &listen, "--heartbeat 1s --insecure");
    let mut crew = Crew { gateway: &gateway, pause, workers: Vec::new(), names: 0, worked: HashMap::new() };
    for index in 0..10 {
        let worker = crew.start(namespace.as_ref().filter(|_| index == 0));
        crew.workers.push(worker);
    }
    gateway.wait_for_metric("workers", 10);
    publish(&gateway, jobs);
    let mut missed: HashMap<&str, Vec<Duration>> = HashMap::new();
    for n in 0..faults {
        wait_within(Duration::from_secs(30), "all workers to be there", || gateway.metric("workers") == 10);
        let fault = match (n % 3, &namespace) {
            (0, _) => Fault::Kill,
            (1, _) | (_, None) => Fault::Stop,
            (_, Some(_)) => Fault::Cut,
        };
        let index = rng.usize(1..10);
        let (name, after) = match fault {
            Fault::Kill => ("kill -9", crew.kill(index)),
            Fault::Stop => ("SIGSTOP", crew.stop(index)),
            Fault::Cut => ("cut off", crew.cut(namespace.as_ref().expect("or it would be another fault"))),
        };
        missed.entry(name).or_default().push(after);
    }
    assert!(nsqd.channel("jobs", "workers").depth > 0, "the jobs should last as long as the faults");
    wait_within(Duration::from_secs(300), "all jobs to be done", || {
        let left = nsqd.channel("jobs", "workers");
        left.depth + left.in_flight_count + left.deferred_count == 0
    });
    let Crew { workers, mut worked, .. } = crew;
    workers.iter().for_each(|worker| Crew::count(&mut worked, worker));
    let lost: Vec<usize> = (1..=jobs).filter(|n| !worked.contains_key(&n.to_string())).collect();
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    let twice: usize = worked.values().map(|times| times - 1).sum();
    eprintln!("{jobs} jobs, {faults} faults: lost 0, done again {twice}");
    for (name, times) in &missed {
        eprintln!("  {name}: {} times, noticed after at most {:?}", times.len(), times.iter().max().unwrap());
    }
    assert!(twice <= faults, "seed {seed}: done again {twice}: more than were interrupted");
}

#[test]
fn no_job_is_lost_while_workers_die_stop_and_are_cut_off() {
    needs!("nsqd");
    storm(1000, 9, 0.1);
}

#[test]
#[ignore = "some minutes: run it by name"]
fn no_job_is_lost_in_a_long_storm() {
    needs!("nsqd");
    storm(10_000, 100, 0.15);
}
