//! Delivery of messages over time: each scene is played on each broker and recorded as text.

use std::time::{Duration, Instant};

use mqueue::proto::stats::{ChannelStats, ClientStats, TopicStats};

use super::compare;
use crate::support::{Client, Nsqd, needs};

type Scene = (&'static str, fn(&Nsqd, &mut String));

/// Appends a line to the transcript.
fn tell(told: &mut String, line: impl std::fmt::Display) {
    *told += &format!("{line}\n    ");
}

/// The main statistics, without ids, times and addresses.
fn stats(broker: &Nsqd, topic: &str) -> String {
    let stats = broker.stats();
    let of_client = |client: &ClientStats| {
        let ClientStats { state, ready_count, in_flight_count, message_count, finish_count, requeue_count, .. } =
            client;
        format!("client {state} {ready_count} {in_flight_count} {message_count} {finish_count} {requeue_count}")
    };
    let of_channel = |channel: &ChannelStats| {
        let ChannelStats { channel_name, depth, in_flight_count, deferred_count, message_count, .. } = channel;
        let ChannelStats { requeue_count, timeout_count, client_count, paused, clients, .. } = channel;
        let clients: Vec<_> = clients.iter().map(of_client).collect();
        format!(
            "{channel_name}: depth {depth} in flight {in_flight_count} deferred {deferred_count} messages {message_count} \
             requeued {requeue_count} timeouts {timeout_count} clients {client_count} paused {paused} {clients:?}"
        )
    };
    match stats.topics.iter().find(|stats| stats.topic_name == topic) {
        None => "no topic".to_owned(),
        Some(TopicStats { depth, message_count, message_bytes, paused, channels, .. }) => {
            let channels: Vec<_> = channels.iter().map(of_channel).collect();
            format!("depth {depth} messages {message_count} bytes {message_bytes} paused {paused} {channels:?}")
        }
    }
}

/// Waits until the statistics are stable after a step: nsqd's goroutines take a moment.
fn settled(broker: &Nsqd, topic: &str) -> String {
    let (mut last, mut since) = (stats(broker, topic), Instant::now());
    while since.elapsed() < Duration::from_millis(60) {
        let now = stats(broker, topic);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

fn backlog_and_copies(broker: &Nsqd, told: &mut String) {
    let topic = "backlog";
    for body in ["one", "two", "three"] {
        broker.publish(topic, body.as_bytes());
    }
    tell(told, settled(broker, topic));
    let mut first = Client::subscribed(broker, topic, "first", "{}");
    tell(told, settled(broker, topic));
    broker.publish(topic, b"four");
    let mut second = Client::subscribed(broker, topic, "second", "{}");
    broker.publish(topic, b"five");
    first.say("RDY 10\n");
    second.say("RDY 10\n");
    tell(told, first.bodies(5).join(" "));
    tell(told, second.bodies(1).join(" "));
    tell(told, settled(broker, topic));
}

fn answers(broker: &Nsqd, told: &mut String) {
    let topic = "answers";
    let mut client = Client::subscribed(broker, topic, "c", "{}");
    for body in ["done", "again", "later"] {
        broker.publish(topic, body.as_bytes());
    }
    client.say("RDY 2\n");
    let messages = client.messages(2);
    tell(told, settled(broker, topic));
    client.say(&format!("FIN {}\n", messages[0].id));
    let third = client.messages(1).remove(0);
    client.say(&format!("FIN {}\n", messages[0].id));
    tell(told, client.frame_without(&messages[0].id));
    client.say(&format!("REQ {} 0\n", messages[1].id));
    let again = client.messages(1).remove(0);
    tell(told, format!("attempts {} of the same: {}", again.attempts, again.id == messages[1].id));
    client.say(&format!("REQ {} 300\nFIN {}\n", third.id, again.id));
    tell(told, settled(broker, topic));
    let later = client.messages(1).remove(0);
    tell(told, format!("attempts {} of the same: {}", later.attempts, later.id == third.id));
    client.say(&format!("FIN {}\nCLS\n", later.id));
    tell(told, client.frame());
    tell(told, settled(broker, topic));
}

fn timeouts(broker: &Nsqd, told: &mut String) {
    let topic = "timeouts";
    let mut client = Client::subscribed(broker, topic, "c", r#"{"msg_timeout":1000}"#);
    broker.publish(topic, b"slow");
    client.say("RDY 1\n");
    let first = client.messages(1).remove(0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(700) {}
    client.say(&format!("TOUCH {}\n", first.id));
    let second = client.messages(1).remove(0);
    tell(told, format!("after more than 1.6 s: {}", start.elapsed() > Duration::from_millis(1600)));
    tell(told, format!("attempts {} then {}", first.attempts, second.attempts));
    tell(told, settled(broker, topic));
    // a message of a disconnected client stays in flight until it times out
    drop(client);
    tell(told, settled(broker, topic));
    let mut next = Client::subscribed(broker, topic, "c", "{}");
    next.say("RDY 1\n");
    tell(told, format!("attempts {}", next.messages(1)[0].attempts));
}

fn pauses(broker: &Nsqd, told: &mut String) {
    let topic = "pauses";
    let mut client = Client::subscribed(broker, topic, "c", "{}");
    client.say("RDY 5\n");
    broker.post("/channel/pause?topic=pauses&channel=c");
    broker.publish(topic, b"kept");
    tell(told, settled(broker, topic));
    broker.post("/topic/pause?topic=pauses");
    broker.publish(topic, b"held");
    tell(told, settled(broker, topic));
    broker.post("/channel/unpause?topic=pauses&channel=c");
    tell(told, client.bodies(1).join(" "));
    broker.post("/topic/unpause?topic=pauses");
    tell(told, client.bodies(1).join(" "));
    tell(told, settled(broker, topic));
}

fn emptied_and_deleted(broker: &Nsqd, told: &mut String) {
    let topic = "emptied";
    broker.publish(topic, b"of the topic");
    broker.post("/topic/empty?topic=emptied");
    tell(told, settled(broker, topic));
    let mut client = Client::subscribed(broker, topic, "c", "{}");
    for _ in 0..3 {
        broker.publish(topic, b"x");
    }
    client.say("RDY 1\n");
    let message = client.messages(1).remove(0);
    broker.publish_later(topic, b"deferred", 60_000);
    tell(told, settled(broker, topic));
    broker.post("/channel/empty?topic=emptied&channel=c");
    tell(told, settled(broker, topic));
    client.say(&format!("FIN {}\n", message.id));
    tell(told, client.frame_without(&message.id));
    broker.publish(topic, b"after");
    tell(told, client.bodies(1).join(" "));
    broker.post("/channel/delete?topic=emptied&channel=c");
    tell(told, client.frame());
    tell(told, settled(broker, topic));
    broker.post("/topic/delete?topic=emptied");
    tell(told, settled(broker, topic));
}

fn ephemeral(broker: &Nsqd, told: &mut String) {
    let topic = "short#ephemeral";
    let client = Client::subscribed(broker, topic, "c#ephemeral", "{}");
    broker.post("/pub?topic=short%23ephemeral");
    tell(told, settled(broker, topic));
    drop(client);
    tell(told, settled(broker, topic));
    let client = Client::subscribed(broker, "lasting", "c#ephemeral", "{}");
    broker.publish("lasting", b"x");
    tell(told, settled(broker, "lasting"));
    drop(client);
    tell(told, settled(broker, "lasting"));
    broker.publish("lasting", b"y");
    tell(told, settled(broker, "lasting"));
}

fn heartbeats(broker: &Nsqd, told: &mut String) {
    let mut client = Client::subscribed(broker, "beats", "c", r#"{"heartbeat_interval":1000}"#);
    let start = Instant::now();
    tell(told, client.frame());
    let after = start.elapsed();
    tell(
        told,
        format!("about a second: {}", after > Duration::from_millis(800) && after < Duration::from_millis(1500)),
    );
    while client.frame() != "closed" {}
    let after = start.elapsed();
    tell(
        told,
        format!("two seconds' silence: {}", after > Duration::from_millis(1700) && after < Duration::from_secs(4)),
    );
}

fn negotiation(broker: &Nsqd, told: &mut String) {
    for wishes in [
        r#"{"feature_negotiation":true}"#,
        r#"{"feature_negotiation":true,"msg_timeout":2000,"sample_rate":5,"output_buffer_size":64,"output_buffer_timeout":-1}"#,
        r#"{"feature_negotiation":true,"tls_v1":true,"snappy":true,"output_buffer_size":-1}"#,
        r#"{"feature_negotiation":true,"deflate":true,"deflate_level":3}"#,
    ] {
        tell(told, Client::identified(broker, wishes).1);
    }
}

fn deferred(broker: &Nsqd, told: &mut String) {
    let topic = "deferred";
    let mut client = Client::subscribed(broker, topic, "c", "{}");
    client.say("RDY 5\n");
    let start = Instant::now();
    broker.publish_later(topic, b"later", 400);
    client.say("DPUB deferred 200\n\0\0\0\x06sooner");
    tell(told, client.frame());
    tell(told, settled(broker, topic));
    tell(told, client.bodies(2).join(" "));
    tell(told, format!("in its time: {}", start.elapsed() >= Duration::from_millis(400)));
}

#[test]
fn delivery_equals_nsqd() {
    needs!("nsqd");
    let scenes: Vec<Scene> = vec![
        ("backlog and copies", backlog_and_copies),
        ("answers", answers),
        ("timeouts", timeouts),
        ("pauses", pauses),
        ("emptied and deleted", emptied_and_deleted),
        ("ephemeral", ephemeral),
        ("heartbeats", heartbeats),
        ("negotiation", negotiation),
        ("deferred", deferred),
    ];
    compare(
        &scenes,
        |(name, _)| (*name).to_owned(),
        |broker, (_, play)| {
            let mut told = String::new();
            play(broker, &mut told);
            assert!(told.lines().count() > 2, "{told}");
            told
        },
    );
}
