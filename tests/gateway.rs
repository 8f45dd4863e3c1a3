//! `mqueue gateway` on a real broker: jobs are handed out, answered once, and redelivered when
//! their worker leaves.

use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Gateway, Nsqd, mqueue, needs, wait_until};

/// The bodies of jobs, as lines.
fn numbers(range: std::ops::Range<u32>) -> Vec<u8> {
    range.map(|n| format!("{n}\n")).collect::<String>().into_bytes()
}

#[test]
fn a_streamed_job_can_be_answered_once() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let published = gateway.publish_lines("s", &numbers(1..4));
    assert_eq!((published.status, &published.body["published"]), (200, &3.into()));
    let mut worker = gateway.worker("s", "g", "in_flight=2&n=me");
    let (one, two) = (worker.job().unwrap(), worker.job().unwrap());
    assert_eq!((&one["body"], &one["attempts"]), (&"1".into(), &1.into()), "{one}");
    // the third job waits until the worker has room
    gateway.wait_for_metric("jobs_held", 2);
    assert!(worker.has_nothing());
    assert_eq!(gateway.answer(&one, "done").body["done"], 1);
    let three = worker.job().unwrap();
    for job in [&two, &three] {
        assert_eq!(gateway.answer(job, "done").status, 200);
    }
    nsqd.wait_for_empty("s", "g");

    let twice = gateway.answer(&one, "done");
    assert!(twice.status == 410 && twice.body["error"].as_str().unwrap().contains("used"), "{twice:?}");
    let elsewhere = gateway.post(&format!("/jobs/{}/done", "0".repeat(40)), b"");
    assert!(elsewhere.status == 409 && elsewhere.body["error"].as_str().unwrap().contains("another gateway"));
    for path in ["/jobs/x/done", "/jobs/x", &format!("/jobs/{}/eat", "0".repeat(40)), "/", "/streams"] {
        assert_eq!(gateway.post(path, b"").status, 404, "{path}");
    }
    assert_eq!(gateway.program.times_said("job n=me stream=s group=g id="), 3, "each job is logged with its worker");
}

#[test]
fn jobs_of_a_disconnected_worker_are_redelivered_at_once() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    gateway.publish_lines("s", &numbers(0..3));
    let mut first = gateway.worker("s", "g", "in_flight=3");
    let jobs: Vec<_> = (0..3).map(|_| first.job().unwrap()).collect();
    let mut second = gateway.worker("s", "g", "in_flight=3");
    gateway.wait_for_metric("workers", 2);
    let gone = Instant::now();
    drop(first);
    let again: Vec<_> = (0..3).map(|_| second.job().unwrap()).collect();
    assert!(gone.elapsed() < Duration::from_secs(2), "redelivered after {:?}", gone.elapsed());
    for job in &again {
        assert_eq!(job["attempts"], 2);
        assert_eq!(gateway.answer(job, "done").status, 200);
    }
    assert_eq!(gateway.answer(&jobs[0], "done").status, 410);
    nsqd.wait_for_empty("s", "g");
}

#[test]
fn a_silent_worker_loses_its_jobs_and_connection_and_a_touching_one_keeps_them() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--heartbeat 0.3");
    let mut silent = gateway.worker("s", "g", "in_flight=2&deadline=1s&n=silent");
    gateway.publish_lines("s", &numbers(0..2));
    let jobs = [silent.job().unwrap(), silent.job().unwrap()];
    let start = Instant::now();
    // three times its deadline: it keeps both jobs, because it touches one of them
    while start.elapsed() < Duration::from_secs(3) {
        // heartbeats pace the loop
        assert_eq!(silent.line().unwrap(), "\n");
        assert_eq!(gateway.answer(&jobs[0], "touch").status, 200);
    }
    assert_eq!(gateway.metric("jobs_held"), 2);
    let mut other = gateway.worker("s", "g", "in_flight=2");
    assert_eq!([other.job().unwrap(), other.job().unwrap()].map(|job| job["attempts"].clone()), [2, 2]);
    assert_eq!((silent.job(), gateway.metric("silent_workers_total")), (None, 1));
    assert_eq!(gateway.answer(&jobs[1], "touch").status, 410);
    gateway.program.wait_to_say("worker is silent");
    assert_eq!(gateway.program.times_said("worker is silent"), 1);
}

#[test]
fn a_worker_that_does_not_read_does_not_block_others() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let _stuck = gateway.worker("s", "g", "in_flight=500");
    let line = format!("\"{}\"\n", "x".repeat(100_000));
    for _ in 0..20 {
        assert_eq!(gateway.publish_lines("s", line.repeat(40).as_bytes()).status, 200);
    }
    let mut quick = gateway.worker("s", "g", "in_flight=1");
    for _ in 0..100 {
        let job = quick.job().unwrap();
        assert_eq!(gateway.answer(&job, "done").status, 200);
    }
    assert!(gateway.metric("jobs_held") < 200, "the worker that does not read gets no more jobs");
    assert!(gateway.program.rss() < 120 * 1024, "{} KiB", gateway.program.rss());
}

#[test]
fn jobs_can_be_polled_and_a_client_that_left_gets_none() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let none = gateway.get("/streams/s/groups/g/jobs?create=true&max=5");
    assert_eq!((none.status, none.body), (200, serde_json::json!([])));
    let left = gateway.worker_that_waits("/streams/s/groups/g/jobs?create=true&wait=60s");
    gateway.wait_for_metric("workers", 1);
    drop(left);
    gateway.wait_for_metric("workers", 0);
    gateway.publish_lines("s", &numbers(0..7));
    let mut bodies = BTreeSet::new();
    while bodies.len() < 7 {
        let jobs = gateway.get("/streams/s/groups/g/jobs?create=true&wait=30s&max=3").body;
        let jobs = jobs.as_array().unwrap();
        assert!((1..=3).contains(&jobs.len()), "{jobs:?}");
        bodies.extend(jobs.iter().map(|job| job["body"].as_str().unwrap().to_owned()));
        let tokens: Vec<&str> = jobs.iter().map(|job| job["token"].as_str().unwrap()).collect();
        let done = gateway.post("/jobs/done", tokens.join("\n").as_bytes());
        assert_eq!(done.body["done"], tokens.len());
        let twice = gateway.post("/jobs/done", tokens.join("\n").as_bytes());
        assert_eq!(twice.body["gone"].as_array().unwrap().len(), tokens.len());
    }
    nsqd.wait_for_empty("s", "g");
    assert_eq!(nsqd.channel("s", "g").requeue_count, 0);
}

#[test]
fn polling_large_jobs_uses_up_no_attempt() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let line = format!("\"{}\"\n", "x".repeat(300_000));
    (0..3).for_each(|_| assert_eq!(gateway.publish_lines("s", line.repeat(10).as_bytes()).status, 200));
    let mut done = 0;
    while done < 30 {
        let jobs = gateway.get("/streams/s/groups/g/jobs?create=true&wait=10s&max=40").body;
        for job in jobs.as_array().unwrap() {
            assert_eq!(job["attempts"], 1);
            assert_eq!(gateway.answer(job, "done").status, 200);
            done += 1;
        }
    }
    nsqd.wait_for_empty("s", "g");
}

#[test]
fn a_silent_polling_client_loses_its_jobs_at_its_deadline() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    gateway.post("/streams/s", b"a");
    let polled = gateway.get("/streams/s/groups/g/jobs?create=true&wait=30s&deadline=1s").body[0].clone();
    let again = gateway.get("/streams/s/groups/g/jobs?create=true&wait=30s").body[0].clone();
    assert_eq!((&polled["id"], &again["attempts"]), (&again["id"], &2.into()));
    assert_eq!(gateway.answer(&polled, "done").status, 410);
    assert_eq!(gateway.answer(&again, "done").status, 200);
}

#[test]
fn bad_input_is_refused_with_a_hint_and_not_published() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--max-msg-size 1000 --max-body-size 5000");
    let long = vec![b'1'; 1001];
    let line = [b"1\n".as_slice(), &long].concat();
    for (answer, status, words) in [
        (gateway.publish_lines("s", b"1\n2\n{3\n4"), 400, "line 3: not JSON"),
        (gateway.publish_lines("s", b"\n"), 400, "no lines"),
        (gateway.publish_lines("s", &line), 413, "line 2: a message of 1001 bytes"),
        (gateway.publish_lines("s", &[b'1'; 5001]), 413, "a body of more than 5000 bytes"),
        (gateway.post("/streams/s", b""), 400, "empty"),
        (gateway.post(&format!("/streams/{}", "s".repeat(60)), b"x"), 422, "too long"),
        (gateway.ask("POST", "/streams/s", "Content-Encoding: gzip\r\n", b"x"), 415, "send the body unencoded"),
        (gateway.post("/streams/s", &long), 413, "1001 bytes"),
        (gateway.post("/streams/a%20b", b"x"), 422, "invalid stream \"a b\""),
        (gateway.post("/streams/s?delay=2h", b"x"), 422, "use 0s to 1h"),
        (gateway.post("/streams/s?dealy=2h", b"x"), 422, "use delay"),
        (gateway.get("/streams/s/groups/a%2Fb/jobs"), 422, "invalid group \"a/b\""),
        (gateway.get("/streams/s/groups/g/jobs?in_flight=0"), 422, "use 1 to 2500"),
        (gateway.get("/streams/s/groups/g/jobs?in_flight=3&wait=1s"), 422, "max says how many"),
        (gateway.get("/streams/s/groups/g/jobs?n=a%20b"), 422, "use letters"),
        (gateway.get("/streams/s/groups/g/jobs?create=yes"), 422, "use create=true"),
        (gateway.get("/streams/s/groups/g/jobs?deadline=soon"), 422, "invalid deadline \"soon\""),
        (gateway.ask("HEAD", "/streams/s/groups/g/jobs", "", b""), 405, ""),
        (gateway.ask("DELETE", "/streams/s", "", b""), 405, "openapi.json"),
        (gateway.post("/jobs/done", b"0\n"), 400, "line 1: not a token"),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.to_string().contains(words.escape_default().to_string().as_str()), "{words}: {answer:?}");
    }
    assert!(nsqd.stats().topics.is_empty(), "{:?}", nsqd.stats().topics);
    assert_eq!(gateway.post("/streams/s?delay=100ms", b"x").status, 200);
    let late = gateway.get("/streams/s/groups/g/jobs?create=true&wait=30s").body[0].clone();
    assert_eq!(late["body"], "x");
}

#[test]
fn without_nsqd_requests_get_503_and_workers_stay_connected() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--heartbeat 1s");
    let mut worker = gateway.worker("s", "g", "");
    gateway.publish_lines("s", &numbers(0..1));
    let before = worker.job().unwrap();
    nsqd.stop();
    wait_until("it to be seen", || gateway.get("/healthz").status == 503);
    let lost = gateway.answer(&before, "done");
    assert_eq!(lost.status, 410, "nsqd gives it again: {lost:?}");
    for answer in [gateway.post("/streams/s", b"x"), gateway.get("/streams/s/groups/other/jobs?create=true")] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    }
    assert_eq!(worker.line().unwrap(), "\n", "it is still there");
    nsqd.start_again();
    let again = worker.job().unwrap();
    assert_eq!(again["id"], before["id"]);
    assert_eq!(gateway.answer(&again, "done").status, 200);
    assert_eq!(gateway.get("/healthz").status, 200);
    assert_eq!(gateway.post("/streams/s", b"y").status, 200);
    assert_eq!(worker.job().unwrap()["body"], "y");
}

#[test]
fn a_hanging_nsqd_fails_no_publish_while_another_works() {
    needs!("nsqd");
    let (well, hung) = (Nsqd::start(), Nsqd::start());
    let gateway = Gateway::start(&well, &format!("--nsqd-tcp-address {}", hung.tcp()));
    hung.signal(Signal::SIGSTOP);
    for _ in 0..6 {
        let published = gateway.post("/streams/s", b"x");
        assert_eq!(published.status, 200, "{published:?}");
    }
    hung.signal(Signal::SIGCONT);
    assert!(well.published("s") >= 6);
}

#[test]
fn a_gateway_without_nsqd_logs_it_and_reconnects() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.stop();
    let gateway = Gateway::start(&nsqd, "");
    gateway.program.wait_to_say("answered with 503");
    let refused = gateway.post("/streams/s", b"x");
    assert!(
        refused.status == 503 && refused.body["error"].as_str().unwrap().to_lowercase().contains("connection refused"),
        "{refused:?}"
    );
    nsqd.start_again();
    assert_eq!(gateway.post("/streams/s", b"x").status, 200);
}

#[test]
fn requests_without_the_bearer_token_are_refused() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let gateway = Gateway::start(&nsqd, &format!("--bearer-token-file {}", file.display()));
    for headers in
        ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic secret\r\n", "Authorization: Bearer \r\n"]
    {
        let refused = gateway.ask("POST", "/streams/s", headers, b"x");
        assert_eq!(refused.status, 401, "{headers}");
        assert!(refused.head.contains("www-authenticate: bearer"));
    }
    assert_eq!(gateway.ask("POST", "/streams/s", "authorization: bearer secret\r\n", b"x").status, 200);
    assert_eq!((gateway.get("/healthz").status, gateway.get("/metrics").status), (200, 401));
    let args = format!("worker --queue {} --stream s --count 1", gateway.url());
    let refused = mqueue(&args).run();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("401") && refused.stderr.contains("missing or wrong token"), "{}", refused.stderr);
    let let_in = mqueue(&format!("{args} --bearer-token-file {}", file.display())).run();
    assert_eq!((let_in.code, let_in.stdout.as_str()), (Some(0), "n=1 p=0 counter=x\n"), "{}", let_in.stderr);

    std::fs::write(&file, " \n").unwrap();
    let empty = mqueue(&format!("gateway --bearer-token-file {}", file.display())).run();
    assert!(empty.code == Some(2) && empty.stderr.contains("no token in"), "{}", empty.stderr);
}

#[test]
fn dropped_and_repeatedly_failed_jobs_become_dead_letters() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--max-attempts 2 --retry-delay 10ms");
    gateway.publish_lines("s", b"\"dropped\"\n\"failed\"\n");
    let mut worker = gateway.worker("s", "g", "in_flight=2");
    for _ in 0..3 {
        let job = worker.job().unwrap();
        let verb = if job["body"] == "\"dropped\"" { "drop?reason=no%20good" } else { "retry?delay=0&reason=again" };
        assert_eq!(gateway.answer(&job, verb).status, 200);
    }
    nsqd.wait_for_empty("s", "g");
    let list = mqueue(&format!(
        "errors --stream s --json --nsqd-tcp-address {} --nsqd-http-address {}",
        nsqd.tcp(),
        nsqd.http()
    ));
    let list = list.run();
    let letters: BTreeSet<_> = list
        .stdout
        .lines()
        .map(|line| {
            let letter: Value = serde_json::from_str(line).unwrap();
            format!(
                "{} {} {}",
                letter["body"].as_str().unwrap(),
                letter["attempts"],
                letter["reason"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(letters, BTreeSet::from(["\"dropped\" 1 no good".to_owned(), "\"failed\" 2 again".to_owned()]));

    // a job whose workers all disconnect becomes a dead letter, too
    drop(worker);
    gateway.wait_for_metric("workers", 0);
    gateway.post("/streams/s", b"poison");
    for _ in 0..2 {
        assert_eq!(gateway.worker("s", "g", "").job().unwrap()["body"], "poison");
        gateway.wait_for_metric("workers", 0);
    }
    let _last = gateway.worker("s", "g", "");
    gateway.wait_for_metric("jobs_dead_total", 3);
    nsqd.wait_for_empty("s", "g");
}

#[test]
fn a_job_redriven_to_one_of_several_groups_is_handed_out_again() {
    needs!("nsqd");
    let nsqd = Nsqd::real(&[]);
    nsqd.create("foo", "1");
    nsqd.create("foo", "2");
    let gateway = Gateway::start(&nsqd, &format!("--nsqd-http-address {}", nsqd.http()));
    let mut worker = gateway.worker("foo", "1", "");
    nsqd.publish("foo", b"body");
    let job = worker.job().unwrap();
    assert_eq!(gateway.answer(&job, "drop").status, 200);
    nsqd.wait_for_empty("foo", "1");
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let args = format!("errors --stream foo --redrive --yes --nsqd-tcp-address {tcp} --nsqd-http-address {http}");
    let redriven = mqueue(&args).run();
    assert_eq!(redriven.code, Some(0), "{}", redriven.stderr);
    let again = worker.job().unwrap();
    assert_eq!((&again["body"], &again["attempts"]), (&job["body"], &1.into()));
    assert_eq!(gateway.answer(&again, "done").status, 200);
    assert_eq!(nsqd.channel("foo", "2").depth, 1);
}

#[test]
fn released_jobs_keep_their_attempts() {
    let broker = Nsqd::embedded(&[]);
    let gateway = Gateway::start(&broker, "");
    gateway.publish_lines("s", &numbers(0..2));
    for _ in 0..3 {
        let mut leaving = gateway.worker("s", "g", "in_flight=2");
        let jobs = [leaving.job().unwrap(), leaving.job().unwrap()];
        assert_eq!(jobs.clone().map(|job| job["attempts"].clone()), [1, 1]);
        let tokens = jobs.map(|job| job["token"].as_str().unwrap().to_owned()).join("\n");
        assert_eq!(gateway.post("/jobs/release", tokens.as_bytes()).body["released"], 2);
        assert_eq!(leaving.job(), None, "it gets no more, and its stream ends");
    }
    // mqueue worker releases its jobs when it is interrupted
    let folder = tempfile::tempdir().unwrap();
    let begun = folder.path().join("begun");
    for round in 1..=3 {
        let args = format!("worker --queue http://{} --stream s --group g --in-flight 2 --grace 0", gateway.address);
        let worker =
            mqueue(&args).arg("--handler").arg(&format!("exec:echo >>{}; sleep 1000", begun.display())).start();
        wait_until("both to be begun", || std::fs::read(&begun).is_ok_and(|lines| lines.len() == 2 * round));
        worker.signal(Signal::SIGINT);
        assert_eq!(worker.finish().code, Some(130));
        gateway.wait_for_metric("jobs_held", 0);
    }
    let mut last = gateway.worker("s", "g", "in_flight=2");
    for job in [last.job().unwrap(), last.job().unwrap()] {
        assert_eq!(job["attempts"], 1);
        assert_eq!(gateway.answer(&job, "done").status, 200);
    }
}

#[test]
fn shutdown_waits_for_jobs_in_progress() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    gateway.publish_lines("s", &numbers(0..3));
    let mut worker = gateway.worker("s", "g", "in_flight=2");
    let jobs = [worker.job().unwrap(), worker.job().unwrap()];
    gateway.program.signal(Signal::SIGTERM);
    gateway.program.wait_to_say("ending: waiting for 2 jobs held by workers");
    let refused = gateway.get("/streams/s/groups/g/jobs");
    assert!(refused.status == 503 && refused.body["error"].as_str().unwrap().contains("ending"));
    for job in &jobs {
        assert_eq!(gateway.answer(job, "done").status, 200);
    }
    assert_eq!(worker.job(), None, "its stream ends, and no third job came");
    let finished = gateway.program.finish();
    assert!(finished.code == Some(0) && finished.stderr.contains("2 done"), "{}", finished.stderr);
    wait_until("the third to be left, whole", || {
        let left = nsqd.channel("s", "g");
        (left.depth, left.in_flight_count, left.client_count) == (1, 0, 0)
    });
}

#[test]
fn openapi_is_valid_and_describes_the_responses() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let description = gateway.get("/openapi.json").body;
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (path, methods) in description["paths"].as_object().unwrap() {
        let path = path.replace("{stream}", "s").replace("{group}", "g").replace("{verb}", "done");
        let path = path.replace("{token}", &"0".repeat(40));
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let params = if path.ends_with("/jobs") && method == "get" { "?max=1&create=true" } else { "" };
            let answer = gateway.ask(&method.to_uppercase(), &format!("{path}{params}"), "", b"");
            let described = &methods[method]["responses"][answer.status.to_string()];
            assert!(described.is_object(), "{method} {path} answers {}, which is not described", answer.status);
        }
    }
    every_reference_resolves(&description, &description);
}

/// The names of a description's query parameters of an operation.
fn query_parameters<'a>(operation: &'a Value, root: &'a Value) -> BTreeSet<&'a str> {
    let resolved = |it: &'a Value| match it["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("it resolves"),
        None => it,
    };
    let all = operation["parameters"].as_array().into_iter().flatten().map(resolved);
    all.filter(|it| it["in"] == "query").map(|it| it["name"].as_str().expect("a name")).collect()
}

#[test]
fn openapi_and_the_gateway_agree_on_methods_parameters_and_answers() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    let description = gateway.get("/openapi.json").body;
    // the gateway lists the answers that it knows
    let words =
        |text: &str| text.split([' ', ',']).filter(|it| !it.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>();
    let unknown = gateway.post("/jobs/nonsense", b"").body["error"].as_str().unwrap().to_owned();
    let verbs = &description["components"]["parameters"]["verb"]["schema"]["enum"];
    let verbs: Vec<&str> = verbs.as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()).collect();
    let known = unknown.rsplit("use ").next().unwrap().replace(" or ", ", ");
    assert_eq!(words(&known), verbs.iter().map(|verb| (*verb).to_owned()).collect::<BTreeSet<_>>(), "{unknown}");
    for (path, methods) in description["paths"].as_object().unwrap() {
        let filled = path.replace("{stream}", "s").replace("{group}", "g").replace("{token}", &"0".repeat(40));
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let operation = &methods[method.to_lowercase()];
            let mut accepted = BTreeSet::new();
            // each answer takes parameters of its own
            for verb in if path.contains("{verb}") { &verbs[..] } else { &["-"] } {
                let url = format!("{}?nonsense=1", filled.replace("{verb}", verb));
                let answer = gateway.ask(method, &url, "", b"");
                assert_eq!(answer.status == 405, operation.is_null(), "{method} {url} answers {answer:?}");
                assert_ne!(answer.status, 404, "{method} {url}");
                // the gateway lists the parameters that it knows
                let error = answer.body["error"].as_str().unwrap_or_default();
                if let Some((_, listed)) = error.split_once("unknown parameter \"nonsense\": use ") {
                    accepted.extend(words(listed));
                }
            }
            let described = query_parameters(operation, &description).into_iter().map(str::to_owned).collect();
            assert_eq!(accepted, described, "{method} {path}");
        }
    }
}

fn every_reference_resolves(value: &Value, root: &Value) {
    if let Some(reference) = value.get("$ref").and_then(|reference| reference.as_str()) {
        assert!(root.pointer(reference.trim_start_matches('#')).is_some(), "{reference} does not resolve");
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|it| every_reference_resolves(it, root)),
        Value::Array(items) => items.iter().for_each(|it| every_reference_resolves(it, root)),
        _ => {}
    }
}

#[test]
fn groups_without_workers_are_closed_and_their_messages_wait() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--max-groups 1");
    let worker = gateway.worker("s", "g", "");
    let full = gateway.get("/streams/s/groups/other/jobs?create=true");
    assert!(full.status == 503 && full.body["error"].as_str().unwrap().contains("--max-groups"), "{full:?}");
    nsqd.wait_for_clients("s", "g", 1);
    drop(worker);
    nsqd.wait_for_clients("s", "g", 0);
    gateway.wait_for_metric("groups", 0);
    gateway.post("/streams/s", b"later");
    assert_eq!(gateway.worker("s", "g", "").job().unwrap()["body"], "later");
}

#[test]
fn connections_beyond_the_limit_wait() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--max-connections 2");
    let first = gateway.worker("s", "g", "");
    let second = gateway.worker("s", "g", "");
    let third = gateway.worker_that_waits("/openapi.json");
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(third.peek(&mut [0]).is_err(), "it waits");
    assert_eq!(gateway.get("/healthz").status, 200, "health checks do not wait");
    drop(first);
    third.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(third.peek(&mut [0]).unwrap(), 1);
    drop(second);
}

#[test]
fn a_killed_gateway_loses_no_job() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("jobs", "workers");
    let gateway = Gateway::start(&nsqd, "--msg-timeout 1s");
    let address = gateway.address.clone();
    gateway.publish_lines("jobs", &numbers(0..300));
    let workers: Vec<_> = (0..3)
        .map(|n| mqueue(&format!("worker --queue {} -n {n} -p 0.01 --in-flight 5", gateway.url())).start())
        .collect();
    workers.iter().for_each(|worker| worker.wait_for_lines(20));
    gateway.program.signal(Signal::SIGKILL);
    gateway.program.finish();
    let _gateway = Gateway::start_on(&nsqd, &address, "");
    nsqd.wait_for_empty("jobs", "workers");
    let said: Vec<String> = workers
        .iter()
        .flat_map(|it| it.stdout().lines().map(|line| line.rsplit('=').next().unwrap().to_owned()).collect::<Vec<_>>())
        .collect();
    let numbers: BTreeSet<&String> = said.iter().collect();
    assert_eq!(numbers.len(), 300);
    assert!(said.len() <= 300 + 15, "{} were done again, more than were in progress", said.len() - 300);
}

#[test]
fn curl_can_be_a_worker() {
    needs!("nsqd", "curl", "jq");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--heartbeat 0.2");
    gateway.publish_lines("jobs", &numbers(1..4));
    // as the README has it
    let script = r#"curl -sN "$QUEUE/streams/jobs/groups/workers/jobs?create=true" | jq --unbuffered -r '"\(.token) \(.body)"' |
        while read -r token body; do echo "working on $body"; curl -s -X POST "$QUEUE/jobs/$token/done"; done"#;
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", script]).env("QUEUE", gateway.url()).stdout(std::process::Stdio::piped());
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    let mut shell = shell.spawn().unwrap();
    let said = std::io::BufReader::new(shell.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said: Vec<_> = said.filter(|line| line.starts_with("working on")).take(3).collect();
    nsqd.wait_for_empty("jobs", "workers");
    nix::sys::signal::killpg(nix::unistd::Pid::from_raw(shell.id() as i32), Signal::SIGTERM).unwrap();
    shell.wait().unwrap();
    assert_eq!(said, ["working on 1", "working on 2", "working on 3"]);
}

/// Node's and Python's HTTP clients send a `#` unescaped.
#[test]
fn a_raw_hash_in_a_path_is_part_of_the_name() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "");
    nsqd.create("s", "g");
    let refused = gateway.post("/streams/s#other", b"x");
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(nsqd.published("s"), 0);
    let taken = gateway.post("/streams/s#ephemeral", b"x");
    assert!(taken.status < 300 || taken.status == 422, "{taken:?}");
    assert_eq!((nsqd.published("s"), gateway.get("/healthz#x").status), (0, 404));
}
