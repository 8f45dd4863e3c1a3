//! `mqueue bench`: its counts agree with nsqd and the broker, nothing is left behind, and invalid
//! loads are refused.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Nsqd, mqueue, needs, wait_until};

/// Runs `mqueue bench` with `--output json`; returns the report.
#[track_caller]
fn bench(args: &str) -> Value {
    let finished = mqueue(&format!("bench --output json {args}")).run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).expect("JSON")
}

#[track_caller]
fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {report}"))
}

fn at(nsqd: &Nsqd) -> String {
    format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http())
}

#[test]
fn a_number_of_messages_is_measured_and_the_stream_is_deleted() {
    needs!("nsqd");
    for nsqd in [Nsqd::real(&[]), Nsqd::embedded(&[])] {
        // the last batch has fewer messages
        let report = bench(&format!("publish --messages 1003 --batch 10 --connections 2 --warm-up 0 {}", at(&nsqd)));
        assert_eq!(number(&report, "/published/messages"), 1003.0, "{report}");
        assert!(number(&report, "/published/latency_ms/p50") > 0.0, "{report}");
        assert!(report["handled"].is_null() && number(&report, "/load/connections") == 2.0, "{report}");
        assert!(nsqd.stats().topics.is_empty(), "it leaves no stream behind");
    }
}

#[test]
fn a_stream_is_drained_and_the_brokers_process_is_found_by_its_port() {
    needs!("nsqd");
    for nsqd in [Nsqd::real(&[]), Nsqd::embedded(&[])] {
        let report = bench(&format!("consume --messages 50000 {}", at(&nsqd)));
        assert_eq!(number(&report, "/handled/messages"), 50_000.0, "{report}");
        assert!(report["published"].is_null() && report["handled"]["latency_ms"].is_null(), "{report}");
        let counted = format!("counted: process {}, ", nsqd.pid());
        assert!(report["broker"].as_str().is_some_and(|broker| broker.contains(&counted)), "{report}");
        assert!(number(&report, "/broker_usage/memory_bytes") > 1e6, "{report}");
        assert!(nsqd.stats().topics.is_empty(), "it leaves no stream behind");
    }
}

#[test]
fn an_open_loop_keeps_its_rate_and_reports_both_latencies() {
    // without an nsqd: on a broker that bench starts
    let report = bench("both --rate 500 --duration 2s --warm-up 500ms --size 8");
    // 1000 messages are due; other tests run beside this one, so some are acknowledged after the
    // measured time
    assert!((950.0..=1050.0).contains(&number(&report, "/published/messages")), "{report}");
    assert_eq!((number(&report, "/missing"), number(&report, "/unsent")), (0.0, 0.0), "{report}");
    assert!(number(&report, "/late_ms/p50") >= 0.0, "{report}");
    assert!(number(&report, "/handled/latency_ms/max") > 0.0, "{report}");
    assert!(number(&report, "/client_usage/memory_bytes") > 1e6, "{report}");
    assert!(number(&report, "/broker_usage/memory_bytes") > 1e6, "{report}");
}

#[test]
fn messages_that_an_open_loop_cannot_send_are_reported_and_count_for_the_latency() {
    let report = bench("publish --rate 100000000 --duration 1s --warm-up 0 --size 2000");
    // a hundred million a second is beyond any broker's capacity
    assert!(number(&report, "/unsent") > 5e7, "{report}");
    // so the median message was due half a second before the end, and was not sent
    assert!((400.0..600.0).contains(&number(&report, "/published/latency_ms/p50")), "{report}");
}

#[test]
fn ctrl_c_prints_the_report_and_deletes_the_stream() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let run = mqueue(&format!("bench both --duration 1h --warm-up 0 --output json {}", at(&nsqd))).start();
    wait_until("messages", || nsqd.stats().topics.iter().any(|topic| topic.message_count > 100));
    run.signal(Signal::SIGINT);
    let finished = run.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert!(number(&report, "/handled/messages") >= 100.0, "{report}");
    assert!(number(&report, "/measured_s") < 60.0, "{report}");
    assert!(nsqd.stats().topics.is_empty(), "it leaves no stream behind");
}

#[test]
fn two_signals_without_a_broker_end_the_run_with_a_report() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    let run = mqueue(&format!("bench publish --size 100 --duration 1h --warm-up 0 {}", at(&nsqd))).start();
    wait_until("messages", || nsqd.stats().topics.iter().any(|topic| topic.message_count > 100));
    nsqd.stop();
    run.signal(Signal::SIGINT);
    run.signal(Signal::SIGTERM);
    let finished = run.finish();
    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    assert!(finished.stdout.contains("published"), "{}", finished.stdout);
    assert!(finished.stderr.contains("cannot delete the stream"), "{}", finished.stderr);
}

#[test]
fn a_refused_message_ends_the_run() {
    let finished = mqueue("bench publish --size 2000000 --messages 3").run();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("cannot publish") && finished.stdout.contains("published"), "{}", finished.stderr);
}

#[test]
fn a_run_is_compared_with_an_earlier_one_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (earlier, picture) = (folder.path().join("earlier.json"), folder.path().join("out.svg"));
    let load = "publish --duration 1s --warm-up 0 --batch 10";
    std::fs::write(&earlier, bench(load).to_string()).unwrap();
    let showing = format!("--compare {} --plot {}", earlier.display(), picture.display());
    let finished = mqueue(&format!("bench {load} --output markdown {showing} --size 300")).run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for text in ["|  | earlier | now | ratio |", "published, messages/s | ", "loads differ: size was 200, is 300"] {
        assert!(finished.stdout.contains(text), "no {text:?} in {}", finished.stdout);
    }
    let svg = std::fs::read_to_string(&picture).unwrap();
    for text in ["publish to OK (ms)", "p99", "client", "broker", "messages per second"] {
        assert!(svg.contains(text), "no {text:?}");
    }
    assert!(svg.ends_with("</svg>\n") && svg.matches("<path").count() >= 5, "{svg}");
}

#[test]
fn invalid_loads_are_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.json");
    std::fs::write(&other, "{}").unwrap();
    let compare = format!("publish --compare {}", other.display());
    for (args, told) in [
        ("publish --size 7", "--size"),
        ("publish --duration 0", "--duration"),
        ("publish --rate 0", "messages a second"),
        ("publish --rate 5 --window 2", "--window"),
        ("consume --rate 5", "use both"),
        ("publish --connections 1000 --batch 100000", "at most 1073741824"),
        ("publish --nsqd-tcp-address 127.0.0.1:9", "--nsqd-http-address"),
        ("publish --nsqd-tcp-address 127.0.0.1:9 --nsqd-http-address 127.0.0.1:9 --broker-pid 4194304", "no process"),
        (compare.as_str(), "--output json"),
    ] {
        let finished = mqueue(&format!("bench {args}")).run();
        assert_eq!(finished.code, Some(2), "{args}: {}", finished.stderr);
        assert!(finished.stderr.contains(told) && finished.stdout.is_empty(), "{args}: {}", finished.stderr);
    }
    let finished = mqueue("bench both --nsqd-tcp-address 127.0.0.1:9 --nsqd-http-address 127.0.0.1:9").run();
    assert_eq!(finished.code, Some(69), "{}", finished.stderr);
}
