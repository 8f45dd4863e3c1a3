//! `mqueue web` on a real broker: events, history, who may look and act, and its end.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mqueue::http::client::{cause, client_with_tls};
use mqueue::net::tls::{TlsClient, TlsClientSettings};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Certificates, Nsqd, Web, mqueue, needs, wait_until};

/// Creates a stream `orders` with a group `billing`, and a message in it.
fn with_orders() -> Nsqd {
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    nsqd.publish("orders", b"one");
    wait_until("the group to have it", || nsqd.channel("orders", "billing").depth == 1);
    nsqd
}

/// A file of tokens, and the flags that name it.
fn tokens() -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sesame act name=alice\nonly-mail act name=bob groups=mail\npub publish\n").unwrap();
    let flags = format!("--allow-actions --bearer-token-file {}", file.path().display());
    (file, flags)
}

/// The text at this URL, by a client that trusts the tests' authority.
fn get_securely(certificates: &Certificates, url: &str) -> Result<String, String> {
    let settings = TlsClientSettings { ca_file: Some(certificates.file("ca.pem")), ..TlsClientSettings::default() };
    let (url, tls) = (url.parse().unwrap(), TlsClient::new(&settings).unwrap());
    let client = client_with_tls(&url, &tls).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let got = runtime.block_on(async { client.get(url).send().await?.text().await });
    got.map_err(|error| cause(&error))
}

#[test]
fn the_page_and_that_of_the_broker_are_served_over_tls() {
    needs!("nsqd");
    let (nsqd, certificates) = (Nsqd::start(), Certificates::new());
    nsqd.create("orders", "billing");
    let tls = |name: &str| {
        let path = |end: &str| certificates.file(&format!("{name}.{end}")).display().to_string();
        format!("--tls-cert {} --tls-key {}", path("pem"), path("key"))
    };
    let data = tempfile::tempdir().unwrap();
    let broker = format!(
        "broker --data-path {} --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --https-address= --web 127.0.0.1:0",
        data.path().display()
    );
    let page = format!("web --listen 127.0.0.1:0 --nsqd-http-address {}", nsqd.http());
    for command in [page, broker] {
        let program = mqueue(&format!("{command} {}", tls("server"))).start();
        program.wait_to_say("listening on https://");
        let said = program.stderr();
        let url = said.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        assert!(get_securely(&certificates, url).unwrap().contains("<title>mqueue"), "{command}");
        let address = url.trim_start_matches("https://").trim_end_matches('/');
        assert!(get_securely(&certificates, &format!("http://{address}/")).is_err(), "{command}");
        // the certificate is read again, as a renewed one is
        for end in ["pem", "key"] {
            std::fs::copy(certificates.file(&format!("elsewhere.{end}")), certificates.file(&format!("server.{end}")))
                .unwrap();
        }
        program.signal(Signal::SIGHUP);
        wait_until("the other certificate", || {
            get_securely(&certificates, url).is_err_and(|why| why.contains("another name"))
        });
        for end in ["pem", "key"] {
            std::fs::copy(certificates.file(&format!("client.{end}")), certificates.file(&format!("server.{end}")))
                .unwrap();
        }
    }
    let required = mqueue(&format!(
        "broker --memory --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --https-address= \
                                    --web 127.0.0.1:0 --tls-required {}",
        tls("own")
    ))
    .run();
    assert_eq!((required.code, required.stderr.contains("tcp-https")), (Some(2), true), "{}", required.stderr);
    let half = mqueue(&format!("web --tls-cert {}", certificates.file("server.pem").display())).run();
    assert_eq!((half.code, half.stderr.contains("--tls-cert needs --tls-key")), (Some(2), true), "{}", half.stderr);
}

#[test]
fn a_viewer_sees_numbers_change_and_the_past() {
    needs!("nsqd");
    let nsqd = with_orders();
    let web = Web::start(&nsqd, "--poll-interval 200ms");
    let mut events = web.events();
    let (name, settings) = events.next_event().unwrap();
    assert_eq!((name.as_str(), &settings["actions"]), ("settings", &false.into()));
    let (name, all) = events.next_event().unwrap();
    assert_eq!((name.as_str(), &all["streams"][0]["stream"]), ("all", &"orders".into()));
    assert_eq!(all["nsqds"][0]["http"], nsqd.http());
    nsqd.publish_lines("orders", b"two\nthree");
    let depth = |depth: u64| move |stream: &Value| stream["groups"][0]["depth"] == depth;
    let row = events.wait_for("three messages", depth(3));
    assert_eq!((&row["stream"], &row["groups"][0]["group"]), (&"orders".into(), &"billing".into()));
    nsqd.create("mail", "send");
    let row = events.wait_for("another stream", |stream| stream["stream"] == "mail");
    assert_eq!(row["groups"][0], json!({"group": "send", "nsqds": 1}));
    let history = web.get("/api/history?target=orders/billing&span=10m").json();
    let last = history["depth"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&history["step"], last), (&1.into(), 3.0.into()));
    let day = web.get("/api/history?target=orders&span=24h").json();
    assert!(day["depth"].as_array().unwrap().last().unwrap().as_f64().unwrap() >= 1.0, "{day}");
    assert_eq!(web.get("/api/sparks").json()["orders/billing"].as_array().unwrap().last(), Some(&3.into()));
    for wrong in ["/api/history?target=a%20b", "/api/history?target=orders&span=1y", "/api/history?x=1"] {
        assert_eq!(web.get(wrong).status, 422, "{wrong}");
    }
}

#[test]
fn the_page_is_protected_from_other_sites() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let web = Web::start(&nsqd, "");
    let page = web.get("/");
    assert_eq!(page.status, 200);
    assert!(page.body.starts_with("<!doctype html>"), "{}", &page.body[..200]);
    for header in [
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "cache-control: no-store",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    assert!(web.get("/nothing").head.contains("content-security-policy: default-src 'none'"));
    for header in ["Host: evil.example", "Host: x\r\nOrigin: http://evil.example", "Sec-Fetch-Site: cross-site"] {
        let refused = web.ask("GET", "/api/events", &format!("{header}\r\n"), b"");
        assert_eq!(refused.status, 403, "{header}: {}", refused.body);
    }
    for (method, path, status) in
        [("GET", "/x", 404), ("POST", "/", 405), ("GET", "/api/action", 405), ("GET", "/healthz", 200)]
    {
        assert_eq!(web.ask(method, path, "", b"").status, status, "{method} {path}");
    }
}

#[test]
fn without_the_flag_nothing_can_be_done() {
    needs!("nsqd");
    let nsqd = with_orders();
    let web = Web::start(&nsqd, "");
    let refused = web.post("/api/action", "sesame", &json!({"action": "pause", "target": "orders/billing"}));
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("--allow-actions"), "{}", refused.body);
    assert!(!nsqd.channel("orders", "billing").paused);
    let usage = mqueue("web --listen 127.0.0.1:0 --allow-actions").run();
    assert_eq!((usage.code, usage.stderr.contains("--bearer-token-file")), (Some(2), true), "{}", usage.stderr);
    let exposed = mqueue("web --listen :0").run();
    assert_eq!((exposed.code, exposed.stderr.contains("--insecure")), (Some(2), true), "{}", exposed.stderr);
}

#[test]
fn actions_need_a_token_with_the_scope_and_are_logged_with_its_name() {
    needs!("nsqd");
    let nsqd = with_orders();
    let (_file, flags) = tokens();
    let web = Web::start(&nsqd, &flags);
    let mut events = web.events();
    let act = |token: &str, action: &str, target: &str| {
        web.post("/api/action", token, &json!({"action": action, "target": target}))
    };
    for (token, status) in [("", 401), ("wrong", 401), ("pub", 403), ("only-mail", 403)] {
        assert_eq!(act(token, "pause", "orders/billing").status, status, "{token:?}");
    }
    assert!(!nsqd.channel("orders", "billing").paused);
    let paused = act("sesame", "pause", "orders/billing");
    assert_eq!((paused.status, &paused.json()["nsqds"][0]["error"]), (200, &Value::Null), "{}", paused.body);
    assert!(nsqd.channel("orders", "billing").paused);
    web.program.wait_to_say(&format!("web: alice paused orders/billing on {}", nsqd.http()));
    events.wait_for("the pause", |stream| stream["groups"][0]["paused_on"] == 1);
    assert_eq!(act("sesame", "unpause", "orders/billing").status, 200);
    assert_eq!(act("sesame", "empty", "orders/billing").json()["nsqds"][0]["messages"], 1);
    web.program.wait_to_say("web: alice emptied orders/billing on");
    assert_eq!(act("sesame", "create", "orders/mail").status, 200);
    assert_eq!(act("only-mail", "delete", "orders/mail").status, 200);
    web.program.wait_to_say("web: bob deleted orders/mail on");
    // two administrators: the second one is told
    assert_eq!(act("sesame", "delete", "orders/mail").status, 404);
    for (action, target) in [("explode", "orders"), ("pause", "a b"), ("pause", "")] {
        assert_eq!(act("sesame", action, target).status, 422, "{action} {target}");
    }
    let form =
        web.ask("POST", "/api/action", "Authorization: Bearer sesame\r\n", br#"{"action":"delete","target":"orders"}"#);
    assert_eq!(form.status, 415);
    let large = json!({"action": "pause", "target": "x".repeat(20_000)});
    assert_eq!(web.post("/api/action", "sesame", &large).status, 413);
    assert!(!web.program.stderr().contains("sesame"), "a token is not logged");
}

#[test]
fn a_wrong_token_is_slowed_refused_and_logged_once() {
    needs!("nsqd");
    let nsqd = with_orders();
    let (_file, flags) = tokens();
    let web = Web::start(&nsqd, &flags);
    let request = json!({"action": "pause", "target": "orders/billing"});
    let start = Instant::now();
    // at once: they count as one after the other
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..14)
            .map(|n| {
                let (web, request) = (&web, &request);
                scope.spawn(move || web.post("/api/action", &format!("wrong{n}"), request).status)
            })
            .collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let counted = |status: u16| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!((counted(401), counted(429)), (10, 4), "{answers:?}");
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(web.program.times_said("wrong token"), 1, "{}", web.program.stderr());
    assert_eq!(web.post("/api/action", "sesame", &request).status, 429, "even a right one is not checked for a while");
    assert_eq!(web.get("/api/sparks").status, 200, "looking goes on");
    wait_until("a right token to be taken again", || web.post("/api/action", "sesame", &request).status == 200);
}

#[test]
fn tokens_are_read_again_on_sighup() {
    needs!("nsqd");
    let nsqd = with_orders();
    let (file, flags) = tokens();
    let web = Web::start(&nsqd, &flags);
    std::fs::write(file.path(), "other act name=carol\n").unwrap();
    web.program.signal(Signal::SIGHUP);
    web.program.wait_to_say("1 bearer token read again");
    let pause = |token: &str| web.post("/api/action", token, &json!({"action": "pause", "target": "orders"})).status;
    assert_eq!((pause("sesame"), pause("other")), (401, 200));
}

#[test]
fn other_machines_need_a_token_to_look() {
    needs!("nsqd");
    let nsqd = with_orders();
    let (_file, flags) = tokens();
    let program = mqueue(&format!("web --listen 0.0.0.0:0 --nsqd-http-address {} {flags}", nsqd.http())).start();
    let web = Web::of(program);
    assert!(web.program.stderr().contains("unencrypted"), "{}", web.program.stderr());
    assert_eq!(web.get("/").status, 200, "the page itself asks for the token");
    assert_eq!(web.get("/api/sparks").status, 401);
    assert_eq!(web.ask("GET", "/api/sparks", "Authorization: Bearer pub\r\n", b"").status, 200);
}

#[test]
fn the_program_ends_at_once_with_viewers() {
    needs!("nsqd");
    let nsqd = with_orders();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let web = Web::start(&nsqd, "");
        let mut viewers: Vec<_> = (0..3).map(|_| web.events()).collect();
        // one that reads nothing
        let silent = TcpStream::connect(&web.address).unwrap();
        viewers.iter_mut().for_each(|viewer| drop(viewer.next_event()));
        let start = Instant::now();
        web.program.signal(signal);
        let ended = web.program.finish();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(start.elapsed() < Duration::from_millis(1500), "{signal}: {:?}", start.elapsed());
        for mut viewer in viewers {
            while viewer.next_event().is_some() {}
        }
        drop(silent);
    }
}

#[test]
fn an_nsqd_that_is_restarted_is_told_and_seen_again() {
    needs!("nsqd");
    let mut nsqd = with_orders();
    let web = Web::start(&nsqd, "--poll-interval 200ms");
    let mut events = web.events();
    events.wait_for("the stream", |stream| stream["stream"] == "orders");
    nsqd.stop();
    let mut wait_for_nsqd = |is_away: bool| {
        let start = Instant::now();
        loop {
            let (_, data) = events.next_event().expect("it goes on");
            let nsqds = data["nsqds"].as_array();
            if nsqds.is_some_and(|nsqds| nsqds[0]["error"].is_string() == is_away) {
                return data;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{data}");
        }
    };
    let away = wait_for_nsqd(true);
    assert_eq!(away["gone"], json!(["orders"]));
    nsqd.start_again();
    let back = wait_for_nsqd(false);
    assert_eq!(back["streams"][0]["stream"], "orders");
}

#[test]
fn viewers_cost_no_polling_and_slow_ones_no_memory() {
    needs!("nsqd");
    let nsqd = with_orders();
    let web = Web::start(&nsqd, "--poll-interval 100ms");
    let mut events = web.events();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(web.events());
    }
    let first = events.next_event().and_then(|_| events.next_event()).unwrap().1["number"].as_u64().unwrap();
    let start = Instant::now();
    let mut last = first;
    while start.elapsed() < Duration::from_secs(3) {
        last = events.next_event().unwrap().1["number"].as_u64().unwrap();
    }
    let looks = last - first;
    assert!(looks <= 31, "{looks} looks in 3 s at intervals of 100 ms");
    drop(silent);
    let too_many: Vec<_> = (0..130)
        .map(|_| {
            let mut stream = TcpStream::connect(&web.address).unwrap();
            std::io::Write::write_all(&mut stream, b"GET /api/events HTTP/1.1\r\nHost: x.localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let statuses: Vec<String> = too_many
        .iter()
        .map(|mut stream| {
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            String::from_utf8_lossy(&start[9..]).into_owned()
        })
        .collect();
    let served = statuses.iter().filter(|status| *status == "200").count();
    assert!((60..=100).contains(&served), "{statuses:?}");
    assert_eq!(web.get("/healthz").status, 200, "others are served");
}

#[test]
fn pauses_on_some_nsqds_are_shown_as_that() {
    needs!("nsqd");
    let nsqds = [(); 3].map(|()| Nsqd::start());
    nsqds.iter().for_each(|nsqd| nsqd.create("orders", "billing"));
    nsqds[1].post("/channel/pause?topic=orders&channel=billing");
    let addresses = nsqds.iter().map(Nsqd::http).collect::<Vec<_>>().join(",");
    let web = Web::with(&format!("--nsqd-http-address {addresses}"));
    let row = web.events().wait_for("the stream", |stream| stream["stream"] == "orders");
    assert_eq!((&row["groups"][0]["paused_on"], &row["groups"][0]["nsqds"]), (&1.into(), &3.into()));
}

#[test]
fn consumers_and_rates_are_counted() {
    needs!("nsqd");
    let nsqd = with_orders();
    let web = Web::start(&nsqd, "--poll-interval 200ms");
    let reading =
        mqueue(&format!("consumer --stream orders --group billing --nsqd-tcp-address {}", nsqd.tcp())).start();
    let mut events = web.events();
    events.wait_for("the consumer", |stream| stream["groups"][0]["consumers"] == 1);
    nsqd.publish_lines("orders", "x\n".repeat(500).trim_end().as_bytes());
    let row = events.wait_for("a rate", |stream| stream["in"].as_f64().is_some_and(|rate| rate > 100.0));
    assert_eq!(row["stream"], "orders");
    reading.signal(Signal::SIGTERM);
    reading.finish();
}
