//! Access to `mqueue gateway`: GET creates nothing unasked, tokens with scopes, TLS, and listening
//! beyond this machine.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Certificates, Gateway, Lookupd, Nsqd, mqueue, needs, wait_until};

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[test]
fn a_get_creates_no_group_unless_it_asks_for_that() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, &format!("--nsqd-http-address {}", nsqd.http()));
    let get = |params: &str| gateway.get(&format!("/streams/s/groups/g/jobs?max=1{params}"));
    for params in ["", "&create=false"] {
        let refused = get(params);
        assert_eq!(refused.status, 404, "{refused:?}");
        assert_eq!(refused.body["error"], "group g of stream s does not exist: create=true creates it");
    }
    assert!(nsqd.stats().topics.is_empty(), "{:?}", nsqd.stats().topics);
    nsqd.create("s", "other");
    assert_eq!(get("").status, 404, "a stream without the group");
    assert_eq!(nsqd.channels("s"), ["other"]);
    assert_eq!(get("&create=true").status, 200);
    wait_until("the group", || nsqd.channels("s").contains(&"g".to_owned()));
    nsqd.create("t", "g");
    assert_eq!(gateway.get("/streams/t/groups/g/jobs?max=1").status, 200, "it exists");

    let blind = Gateway::start(&nsqd, "");
    let unknown = blind.get("/streams/s/groups/unknown/jobs?max=1");
    let said = unknown.body["error"].as_str().unwrap();
    assert!(unknown.status == 404 && said.contains("--nsqd-http-address") && said.contains("create=true"), "{said}");
    assert_eq!(nsqd.channels("s").len(), 2);
}

#[test]
fn groups_are_looked_for_on_the_nsqds_of_nsqlookupd() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let nsqd = Nsqd::with(&[&*format!("--lookupd-tcp-address={}", lookupd.tcp()), "--broadcast-address=127.0.0.1"]);
    let gateway = Gateway::with(&format!("--listen 127.0.0.1:0 --lookupd-http-address {}", lookupd.http()));
    let get = || gateway.get("/streams/s/groups/g/jobs?max=1").status;
    assert_eq!(get(), 404);
    nsqd.create("s", "g");
    wait_until("the group to be found", || get() == 200);
}

/// A gateway with a file of tokens.
fn with_tokens(nsqd: &Nsqd, file: &Path, tokens: &str) -> Gateway {
    std::fs::write(file, tokens).unwrap();
    Gateway::start(nsqd, &format!("--bearer-token-file {}", file.display()))
}

#[test]
fn a_token_allows_what_its_scopes_say() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let tokens = "all\nproducer publish streams=orders\nmail take groups=mail\nbilling take groups=billing\n";
    let gateway = with_tokens(&nsqd, &folder.path().join("tokens"), tokens);
    let publish = |token: &str, stream: &str| gateway.ask("POST", &format!("/streams/{stream}"), &bearer(token), b"x");
    let take = |token: &str, stream: &str, group: &str| {
        gateway.ask("GET", &format!("/streams/{stream}/groups/{group}/jobs?max=1&create=true"), &bearer(token), b"")
    };
    for (answer, status, words) in [
        (publish("producer", "orders"), 200, ""),
        (publish("producer", "other"), 403, "stream other in streams="),
        (publish("mail", "orders"), 403, "the scope publish"),
        (publish("wrong", "orders"), 401, "missing or wrong token"),
        (take("producer", "orders", "mail"), 403, "the scope take"),
        (take("mail", "orders", "billing"), 403, "group billing in groups="),
        (take("mail", "other", "mail"), 200, ""),
        (gateway.ask("GET", "/metrics", &bearer("mail"), b""), 200, ""),
        (gateway.ask("POST", "/jobs/done", &bearer("producer"), b""), 403, "the scope take"),
        (gateway.get("/metrics"), 401, ""),
    ] {
        assert!(answer.status == status && answer.body.to_string().contains(words), "{status} {words}: {answer:?}");
    }
    assert!(!nsqd.channels("orders").contains(&"billing".to_owned()), "what was refused was not created");

    // a job is answered only with a token of its group
    let mut worker = gateway.worker_with("orders", "mail", "", &bearer("mail"));
    publish("all", "orders");
    let job = worker.job().unwrap()["token"].as_str().unwrap().to_owned();
    let done = |token: &str, path: &str, body: &str| gateway.ask("POST", path, &bearer(token), body.as_bytes()).status;
    let one = format!("/jobs/{job}/done");
    assert_eq!([done("billing", &one, ""), done("billing", "/jobs/done", &job)], [403, 403]);
    assert_eq!(done("producer", &one, ""), 403);
    assert_eq!(done("mail", &one, ""), 200);

    // health is public, the names of groups are not
    let groups = |headers: &str| gateway.ask("GET", "/healthz", headers, b"").body["groups"].as_array().unwrap().len();
    assert!(groups("") == 0 && groups(&bearer("wrong")) == 0 && groups(&bearer("mail")) > 0);
}

#[test]
fn tokens_are_read_again_on_sighup() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let gateway = with_tokens(&nsqd, &file, "old\nworker take\n");
    let mut old = gateway.worker_with("s", "g", "", &bearer("old"));
    let mut worker = gateway.worker_with("s", "g", "", &bearer("worker"));
    let status = |token: &str| gateway.ask("POST", "/streams/s", &bearer(token), b"x").status;
    std::fs::write(&file, "new\nworker publsh\n").unwrap();
    gateway.program.signal(Signal::SIGHUP);
    gateway.program.wait_to_say("the ones before stay in use");
    assert!(gateway.program.stderr().contains("line 2: unknown scope"), "{}", gateway.program.stderr());
    assert_eq!([status("old"), status("new")], [200, 401]);
    assert!(old.job().is_some());
    std::fs::write(&file, "new\nworker take\n").unwrap();
    gateway.program.signal(Signal::SIGHUP);
    gateway.program.wait_to_say("2 bearer tokens read again");
    wait_until("the new token", || status("new") == 200);
    assert_eq!(status("old"), 401);
    assert_eq!(old.job(), None, "its stream ends, and its job goes to the other worker");
    assert!(worker.job().is_some());
    assert_eq!(gateway.program.times_said("worker's token allows this group no longer n="), 1);
}

#[test]
fn workers_reach_a_gateway_with_tls() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let certificates = Certificates::new();
    let (cert, key) = (certificates.file("live.pem"), certificates.file("live.key"));
    let install = |name: &str| {
        std::fs::copy(certificates.file(&format!("{name}.pem")), &cert).unwrap();
        std::fs::copy(certificates.file(&format!("{name}.key")), &key).unwrap();
    };
    install("elsewhere");
    let gateway = Gateway::start(&nsqd, &format!("--tls-cert {} --tls-key {}", cert.display(), key.display()));
    assert!(gateway.url().starts_with("https://"), "{}", gateway.url());
    nsqd.create("jobs", "workers");
    (0..2).for_each(|_| nsqd.publish("jobs", b"x"));
    let ca = format!("--tls-ca-file {}", certificates.file("ca.pem").display());
    let worker = |flags: &str| mqueue(&format!("worker --queue {} --count 1 {flags}", gateway.url()));
    let named = worker(&format!("{ca} --tls-server-name elsewhere.example")).run();
    assert_eq!((named.code, named.stdout.as_str()), (Some(0), "n=1 p=0 counter=x\n"), "{}", named.stderr);
    let refused = worker(&ca).start();
    refused.wait_to_say("its certificate is for another name");
    install("server");
    gateway.program.signal(Signal::SIGHUP);
    gateway.program.wait_to_say("certificate read again");
    let waited = refused.finish();
    assert_eq!((waited.code, waited.stdout.as_str()), (Some(0), "n=1 p=0 counter=x\n"), "{}", waited.stderr);
    let unknown = worker(&format!("--tls-ca-file {}", certificates.file("other-ca.pem").display())).start();
    unknown.wait_to_say("its certificate is from an unknown authority");

    let plain = mqueue(&format!("worker --queue http://{} --count 1 {ca}", gateway.address)).run();
    assert_eq!(plain.code, Some(2), "{}", plain.stderr);
    assert!(plain.stderr.contains("--tls-ca-file is for TLS: name a --queue that begins with https://"));
}

#[test]
fn other_machines_are_served_with_tokens_or_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "secret\n").unwrap();
    let gateway = |flags: &str| mqueue(&format!("gateway --nsqd-tcp-address 127.0.0.1:1 {flags}"));
    for listen in [":0", "0.0.0.0:0"] {
        let refused = gateway(&format!("--listen {listen}")).run();
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(2), 1), "{}", refused.stderr);
        for words in ["--bearer-token-file", "--insecure"] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
    }
    for (flags, warns) in [
        ("--listen :0 --insecure".to_owned(), 0),
        (format!("--listen :0 --bearer-token-file {}", file.display()), 1),
        ("--listen localhost:0".to_owned(), 0),
    ] {
        let started = Gateway::of(gateway(&flags).start());
        assert_eq!(started.program.times_said("pass the network unencrypted"), warns, "{flags}");
    }
}
