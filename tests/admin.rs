//! `mqueue create`, `pause`, `unpause`, `empty` and `delete` on real brokers.

use serde_json::Value;

use crate::support::{Finished, Lookupd, Mqueue, Nsqd, mqueue, needs, wait_until};

fn on(nsqd: &Nsqd, args: &str) -> Mqueue {
    mqueue(&format!("{args} --nsqd-http-address {}", nsqd.http()))
}

#[track_caller]
fn done(nsqd: &Nsqd, args: &str) -> Finished {
    let finished = on(nsqd, args).run();
    assert_eq!(finished.code, Some(0), "{args}: {}", finished.stderr);
    finished
}

#[test]
fn streams_and_groups_are_created_paused_emptied_and_deleted() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let created = done(&nsqd, "create orders/billing orders/mail");
    let line = |word: &str, target: &str| format!("{word} {target} on {}", nsqd.http());
    assert_eq!(created.stdout, format!("{}\n{}\n", line("created", "orders/billing"), line("created", "orders/mail")));
    done(&nsqd, "create orders/billing");
    nsqd.publish_lines("orders", b"a\nb\nc");
    wait_until("both groups to have them", || nsqd.channel("orders", "mail").depth == 3);

    done(&nsqd, "pause orders/billing");
    assert!(nsqd.channel("orders", "billing").paused && !nsqd.channel("orders", "mail").paused);
    done(&nsqd, "unpause orders/billing");
    assert!(!nsqd.channel("orders", "billing").paused);

    let emptied = done(&nsqd, "empty orders/billing --yes");
    assert_eq!(emptied.stdout, format!("{}, with 3 messages\n", line("emptied", "orders/billing")));
    assert_eq!((nsqd.channel("orders", "billing").depth, nsqd.channel("orders", "mail").depth), (0, 3));

    done(&nsqd, "pause orders");
    nsqd.publish_lines("orders", b"d\ne");
    let emptied = done(&nsqd, "empty orders --yes");
    assert_eq!(emptied.stdout, format!("{}, with 2 messages\n", line("emptied", "orders")));
    done(&nsqd, "unpause orders");
    assert_eq!(nsqd.channel("orders", "mail").depth, 3, "a stream's groups keep theirs");

    let planned = done(&nsqd, "delete orders --dry-run");
    assert_eq!(planned.stdout, format!("{}, with 3 messages\n", line("would delete", "orders")));
    assert_eq!(nsqd.channel("orders", "mail").depth, 3);
    done(&nsqd, "delete orders/mail --yes");
    let deleted: Value = serde_json::from_str(&done(&nsqd, "delete orders --yes --json").stdout).unwrap();
    assert_eq!((&deleted["action"], &deleted["nsqds"][0]["messages"]), (&"delete".into(), &0.into()));
    let gone = on(&nsqd, "pause orders").run();
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("no nsqd that answered has orders"), "{}", gone.stderr);
}

#[test]
fn actions_that_lose_messages_need_a_yes() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    done(&nsqd, "create orders/billing");
    nsqd.publish_lines("orders", b"a\nb");
    wait_until("the group to have them", || nsqd.channel("orders", "billing").depth == 2);
    for action in ["empty", "delete"] {
        let refused = on(&nsqd, &format!("{action} orders/billing")).run();
        assert_eq!(refused.code, Some(2));
        let words = format!("to {action} orders/billing with 2 messages on 1 nsqd without a terminal, give --yes");
        assert!(refused.stderr.contains(&words), "{}", refused.stderr);
    }
    assert_eq!(nsqd.channel("orders", "billing").depth, 2);
    done(&nsqd, "empty orders/billing --yes");
    done(&nsqd, "empty orders/billing"); // there is nothing to lose
}

#[test]
fn a_dead_nsqd_is_said_and_the_others_are_acted_on() {
    needs!("nsqd");
    let (nsqd, dead) = (Nsqd::start(), Nsqd::start());
    for each in [&nsqd, &dead] {
        done(each, "create orders/billing");
    }
    let address = dead.http();
    drop(dead);
    let paused = mqueue(&format!("pause orders/billing --nsqd-http-address {},{address}", nsqd.http())).run();
    assert_eq!(paused.code, Some(1));
    assert!(nsqd.channel("orders", "billing").paused);
    assert!(paused.stderr.contains(&format!("cannot reach nsqd at {address}")), "{}", paused.stderr);
    let nobody = mqueue(&format!("pause orders/billing --nsqd-http-address {address}")).run();
    assert_eq!(nobody.code, Some(69));
}

#[test]
fn nsqlookupd_forgets_what_is_deleted() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let nsqds = [(); 2]
        .map(|()| Nsqd::with(&[&format!("--lookupd-tcp-address={}", lookupd.tcp()), "--broadcast-address=127.0.0.1"]));
    let nodes = || crate::support::get(&lookupd.http(), "/nodes").matches("tcp_port").count();
    wait_until("both to be registered", || nodes() == 2);
    let all = |args: &str| mqueue(&format!("{args} --lookupd-http-address {}", lookupd.http())).run();
    let created = all("create orders/billing");
    assert_eq!((created.code, created.stdout.lines().count()), (Some(0), 2), "{}", created.stderr);
    for nsqd in &nsqds {
        assert_eq!(nsqd.channels("orders"), ["billing"]);
    }
    let channels = || crate::support::get(&lookupd.http(), "/channels?topic=orders");
    assert!(channels().contains("billing"));
    assert_eq!(all("delete orders/billing --yes").code, Some(0));
    wait_until("nsqlookupd to know nothing of it", || !channels().contains("billing"));
    assert!(nsqds[0].channels("orders").is_empty());
}

/// Returns true if the stream -orders is paused.
fn is_topic_paused(nsqd: &Nsqd) -> bool {
    nsqd.stats().topics.iter().any(|topic| topic.topic_name == "-orders" && topic.paused)
}

#[test]
fn several_first_groups_of_a_stream_each_get_the_messages_that_waited() {
    needs!("nsqd");
    for is_paused in [false, true] {
        let nsqd = Nsqd::start();
        nsqd.publish_lines("-orders", b"a\nb\nc");
        if is_paused {
            nsqd.post("/topic/pause?topic=-orders");
        }
        let created = format!("create --nsqd-http-address {} -- -orders/a -orders/-b -orders/c#ephemeral", nsqd.http());
        assert_eq!(mqueue(&created).run().code, Some(0));
        assert_eq!(is_topic_paused(&nsqd), is_paused, "a pause stays the user's");
        nsqd.post("/topic/unpause?topic=-orders");
        for group in ["a", "-b", "c#ephemeral"] {
            wait_until("the group to have them", || nsqd.channel("-orders", group).depth == 3);
        }
    }
}
