//! 1,000 sleeping groups on 200 streams: the cost of watching them, and the time to wake all.

use std::time::{Duration, Instant};

use crate::support::{Doors, Mqueue, Nsqd, Told, is_optimised, needs, wait_until, wait_within};

const STREAMS: usize = 200;
const GROUPS: usize = 5;
/// The time of the measurement without messages.
const REST: Duration = Duration::from_secs(10);

/// Returns the processor time used so far.
fn cpu(program: &Mqueue) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.pid())).unwrap();
    // after the name, which may contain anything: fields 14 and 15, in hundredths of a second
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

#[test]
fn a_thousand_sleeping_groups_cost_little_and_are_woken_within_two_seconds() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let groups: Vec<(String, String)> =
        (0..STREAMS * GROUPS).map(|n| (format!("s{}", n / GROUPS), format!("g{n}"))).collect();
    groups.iter().for_each(|(stream, group)| nsqd.create(stream, group));
    let names: Vec<String> = groups.iter().map(|(_, group)| format!("{group}.sock")).collect();
    let doors = Doors::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let wakeup = doors.wakeup(&nsqd, "--log warn,mqueue::commands=info --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    wait_until("all streams are listened to", || told.metric("mqueue_wakeup_subscriptions") == STREAMS as f64);
    assert_eq!(told.metric("mqueue_wakeup_groups_asleep"), groups.len() as f64);
    rests(&wakeup);
    let start = Instant::now();
    (0..STREAMS).for_each(|stream| nsqd.publish(&format!("s{stream}"), b"x"));
    let published = start.elapsed();
    wait_within(Duration::from_secs(10), "a poke of each", || doors.all_pokes().iter().all(|pokes| *pokes > 0));
    let poked = start.elapsed();
    eprintln!("200 messages published within {published:.2?}; 1,000 sockets poked within {poked:.2?} of the first");
    assert!(poked < Duration::from_secs(2), "{poked:?}");
    let pokes: usize = doors.all_pokes().iter().sum();
    // a poll on the way pokes again those that it finds asleep
    let polls = if poked < Duration::from_secs(1) { 1 } else { 2 };
    assert!((groups.len()..=polls * groups.len()).contains(&pokes), "each once in a poll: {pokes} within {poked:?}");
}

/// Measures wakeup while no messages arrive.
fn rests(wakeup: &Mqueue) {
    let (start, before) = (Instant::now(), cpu(wakeup));
    wait_within(2 * REST, "the measured time", || start.elapsed() >= REST);
    let share = 100.0 * (cpu(wakeup) - before).as_secs_f64() / start.elapsed().as_secs_f64();
    let megabytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
    let (rss, own) = (megabytes(wakeup.rss()), megabytes(wakeup.own_memory()));
    eprintln!(
        "1,000 groups asleep on 200 streams: RSS {rss:.1} MB ({own:.1} its own), {share:.2} % of a core at a 1 s poll"
    );
    assert!(own <= 10.0, "{own} MB");
    // an unoptimised program is slow, and its executable large
    if is_optimised() {
        assert!(own <= 8.0, "{own} MB");
        // of which the executable's pages are shared; how many of them are mapped ahead depends on
        // the kernel: 19.5 MB on one machine were 20.3 on another
        assert!(rss <= 25.0, "{rss} MB");
        assert!(share <= 1.0, "{share} %");
    }
}
