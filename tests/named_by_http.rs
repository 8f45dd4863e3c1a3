//! Commands that are told an nsqd's HTTP address alone act on that nsqd, and on no other.

use crate::support::{Mqueue, Nsqd, mqueue, needs};

/// An address where no nsqd is, in place of the default one: what connects there by mistake fails.
fn by_http(nsqd: &Nsqd, args: &str) -> Mqueue {
    mqueue(&format!("{args} --nsqd-http-address {}", nsqd.http()))
}

#[test]
fn producer_consumer_and_errors_act_on_the_nsqd_whose_http_address_is_named() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    let published = by_http(&nsqd, "producer --stream foo --publish-timeout 5 -").run_with(b"one\ntwo\n");
    assert_eq!((published.code, nsqd.published("foo")), (Some(0), 2), "{}", published.stderr);
    let handling = "--handler exec:false --max-attempts 1 --count 1";
    let buried = by_http(&nsqd, &format!("consumer --stream foo --group 1 {handling}")).run();
    assert_eq!((buried.code, nsqd.published("foo.dead")), (Some(5), 1), "{}", buried.stderr);
    let created = by_http(&nsqd, "consumer --stream new --group 1 --create").run();
    assert_eq!(created.code, Some(0), "{}", created.stderr);
    assert_eq!(nsqd.channels("new"), ["1"]);
    let dropped = by_http(&nsqd, "errors --stream foo --drop --yes").run();
    assert!(dropped.code == Some(0) && dropped.stderr.contains("1 dropped"), "{}", dropped.stderr);
    let staged = by_http(&nsqd, "stage --stream foo --group 1 --to next --timeout 1").run();
    assert_eq!((staged.code, nsqd.published("next")), (Some(0), 1), "{}", staged.stderr);
}

#[test]
fn runs_of_pipeline_bench_and_simulate_use_the_nsqd_whose_http_address_is_named() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    for args in [
        "pipeline --stages 1 --count 20 --rate 200 --work 1ms",
        "bench publish --messages 100 --warm-up 0",
        "simulate --via broker --duration 1 --workers 10 --streams 10",
    ] {
        let ran = by_http(&nsqd, args).run();
        assert_eq!(ran.code, Some(0), "{args}: {ran:?}");
        assert!(ran.stdout.contains(&nsqd.tcp()), "{args}: {ran:?}");
    }
}

#[test]
fn an_nsqd_that_does_not_tell_its_tcp_port_is_one_line_that_asks_for_it() {
    for command in [
        "producer --stream foo --count 1",
        "consumer --stream foo --group 1",
        "consumer --stream foo --group 1 --create",
        "errors --stream foo",
        "ingest --to foo --listen unix:/nonexistent/feed",
        "node",
        "gateway --listen 127.0.0.1:0",
        "bench publish",
        "pipeline",
        "simulate --via broker",
        "stage --stream foo --group 1 --to bar",
    ] {
        let ran = mqueue(&format!("{command} --nsqd-http-address 127.0.0.1:1")).run();
        assert_eq!(ran.code, Some(69), "{command}: {ran:?}");
        assert!(ran.stderr.contains("127.0.0.1:1") && ran.stderr.contains("--nsqd-tcp-address"), "{command}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{command}: {ran:?}");
    }
    let ran = mqueue("node --token-nsqd-http-address 127.0.0.1:1").run();
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(ran.stderr.contains("--token-nsqd-tcp-address"), "{ran:?}");
}
