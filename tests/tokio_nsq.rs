//! `--client tokio-nsq`: the same commands on the crate of that name, at least once as ever.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Mqueue, Nsqd, Sequences, consumer, mqueue, needs, wait_until};

fn producer(nsqd: &Nsqd, args: &str) -> Mqueue {
    mqueue(&format!("producer --stream foo --client tokio-nsq --nsqd-tcp-address {} {args}", nsqd.tcp()))
}

#[test]
fn published_messages_are_consumed_and_finished_before_the_exit() {
    needs!("nsqd");
    for nsqd in [Nsqd::real(&[]), Nsqd::embedded(&[])] {
        nsqd.create("foo", "1");
        let finished = producer(&nsqd, "--interval 0 --tasks 50 --count 5000").run();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_eq!(nsqd.channel("foo", "1").depth, 5000);
        let finished = consumer(&nsqd.tcp(), "--client tokio-nsq --output body --timeout 1").run();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let mut seen = Sequences::default();
        seen.read(&finished.stdout);
        assert_eq!((seen.distinct(), seen.duplicates()), (5000, 0));
        nsqd.wait_for_empty("foo", "1");
    }
}

#[test]
fn an_nsqd_restart_loses_no_acknowledged_message() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    let consumer = consumer(&nsqd.tcp(), "--client tokio-nsq --output body").start();
    let producer = producer(&nsqd, "--rate 1000 --count 6000 --report json").start();
    for lines in [1000, 3000] {
        consumer.wait_for_lines(lines);
        nsqd.stop();
        nsqd.start_again();
    }
    let report = producer.finish();
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert_eq!(report["acknowledged"], 6000, "{report}");
    nsqd.wait_for_empty("foo", "1");
    consumer.signal(Signal::SIGTERM);
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut seen = Sequences::default();
    seen.read(&finished.stdout);
    assert_eq!(seen.distinct(), 6000);
}

#[test]
fn a_failing_message_is_retried_and_becomes_a_dead_letter() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    nsqd.publish("foo", b"x");
    let args = "--client tokio-nsq --handler exec:false --max-attempts 3 --retry-delay 100ms --timeout 2";
    let finished = consumer(&nsqd.tcp(), args).run();
    // exit code 5: nothing was done, and something failed
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert_eq!(nsqd.published("foo.dead"), 1, "{}", finished.stderr);
    assert_eq!(nsqd.channel("foo", "1").requeue_count, 2);
    nsqd.wait_for_empty("foo", "1");
}

#[test]
fn a_killed_handlers_message_is_requeued() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.publish("foo", b"x");
    let args = "--client tokio-nsq --handler sleep:60s --concurrency 1";
    let consumer = consumer(&nsqd.tcp(), args).start();
    wait_until("it is in flight", || nsqd.channel("foo", "1").in_flight_count == 1);
    consumer.signal(Signal::SIGINT);
    consumer.signal(Signal::SIGTERM);
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    let finished =
        mqueue("consumer --stream foo --group 1 --output body --count 1 --nsqd-tcp-address").arg(&nsqd.tcp()).run();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "x\n"), "{}", finished.stderr);
}

#[test]
fn help_lists_the_limits_of_tokio_nsq() {
    for command in ["producer", "consumer", "bench"] {
        let help = mqueue(&format!("{command} --help")).run().stdout;
        assert!(help.contains("Limits of tokio-nsq"), "{help}");
    }
}

#[test]
fn it_does_not_connect_in_plain_text_where_tls_is_asked_for() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    for flag in ["--snappy", "--deflate 6"] {
        let finished = producer(&nsqd, &format!("--count 1 {flag}")).run();
        assert_eq!(finished.code, Some(69), "{finished:?}");
        assert!(finished.stderr.contains("use --client own"), "{finished:?}");
    }
}
