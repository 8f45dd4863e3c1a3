//! `mqueue web`: dead letters, clients, doctor's findings, the state of wakeup, and `mqueue broker
//! --web`.

use bytes::Bytes;
use mqueue::proto::{Message, MessageId};
use mqueue::worker::DeadLetter;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Client, Doors, Mqueue, Nsqd, Told, Web, at_once_on, mqueue, needs, wait_until};

/// Publishes a dead letter of `orders` and `billing`.
pub(crate) fn add_letter(nsqd: &Nsqd, reason: &str, body: &[u8]) {
    add_letter_with(nsqd, "0123456789abcdef", reason, body);
}

/// Publishes such a letter of the message with this id.
pub(crate) fn add_letter_with(nsqd: &Nsqd, id: &str, reason: &str, body: &[u8]) {
    let id = MessageId::from_slice(id.as_bytes()).unwrap();
    let message = Message { timestamp: 1, attempts: 3, id, body: Bytes::copy_from_slice(body) };
    let (stream, group) = ("orders".parse().unwrap(), "billing".parse().unwrap());
    let letter = DeadLetter::new(&stream, &group, &message, reason.to_owned());
    nsqd.publish("orders.dead", &letter.encode());
}

/// A page with the token `sesame` of alice.
pub(crate) fn with_token(nsqd: &Nsqd, flags: &str) -> (Web, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sesame act name=alice\nbob act name=bob\n").unwrap();
    let tokens = format!("--poll-interval 200ms --allow-actions --bearer-token-file {}", file.path().display());
    (Web::start(nsqd, &format!("{tokens} {flags}")), file)
}

fn letters(web: &Web, verb: &str, search: &str) -> Value {
    let answer = web.post(&format!("/api/letters/{verb}"), "sesame", &json!({"stream": "orders", "search": search}));
    assert_eq!(answer.status, 200, "{verb}: {}", answer.body);
    answer.json()
}

#[test]
fn letters_are_listed_searched_redriven_and_dropped() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    for number in 0..12 {
        add_letter(&nsqd, "exit status 1", format!("order {number}").as_bytes());
    }
    let (web, _file) = with_token(&nsqd, "");
    let mut events = web.events();
    events.wait_for("the letters", |stream| stream["dead_letters"] == 12);
    let all = letters(&web, "list", "");
    assert_eq!(
        (all["letters"].as_array().unwrap().len(), &all["total"], &all["complete"]),
        (12, &12.into(), &true.into())
    );
    let first = &all["letters"][0];
    assert_eq!(
        (&first["group"], &first["attempts"], &first["reason"]),
        (&"billing".into(), &3.into(), &"exit status 1".into())
    );
    wait_until("all to be back", || nsqd.channel("orders.dead", "errors").depth == 12);
    let some = letters(&web, "list", "order 1");
    let bodies: Vec<&str> = some["letters"].as_array().unwrap().iter().map(|it| it["body"].as_str().unwrap()).collect();
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    // those that did not match are deferred for 10 s
    wait_until("all to be back", || nsqd.channel("orders.dead", "errors").depth == 12);
    let redriven = letters(&web, "redrive", "order 1");
    assert_eq!((&redriven["done"], &redriven["error"]), (&3.into(), &Value::Null), "{redriven}");
    wait_until("three to be back in the group", || nsqd.channel("orders", "billing").depth == 3);
    web.program
        .wait_to_say("web: alice, to redrive the dead letters of orders with \"order 1\" in them: 3 published again");
    wait_until("the others to be back", || nsqd.channel("orders.dead", "errors").depth == 9);
    assert_eq!(letters(&web, "drop", "order 5")["done"], 1);
    wait_until("the others to be back", || nsqd.channel("orders.dead", "errors").depth == 8);
    assert_eq!(letters(&web, "drop", "")["done"], 8);
    assert_eq!(letters(&web, "list", "")["letters"], json!([]));
    events.wait_for("none to be left", |stream| stream["stream"] == "orders" && stream["dead_letters"] == Value::Null);
    for (token, status) in [("", 401), ("wrong", 401)] {
        assert_eq!(web.post("/api/letters/list", token, &json!({"stream": "orders"})).status, status);
    }
    assert_eq!(web.post("/api/letters/eat", "sesame", &json!({"stream": "orders"})).status, 404);
    assert_eq!(web.post("/api/letters/list", "sesame", &json!({"stream": "a/b"})).status, 422);
}

#[test]
fn a_list_has_a_hundred_letters_and_says_whether_these_are_all() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    let (web, _file) = with_token(&nsqd, "");
    let mut added = 0;
    for (all, shown) in [(16, 16), (60, 60), (130, 100)] {
        (added..all).for_each(|number| add_letter(&nsqd, "no", format!("order {number}").as_bytes()));
        added = all;
        let mut list = Value::Null;
        // the group gets them soon
        wait_until("all to be counted", || {
            list = letters(&web, "list", "");
            list["total"] == all
        });
        assert_eq!((list["letters"].as_array().unwrap().len(), &list["complete"]), (shown, &(all == shown).into()));
        wait_until("all to be back", || nsqd.channel("orders.dead", "errors").depth == all as i64);
    }
}

#[test]
fn a_single_letter_is_opened_whole_retried_and_dropped() {
    needs!("nsqd");
    at_once_on([Nsqd::real(&[]), Nsqd::embedded(&[])], |nsqd| {
        nsqd.create("orders", "billing");
        let long = "é".repeat(100_000);
        for number in 0..30 {
            add_letter_with(nsqd, &format!("{number:016x}"), "exit status 1", format!("order {number}").as_bytes());
        }
        add_letter_with(nsqd, "00000000000000ff", "too long", long.as_bytes());
        add_letter_with(nsqd, "00000000000000fe", "binary", b"\xff\x00");
        let (web, _file) = with_token(nsqd, "");
        let mut events = web.events();
        events.wait_for("the letters", |stream| stream["dead_letters"] == 32);
        let list = letters(&web, "list", "");
        let named = |id: &str| {
            let letter = list["letters"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap();
            json!({"id": id, "group": "billing", "died": letter["died"]})
        };
        let back = |all: i64| wait_until("all to be back", || nsqd.channel("orders.dead", "errors").depth == all);
        back(32);
        let ask = |verb: &str, letter: &Value| {
            web.post(&format!("/api/letters/{verb}"), "sesame", &json!({"stream": "orders", "letter": letter}))
        };
        let opened = ask("open", &named("00000000000000ff")).json();
        assert_eq!(
            (&opened["body"], &opened["cut"], &opened["reason"]),
            (&long.as_str().into(), &false.into(), &"too long".into())
        );
        assert_eq!(
            (&opened["stream"], &opened["attempts"], &opened["part"]),
            (&"orders".into(), &3.into(), &Value::Null)
        );
        // those before it may be deferred for 10 s
        back(32);
        let opened = ask("open", &named("00000000000000fe")).json();
        assert_eq!((&opened["body"], &opened["binary"]), (&"ff00".into(), &true.into()));
        back(32);
        let redriven = ask("redrive", &named("0000000000000005")).json();
        assert_eq!(redriven["done"], 1, "{redriven}");
        wait_until("it to be back in its group", || nsqd.channel("orders", "billing").depth == 1);
        web.program.wait_to_say("web: alice, to redrive the dead letter 0000000000000005 of orders: 1 published again");
        back(31);
        assert_eq!(ask("drop", &named("0000000000000006")).json()["done"], 1);
        back(30);
        for verb in ["redrive", "drop"] {
            assert_eq!(ask(verb, &named("0000000000000005")).json()["done"], 0, "it is gone");
            back(30);
        }
        assert_eq!(ask("open", &named("0000000000000005")).status, 404);
        assert_eq!(ask("open", &Value::Null).status, 422);
        assert_eq!(web.get("/api/letter?stream=orders").status, 422);
        if nsqd.channel("orders", "billing").oldest_ms.is_some() {
            let died = &named("00000000000000ff")["died"];
            let looked =
                web.get(&format!("/api/letter?stream=orders&group=billing&id=00000000000000ff&died={died}")).json();
            assert_eq!((&looked["body"], &looked["reason"]), (&long.as_str().into(), &"too long".into()));
        }
    });
}

#[test]
fn long_and_binary_bodies_are_shown_in_part() {
    needs!("nsqd");
    let nsqd = Nsqd::with(&["--max-msg-size=11000000", "--max-body-size=12000000"]);
    nsqd.create("orders", "billing");
    add_letter(&nsqd, "binary", &[0xff; 10 << 20]);
    add_letter(&nsqd, "text", "é".repeat(100_000).as_bytes());
    let (web, _file) = with_token(&nsqd, "");
    let all = letters(&web, "list", "");
    let letter =
        |reason: &str| all["letters"].as_array().unwrap().iter().find(|it| it["reason"] == reason).unwrap().clone();
    let (binary, text) = (letter("binary"), letter("text"));
    assert_eq!((&binary["size"], &binary["binary"], &binary["cut"]), (&(10 << 20).into(), &true.into(), &true.into()));
    assert_eq!((&text["size"], &text["binary"], &text["cut"]), (&200_000.into(), &false.into(), &true.into()));
    assert!(text["body"].as_str().unwrap().chars().all(|c| c == 'é'));
}

#[test]
fn two_administrators_at_once_redrive_each_letter_once() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    (0..60).for_each(|number| add_letter(&nsqd, "no", format!("order {number}").as_bytes()));
    let (web, _file) = with_token(&nsqd, "");
    let redrive = |token: &str| web.post("/api/letters/redrive", token, &json!({"stream": "orders"}));
    let answers = std::thread::scope(|scope| {
        let asking = ["sesame", "bob"].map(|token| scope.spawn(move || redrive(token)));
        asking.map(|asking| asking.join().unwrap())
    });
    let done: u64 = answers.iter().filter(|it| it.status == 200).map(|it| it.json()["done"].as_u64().unwrap()).sum();
    assert_eq!(done, 60, "{answers:?}");
    assert_eq!(nsqd.published("orders"), 60);
}

#[test]
fn clients_are_listed_with_their_own_words_made_printable() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    let wishes = r#"{"client_id":"w","hostname":"<b>\u001b[2Jevil","user_agent":"<script>x</script>"}"#;
    let _client = Client::subscribed(&nsqd, "orders", "billing", wishes);
    let web = Web::start(&nsqd, "");
    let mut all = Value::Null;
    wait_until("the client", || {
        all = web.get("/api/clients?target=orders/billing").json();
        all["total"] == 1
    });
    assert_eq!(
        (&all["clients"][0]["name"], &all["clients"][0]["group"]),
        (&"<b>\\x1b[2Jevil".into(), &"billing".into())
    );
    assert_eq!(web.get("/api/clients?target=orders").json()["total"], 1);
    assert_eq!(web.get("/api/clients?target=other").json()["total"], 0);
    assert_eq!(web.get("/api/clients").status, 422);
}

#[test]
fn doctors_findings_have_the_commands() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    nsqd.post("/channel/pause?topic=orders&channel=billing");
    nsqd.publish("orders", b"x");
    wait_until("a message", || nsqd.channel("orders", "billing").depth == 1);
    let web = Web::start(&nsqd, "");
    let report = web.get("/api/doctor").json();
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    let paused = findings.iter().find(|finding| finding["check"] == "paused").unwrap_or_else(|| panic!("{report}"));
    assert!(paused["fix"].as_str().unwrap().contains("unpause"), "{paused}");
    assert!(report.to_string().contains(&nsqd.http()), "{report}");
}

#[test]
fn the_state_of_wakeup_is_shown() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["billing.sock"]));
    nsqd.create("orders", "billing");
    nsqd.publish("orders", b"x");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    let _told = Told::by(&wakeup);
    doors.wait_for_poke("billing.sock");
    let said = wakeup.stderr();
    let address = said.split("listening on http://").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let web = Web::start(&nsqd, &format!("--wakeup-http-address {address}"));
    let state = web.get("/api/wakeup").json();
    assert!(state["groups"][0]["sockets"][0]["last_poke"].is_number(), "{state}");
    drop(wakeup);
    wait_until("an error", || web.get("/api/wakeup").json()["error"].is_string());
    let unknown = Web::start(&nsqd, "").get("/api/wakeup");
    assert_eq!((unknown.status, unknown.body.contains("--wakeup-http-address")), (404, true));
}

#[test]
fn a_broker_serves_its_own_page() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "sesame act name=alice\n").unwrap();
    let start = |flags: &str| -> Mqueue {
        let data = folder.path().display();
        mqueue(&format!("broker --data-path {data} --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 {flags}"))
    };
    let flags = format!("--web 127.0.0.1:0 --allow-actions --bearer-token-file {}", file.display());
    let web = Web::of(start(&flags).start());
    let http = web.program.listens("HTTP");
    assert_eq!(crate::support::request(&http, "POST", "/pub?topic=orders", b"x"), "OK");
    crate::support::request(&http, "POST", "/channel/create?topic=orders&channel=billing", b"");
    let mut events = web.events();
    let row = events.wait_for("the group", |stream| stream["groups"][0]["depth"] == 1);
    assert_eq!(row["stream"], "orders");
    let paused = web.post("/api/action", "sesame", &json!({"action": "pause", "target": "orders/billing"}));
    assert_eq!(paused.status, 200, "{}", paused.body);
    web.program.wait_to_say(&format!("web: alice paused orders/billing on {http}"));
    events.wait_for("the pause", |stream| stream["groups"][0]["paused_on"] == 1);
    web.program.signal(Signal::SIGTERM);
    while events.next_event().is_some() {}
    assert_eq!(web.program.finish().code, Some(0));
    let usage = start("--web --allow-actions").run();
    assert_eq!((usage.code, usage.stderr.contains("--bearer-token-file")), (Some(2), true), "{}", usage.stderr);
    let none = mqueue("broker --memory --tcp-address 127.0.0.1:0 --http-address= --web 127.0.0.1:0").run();
    assert_eq!((none.code, none.stderr.contains("--http-address")), (Some(2), true), "{}", none.stderr);
}

#[test]
fn the_embedded_broker_shows_messages_and_letters_without_a_token() {
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("orders", "billing");
    nsqd.publish("orders", b"one <b>");
    nsqd.publish("orders", &[0xff; 10_000]);
    (0..3).for_each(|number| add_letter(&nsqd, "exit status 1", format!("order {number}").as_bytes()));
    nsqd.publish("orders.dead", b"somebody else's");
    let web = Web::start(&nsqd, "");
    let peeked = web.get("/api/peek?target=orders/billing").json();
    let (first, second) = (&peeked["messages"][0], &peeked["messages"][1]);
    assert_eq!(
        (&first["body"], &first["state"], &first["attempts"]),
        (&"one <b>".into(), &"waiting".into(), &0.into())
    );
    assert_eq!((&second["size"], &second["binary"], &second["cut"]), (&10_000.into(), &true.into(), &true.into()));
    assert_eq!(web.get("/api/peek?target=orders/billing&state=in_flight").json()["messages"], json!([]));
    assert_eq!(web.get("/api/peek?target=orders/billing&state=lost").status, 422);
    let found = |search: &str| web.get(&format!("/api/letters?stream=orders&search={search}")).json();
    let all = found("");
    assert_eq!(
        (all["letters"].as_array().unwrap().len(), &all["total"], &all["complete"]),
        (4, &4.into(), &true.into())
    );
    let one = found("order%202");
    assert_eq!((one["letters"].as_array().unwrap().len(), &one["letters"][0]["body"]), (1, &"order 2".into()), "{one}");
    nsqd.create("orders.dead", "errors");
    wait_until("the group to have them", || nsqd.channel("orders.dead", "errors").depth == 4);
    assert_eq!(found("exit")["letters"].as_array().unwrap().len(), 3);
    assert_eq!(nsqd.channel("orders.dead", "errors").depth, 4, "nothing was taken");
    assert_eq!(web.get("/api/letters?stream=other").json()["letters"], json!([]));
    let mut events = web.events();
    let row = events.wait_for("the age", |stream| stream["groups"][0]["oldest"].is_u64());
    assert_eq!(row["stream"], "orders");
}

#[test]
fn nsqd_shows_no_messages() {
    needs!("nsqd");
    let nsqd = Nsqd::real(&[]);
    nsqd.create("orders", "billing");
    add_letter(&nsqd, "exit status 1", b"order");
    let web = Web::start(&nsqd, "");
    assert_eq!(web.get("/api/peek?target=orders/billing").json()["nsqds"], json!([nsqd.http()]));
    let refused = web.get("/api/letters?stream=orders");
    assert_eq!((refused.status, refused.body.contains("without delivering it")), (409, true));
    assert!(nsqd.channels("orders.dead").is_empty(), "no group was created");
}
