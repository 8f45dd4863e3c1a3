//! nsqds that come and go, as the nsqlookupds know them.

use std::time::Duration;

use crate::support::{Lookupd, Mqueue, Nsqd, mqueue, needs, wait_until, wait_within};

/// Deadline: two polls, each up to 1.3 times its interval of half a second, with room for a slow
/// machine.
const TWO_POLLS: Duration = Duration::from_millis(1300 + 1000);

struct Cluster {
    lookupds: [Lookupd; 2],
    nsqds: [Nsqd; 3],
}

impl Cluster {
    fn start() -> Self {
        let lookupds = [(); 2].map(|()| Lookupd::start());
        let flags = lookupds.each_ref().map(|lookupd| format!("--lookupd-tcp-address={}", lookupd.tcp()));
        let nsqds = [(); 3].map(|()| Nsqd::with(&flags.each_ref().map(String::as_str)));
        // a topic is registered when it is created
        nsqds.iter().for_each(|nsqd| nsqd.create("foo", "1"));
        Self { lookupds, nsqds }
    }

    fn consumer(&self, args: &str) -> Mqueue {
        let [one, two] = self.lookupds.each_ref().map(Lookupd::http);
        let args = format!("--lookupd-http-address {one} --lookupd-http-address {two} --output body {args}");
        mqueue(&format!("consumer --stream foo --group 1 --lookupd-poll-interval 500ms {args}")).start()
    }
}

#[test]
fn every_nsqd_is_consumed_from_even_with_one_message_in_flight() {
    needs!("nsqd", "nsqlookupd");
    let cluster = Cluster::start();
    let consumer = cluster.consumer("--max-in-flight 1 --count 60");
    for number in 0..20 {
        for (index, nsqd) in cluster.nsqds.iter().enumerate() {
            nsqd.publish("foo", format!("{index}-{number}").as_bytes());
        }
    }
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut lines: Vec<&str> = finished.stdout.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 60, "{lines:?}");
}

#[test]
fn an_nsqd_that_was_away_for_long_is_found_again_within_two_polls() {
    needs!("nsqd", "nsqlookupd");
    let mut cluster = Cluster::start();
    let consumer = cluster.consumer("--log mqueue=debug");
    cluster.nsqds.iter().for_each(|nsqd| nsqd.wait_for_clients("foo", "1", 1));
    cluster.lookupds[0].stop();
    cluster.nsqds[0].stop();
    // long enough for the pauses between tries to have grown
    wait_until("several tries", || consumer.stderr().matches("no connection").count() >= 6);
    cluster.nsqds[0].start_again();
    let [back, other, _] = &cluster.nsqds;
    back.publish("foo", b"back");
    wait_within(TWO_POLLS, "the nsqd that came back is consumed from", || consumer.stdout().contains("back"));

    // the nsqlookupd that is back takes over from the one that goes now
    cluster.lookupds[0].start_again();
    cluster.lookupds[1].stop();
    other.publish("foo", b"other");
    wait_until("the others are consumed from all the time", || consumer.stdout().contains("other"));
}
