//! The broker's processor time for a message with one thread for its connections, and with two.

use crate::measured::{bench, figure};
use crate::support::Nsqd;
use crate::{Goal, Round, compare, report};

/// Loads: the name, and the arguments of `mqueue bench`.
const LOADS: [(&str, &str); 3] = [
    (
        "200,000/s published and handled, batches of 200",
        "both --rate 200000 --batch 200 --connections 4 --max-in-flight 2500 --duration 3s",
    ),
    ("published and handled, one by one", "both --connections 16 --duration 3s"),
    ("published, batches of 200", "publish --batch 200 --connections 4 --warm-up 0s --duration 3s"),
];

fn in_memory(threads: &str) -> Nsqd {
    Nsqd::embedded(&["--memory", "--max-memory=16000000000", threads])
}

fn with_the_log(threads: &str) -> Nsqd {
    Nsqd::embedded(&["--sync=interval", threads])
}

pub fn run() {
    for (storage, start) in [("in memory", in_memory as fn(&str) -> Nsqd), ("with the log", with_the_log)] {
        for (what, load) in LOADS {
            let round = |threads: &'static str| -> Round<'_> {
                Box::new(move || figure(&bench(&start(threads), load), "/broker_usage/cpu_us_per_message"))
            };
            let times = compare(vec![("--threads 1", round("--threads=1")), ("--threads 2", round("--threads=2"))]);
            let title = format!("the broker's processor time for a message, {what}, 200 B, {storage}");
            report(&title, "us", &times, &[(1, 0, Some(Goal::AtMost(1.2)))]);
        }
    }
}
