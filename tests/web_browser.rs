//! The page of `mqueue web` in real headless Chromium: what a user sees and does.

use serde_json::json;

use crate::support::{Chromium, Nsqd, Web, mqueue, needs, wait_until};

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

fn with_tokens(nsqd: &Nsqd) -> (Web, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sesame act name=alice\n").unwrap();
    let flags = format!("--poll-interval 200ms --allow-actions --bearer-token-file {}", file.path().display());
    (Web::start(nsqd, &flags), file)
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
    let (web, _file) = with_tokens(&nsqd);
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
    let (web, _file) = with_tokens(&nsqd);
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
