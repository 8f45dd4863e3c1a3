//! Epochs on the embedded broker: publishes of an older epoch are refused.

use nix::sys::signal::Signal;

use crate::support::{Client, Mqueue, Nsqd, mqueue, needs, wait_until};

const WISHES: &str = r#"{"feature_negotiation":true,"fence":true}"#;

impl Client {
    /// Sends FPUB with `body` to `foo`; returns the answer.
    fn fpub(&mut self, epoch: u64, body: &str) -> String {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        self.say(&format!("FPUB foo {epoch}\n{}{body}", std::str::from_utf8(&length).unwrap()));
        self.frame()
    }
}

fn fenced(broker: &Nsqd) -> Client {
    let (client, answer) = Client::identified(broker, WISHES);
    assert!(answer.contains(r#""fence":true"#), "{answer}");
    client
}

#[test]
fn an_older_epoch_is_refused_also_after_a_crash() {
    let mut broker = Nsqd::embedded(&[]);
    broker.create("foo", "1");
    let (mut old, mut new) = (fenced(&broker), fenced(&broker));
    assert_eq!(old.fpub(7, "a"), "0 OK");
    assert_eq!(new.fpub(8, "b"), "0 OK");
    let refused = "1 E_FENCED 8 is the epoch of foo, 7 is over";
    assert_eq!(old.fpub(7, "c"), refused);
    assert_eq!(old.fpub(8, "d"), "0 OK", "the connection stays");
    old.say("PUB foo\n\0\0\0\u{1}e");
    assert_eq!(old.frame(), "0 OK", "who has no epoch passes");
    broker.kill();
    broker.start_again();
    assert_eq!(fenced(&broker).fpub(7, "f"), refused);
    assert_eq!(broker.channel("foo", "1").depth, 4);
    broker.delete_topic("foo");
    assert_eq!(fenced(&broker).fpub(7, "g"), "0 OK", "a new topic has none");
}

#[test]
fn clients_without_fencing_are_answered_as_by_nsqd() {
    needs!("nsqd");
    for broker in [Nsqd::real(&[]), Nsqd::embedded(&[])] {
        let (mut client, answer) = Client::identified(&broker, r#"{"feature_negotiation":true}"#);
        assert!(!answer.contains("fence"), "{answer}");
        client.say("FPUB foo 7\n");
        assert_eq!(client.frame(), "1 E_INVALID invalid command FPUB");
        assert_eq!(client.frame(), "closed");
    }
    for broker in [Nsqd::real(&[]), Nsqd::embedded(&[])] {
        let mut client = Client::subscribed(&broker, "foo", "1", "{}");
        client.say("BACK 0123456789abcdef 0\n");
        assert_eq!((client.frame().as_str(), client.frame().as_str()), ("1 E_INVALID invalid command BACK", "closed"));
    }
    let (_, answer) = Client::identified(&Nsqd::real(&[]), WISHES);
    assert!(!answer.contains("fence"), "nsqd knows nothing of it: {answer}");
}

#[test]
fn invalid_epochs_are_refused() {
    let broker = Nsqd::embedded(&[]);
    for (line, answer) in [
        ("FPUB\n", "1 E_INVALID FPUB insufficient number of parameters"),
        ("FPUB foo\n", "1 E_INVALID FPUB insufficient number of parameters"),
        ("FPUB foo -1\n", "1 E_INVALID FPUB could not parse epoch -1"),
        ("FPUB foo 99999999999999999999\n", "1 E_INVALID FPUB could not parse epoch 99999999999999999999"),
        ("FPUB foo 1\n\0\0\0\0", "1 E_BAD_MESSAGE FPUB invalid message body size 0"),
    ] {
        let mut client = fenced(&broker);
        client.say(line);
        assert_eq!((client.frame().as_str(), client.frame().as_str()), (answer, "closed"), "{line:?}");
    }
}

#[test]
fn a_refused_generator_continues_with_a_higher_epoch() {
    let broker = Nsqd::embedded(&[]);
    broker.create("foo", "judge");
    let node = node(&broker).start();
    node.wait_to_say("generating epoch=");
    wait_until("events", || broker.published("foo") > 10);
    // as after a clock that was set back
    let future = 9_000_000_000_000;
    assert_eq!(fenced(&broker).fpub(future, "x"), "0 OK");
    node.wait_to_say("refused an event of an old epoch");
    node.wait_to_say(&format!("generating epoch={}", future + 1));
    let before = broker.published("foo");
    wait_until("events", || broker.published("foo") > before + 10);
    node.signal(Signal::SIGTERM);
    assert_eq!(node.finish().code, Some(0));
}

fn node(broker: &Nsqd) -> Mqueue {
    let address = format!("--nsqd-tcp-address {} --nsqd-http-address {}", broker.tcp(), broker.http());
    let args = format!("node --stream foo --group 1 --mode generator --ping-interval 1 --interval 20ms {address}");
    mqueue(&args).env("MPORT", "0")
}
