//! The page of `mqueue web` in real headless Chromium: what a user sees and does.

use serde_json::json;

use crate::support::chromium::pictures;
use crate::support::{Chromium, Client, FakeCluster, Nsqd, Web, mqueue, needs, wait_until};
use crate::web_letters::{add_letter, add_letter_with, with_token};

const WIDE: (u32, u32) = (1280, 800);
const NARROW: (u32, u32) = (390, 800);

/// Creates a stream `orders` with a group `billing` and messages in it.
fn with_orders(messages: usize) -> Nsqd {
    let nsqd = Nsqd::start();
    nsqd.create("orders", "billing");
    if messages > 0 {
        nsqd.publish_lines("orders", "x\n".repeat(messages).trim_end().as_bytes());
    }
    wait_until("the group to have them", || nsqd.channel("orders", "billing").depth == messages as i64);
    nsqd
}

const BILLING: &str = "tr[data-target='orders/billing']";

#[test]
fn numbers_change_live_and_charts_are_drawn() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    let nsqd = with_orders(3);
    let web = Web::start(&nsqd, "--poll-interval 200ms");
    chromium.open(&web.url(), WIDE, true);
    chromium.wait_for(&format!("{BILLING} td:nth-child(3)"), "3");
    nsqd.publish_lines("orders", "x\n".repeat(1200).trim_end().as_bytes());
    chromium.wait_for(&format!("{BILLING} td:nth-child(3)"), "1,203");
    chromium.wait_for("#summary", "1 of 1 nsqd");
    assert_eq!(chromium.text("#mode"), "read-only");
    assert!(
        chromium
            .eval("document.querySelectorAll('svg.spark polyline')[1].getAttribute('points').length > 3")
            .as_bool()
            .unwrap()
    );
    chromium.click(&format!("{BILLING} a"));
    chromium.wait_for("h1", "orders / billing");
    wait_until("both charts", || chromium.count("figure canvas") == 2);
    let drawn = "[...document.querySelectorAll('figure canvas')].every((canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte > 0))";
    wait_until("lines in them", || chromium.eval(drawn).as_bool().unwrap());
    assert_eq!(chromium.count("#pause:visible"), 0, "it is read-only");
    chromium.click("text=24 hours");
    wait_until("the day", || chromium.count("button[aria-pressed=true] >> text=24 hours") == 1);
    chromium.assert_calm(&web.url());
}

#[test]
fn a_token_is_asked_for_and_a_group_is_paused_and_emptied() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    let nsqd = with_orders(12);
    let (web, _file) = with_token(&nsqd, "");
    chromium.open(&format!("{}#/s/orders/billing", web.url()), WIDE, false);
    chromium.wait_for("main", "12 waiting");
    chromium.click("#pause");
    chromium.wait_for("#dialog", "A token of the server");
    chromium.fill("#token-input", "open");
    chromium.click("#token-use");
    chromium.wait_for("#dialog", "This token is wrong.");
    assert!(!nsqd.channel("orders", "billing").paused);
    chromium.fill("#token-input", "sesame");
    chromium.press("Enter");
    chromium.wait_for("#pause", "Unpause");
    chromium.wait_for("main", "paused");
    assert!(nsqd.channel("orders", "billing").paused);
    chromium.wait_for("#said", "paused orders/billing on 1 nsqd");
    web.program.wait_to_say("web: alice paused orders/billing on");

    chromium.click("#empty");
    chromium.wait_for("#dialog", "12 messages (12 waiting, 0 in flight, 0 deferred) will be lost.");
    chromium.press("Escape");
    wait_until("the dialog to be closed", || chromium.count("#dialog[open]") == 0);
    assert_eq!(nsqd.channel("orders", "billing").depth, 12, "nothing was confirmed");
    chromium.click("#empty");
    chromium.click("#confirm");
    chromium.wait_for("main", "0 waiting");
    assert_eq!(nsqd.channel("orders", "billing").depth, 0);
    chromium.assert_calm(&web.url());
}

#[test]
fn the_page_works_by_keyboard_and_on_a_narrow_screen() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    let nsqd = with_orders(1);
    let long = "x".repeat(64);
    nsqd.create(&long, &long);
    let (web, _file) = with_token(&nsqd, "");
    chromium.open(&web.url(), NARROW, true);
    chromium.wait_for("tbody", "billing");
    let overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(chromium.eval(overflow), json!(false), "nothing sticks out");
    chromium.press("/");
    assert_eq!(chromium.eval("document.activeElement.id"), json!("filter"));
    chromium.eval("document.execCommand('insertText', false, 'bill')");
    wait_until("the filter", || chromium.count("tbody tr") == 2);
    chromium.press("ArrowDown");
    chromium.press("ArrowDown");
    assert_eq!(chromium.eval("document.activeElement.dataset.target"), json!("orders/billing"));
    chromium.press("Enter");
    chromium.wait_for("h1", "orders / billing");
    assert_eq!(chromium.eval(overflow), json!(false), "nor in the details");
    chromium.press("Escape");
    chromium.wait_for("h1", "streams / orders");
    chromium.press("Escape");
    chromium.wait_for("tbody", &long);
    chromium.press("?");
    chromium.wait_for("#dialog", "pause or unpause the selected row");
    chromium.press("Escape");
    chromium.assert_calm(&web.url());
}

#[test]
fn a_lost_connection_is_told_and_comes_back() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    let mut nsqd = with_orders(5);
    let web = Web::start(&nsqd, "--poll-interval 200ms");
    chromium.open(&web.url(), WIDE, false);
    chromium.wait_for(&format!("{BILLING} td:nth-child(3)"), "5");
    nsqd.stop();
    chromium.wait_for("#banner", "cannot reach nsqd");
    nsqd.start_again();
    chromium.wait_for(&format!("{BILLING} td:nth-child(3)"), "5");
    wait_until("the banner to go", || chromium.count("#banner:visible") == 0);
    let (address, http) = (web.address.clone(), nsqd.http());
    drop(web);
    chromium.wait_for("#banner", "Connection lost");
    nsqd.publish("orders", b"y");
    let again = Web::of(mqueue(&format!("web --listen {address} --nsqd-http-address {http}")).start());
    chromium.wait_for(&format!("{BILLING} td:nth-child(3)"), "6");
    wait_until("the banner to go", || chromium.count("#banner:visible") == 0);
    drop(again);
}

/// Markup, a script, control and direction characters.
const HOSTILE: &str =
    "<img src=x onerror=\"window.pwned=1;alert(1)\"><script>window.pwned=1</script>\u{1b}[31m\u{202e}";

#[test]
fn hostile_words_are_shown_and_not_run() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    let nsqd = with_orders(1);
    let wishes = json!({"client_id": "w", "hostname": HOSTILE, "user_agent": HOSTILE}).to_string();
    let _client = Client::subscribed(&nsqd, "orders", "billing", &wishes);
    add_letter(&nsqd, HOSTILE, HOSTILE.as_bytes());
    add_letter(&nsqd, "binary", b"\x00\xff<img src=x onerror=alert(2)>");
    let (web, _file) = with_token(&nsqd, "");
    chromium.open(&format!("{}#/s/orders/billing", web.url()), WIDE, true);
    chromium.wait_for("#clients", "<img src=x onerror=");
    chromium.eval("sessionStorage.setItem('mqueue-token', 'sesame'); location.hash = '#/letters/orders'");
    chromium.wait_for("#letters", "<script>window.pwned=1</script>\\u{1b}[31m\\u{202e}");
    chromium.wait_for("#letters", "00 ff 3c 69 6d 67");
    assert_eq!(chromium.eval("document.querySelectorAll('main img, main script, main b').length"), json!(0));
    assert_eq!(chromium.eval("window.pwned ?? null"), json!(null));
    for hash in ["#/s/<img src=x onerror=alert(3)>", "#/letters/%3Cscript%3E", "#/s/%", "#/nonsense"] {
        chromium.eval(&format!("location.hash = {hash:?}"));
        wait_until("a view", || chromium.eval("document.querySelector('main').children.length > 0").as_bool().unwrap());
        assert_eq!(chromium.eval("document.querySelectorAll('main img, main script').length"), json!(0), "{hash}");
    }
    // the policy forbids what a fault in the page could do
    let refused = "(() => { try { document.querySelector('main').innerHTML = '<b>x</b>'; return 'done'; } catch { return 'refused'; } })()";
    assert_eq!(chromium.eval(refused), json!("refused"));
    chromium.assert_no_dialogs();
}

#[test]
fn dead_letters_are_searched_retried_and_dropped() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    // the embedded broker shows letters without a token
    let nsqd = Nsqd::real(&[]);
    nsqd.create("orders", "billing");
    for number in 0..4 {
        add_letter(&nsqd, "exit status 1", format!("order {number}").as_bytes());
    }
    let (web, _file) = with_token(&nsqd, "");
    chromium.open(&format!("{}#/letters", web.url()), WIDE, false);
    chromium.click("main a");
    chromium.fill("#search", "order 2");
    chromium.press("Enter");
    chromium.fill("#token-input", "sesame");
    chromium.press("Enter");
    chromium.wait_for("main", "1 letter with \"order 2\", of 4.");
    assert_eq!(chromium.count(".letter"), 1);
    wait_until("all to be back", || nsqd.channel("orders.dead", "errors").depth == 4);
    chromium.click("#redrive");
    chromium.wait_for("#dialog", "published again, each to the group that gave it up");
    chromium.click("#confirm");
    chromium.wait_for("#said", "1 published again");
    assert_eq!(nsqd.channel("orders", "billing").depth, 1);
    wait_until("the others to be back", || nsqd.channel("orders.dead", "errors").depth == 3);
    wait_until("the list", || chromium.count("#drop:enabled") == 1);
    chromium.fill("#search", "");
    chromium.click("#drop");
    chromium.wait_for("#dialog", "All dead letters of orders");
    chromium.click("#confirm");
    chromium.wait_for("main", "0 letters, of 0.");
    nsqd.wait_for_empty("orders.dead", "errors");
    chromium.assert_calm(&web.url());
}

#[test]
fn a_single_letter_is_opened_as_text_and_bytes_and_dropped() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("orders", "billing");
    add_letter(&nsqd, "exit status 1", format!("<b>order</b> {}", "x".repeat(5000)).as_bytes());
    add_letter_with(&nsqd, "fedcba9876543210", "no money", b"another");
    let (web, _file) = with_token(&nsqd, "");
    chromium.open(&format!("{}#/letters/orders", web.url()), NARROW, true);
    chromium.click(".letter:has-text('exit status 1') a");
    chromium.wait_for("h1", "dead letters of orders / 0123456789abcdef");
    chromium.wait_for("#letter", "exit status 1");
    chromium.wait_for("#letter pre", &format!("<b>order</b> {}", "x".repeat(5000)));
    chromium.click("#bytes");
    chromium.wait_for("#letter pre", "3c 62 3e 6f 72 64 65 72");
    let overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(chromium.eval(overflow), json!(false), "nothing sticks out");
    assert_eq!(chromium.eval("document.querySelectorAll('main b').length"), json!(0));
    chromium.eval("sessionStorage.setItem('mqueue-token', 'sesame')");
    chromium.click("#drop");
    chromium.wait_for("#dialog", "The message 0123456789abcdef will be lost.");
    chromium.click("#confirm");
    chromium.wait_for("#said", "Dropped 0123456789abcdef");
    chromium.wait_for("h1", "dead letters / orders");
    chromium.wait_for("main", "1 letter, of 1.");
    chromium.click(".letter a");
    chromium.wait_for("#letter", "no money");
    chromium.click("#redrive");
    chromium.click("#confirm");
    chromium.wait_for("#said", "Published again: fedcba9876543210");
    assert_eq!(nsqd.channel("orders", "billing").depth, 1);
    chromium.assert_calm(&web.url());
}

#[test]
fn doctors_commands_can_be_copied() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    let nsqd = with_orders(1);
    nsqd.post("/channel/pause?topic=orders&channel=billing");
    let web = Web::start(&nsqd, "");
    chromium.open(&web.url(), NARROW, true);
    chromium.wait_for("tbody", "billing");
    chromium.press("d");
    chromium.wait_for("#findings", "unpause");
    chromium.click(".finding:has-text('unpause') button");
    chromium.wait_for("#said", "Copied.");
    let copied = chromium.eval("navigator.clipboard.readText()");
    assert!(copied.as_str().unwrap().contains("unpause"), "{copied}");
    let overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(chromium.eval(overflow), json!(false), "nothing sticks out");
    chromium.press("w");
    chromium.wait_for("#wakeup", "--wakeup-http-address");
    chromium.assert_calm(&web.url());
}

#[test]
fn messages_of_the_embedded_broker_are_shown_and_nsqds_are_not() {
    needs!("nsqd");
    let Some(mut chromium) = Chromium::start() else { return };
    for (nsqd, words) in [(Nsqd::embedded(&[]), "<b>one</b>"), (Nsqd::real(&[]), "mqueue tail orders")] {
        nsqd.create("orders", "billing");
        nsqd.publish("orders", b"<b>one</b>");
        add_letter(&nsqd, "no money", b"letter");
        let web = Web::start(&nsqd, "");
        chromium.open(&format!("{}#/s/orders/billing", web.url()), NARROW, false);
        chromium.click("button[data-state=waiting]");
        chromium.wait_for("#peek", words);
        chromium.eval("location.hash = '#/letters/orders'");
        chromium.wait_for("main", if words.contains("tail") { "mqueue errors --stream=orders" } else { "no money" });
        chromium.assert_calm(&web.url());
    }
}

#[test]
fn ten_thousand_streams_are_filtered_and_opened() {
    let Some(mut chromium) = Chromium::start() else { return };
    let cluster = FakeCluster::start(1, 10_000, 1, 0);
    let web = Web::with(&format!("--nsqd-http-address {}", cluster.http()));
    chromium.open(&web.url(), WIDE, true);
    chromium.wait_for("main", "19,700 more rows");
    chromium.fill("#filter", "orders-9999");
    wait_until("two rows", || chromium.count("tbody tr") == 2);
    chromium.click("tbody tr:nth-child(2) a");
    chromium.wait_for("h1", "stream-of-orders-9999 / group-0");
    chromium.assert_calm(&web.url());
}

/// Takes the pictures of the README, if they are wanted.
#[test]
fn pictures_are_taken() {
    needs!("nsqd");
    let Some(folder) = pictures() else { return };
    let Some(mut chromium) = Chromium::start() else { return };
    let nsqd = Nsqd::embedded(&[]);
    let streams =
        [("orders", &["billing", "mail", "audit"][..]), ("clicks", &["statistics"]), ("invoices", &["pdf", "archive"])];
    for (stream, groups) in streams {
        groups.iter().for_each(|group| nsqd.create(stream, group));
    }
    (0..3).for_each(|number| add_letter(&nsqd, "exit status 1", format!("order {number}").as_bytes()));
    nsqd.post("/channel/pause?topic=invoices&channel=archive");
    let consume = |stream: &str, group: &str, rate: &str| {
        mqueue(&format!("consumer --stream {stream} --group {group} --nsqd-tcp-address {} {rate}", nsqd.tcp())).start()
    };
    let mut running = vec![
        consume("orders", "billing", ""),
        consume("orders", "mail", "--handler sleep:20ms"),
        consume("clicks", "statistics", ""),
    ];
    for (stream, rate) in [("orders", 120), ("clicks", 900), ("invoices", 4)] {
        let lines = format!("producer --stream {stream} --rate {rate} --nsqd-tcp-address {}", nsqd.tcp());
        running.push(mqueue(&lines).start());
    }
    let web = Web::start(&nsqd, "");
    let start = std::time::Instant::now();
    wait_until("a minute to pass", || start.elapsed() > std::time::Duration::from_secs(55));
    for (dark, name) in [(true, "web-dark.png"), (false, "web-light.png")] {
        let url = if dark { web.url() } else { format!("{}#/s/orders/mail", web.url()) };
        chromium.open(&url, (1100, 560), dark);
        chromium.wait_for("#summary", "1 of 1 nsqd");
        let start = std::time::Instant::now();
        wait_until("the charts", || start.elapsed() > std::time::Duration::from_secs(3));
        chromium.shot(&folder.join(name));
    }
}
