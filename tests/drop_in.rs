//! `mqueue broker` in the place of nsqd: its flags, its configuration file, its version.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::{CONFIG_OPTIONS, Client, Lookupd, Mqueue, Nsqd, get, mqueue, needs, peer, request, wait_until};

/// A flag of nsqd, as `nsqd --help` lists it.
#[derive(Debug)]
struct NsqdFlag {
    name: String,
    /// `string`, `int`, `duration`, `value`; none for a boolean.
    kind: Option<String>,
    /// The default, in the form in which it can be given.
    default: String,
}

impl NsqdFlag {
    /// True if the flag may stand without a value.
    fn is_boolean(&self) -> bool {
        self.kind.is_none()
    }

    /// A value that nsqd takes: its default, or a valid one if that is none.
    fn value(&self) -> String {
        match (self.name.as_str(), self.default.as_str()) {
            ("lookupd-tcp-address" | "auth-http-address", _) => "127.0.0.1:9".to_owned(),
            ("e2e-processing-latency-percentile", _) => "0.99".to_owned(),
            // the ports of the tests are free ones
            ("tcp-address" | "http-address" | "https-address", _) => "127.0.0.1:0".to_owned(),
            ("max-channel-consumers" | "broadcast-tcp-port" | "broadcast-http-port", _) => "0".to_owned(),
            (_, default) if self.is_boolean() && default.is_empty() => "false".to_owned(),
            (_, default) => default.to_owned(),
        }
    }
}

/// Reads the flags of the real nsqd.
fn flags_of_nsqd() -> Vec<NsqdFlag> {
    let help = Command::new(peer("nsqd").expect("needs! checked it")).arg("--help").output().expect("it runs");
    let help = String::from_utf8(help.stderr).expect("UTF-8");
    let mut flags: Vec<NsqdFlag> = Vec::new();
    for line in help.lines() {
        if let Some(flag) = line.strip_prefix("  -") {
            let (name, kind) = flag.split_once(' ').map_or((flag, None), |(name, kind)| (name, Some(kind.to_owned())));
            flags.push(NsqdFlag { name: name.to_owned(), kind, default: String::new() });
        } else if let (Some(flag), Some((_, default))) = (flags.last_mut(), line.rsplit_once("(default ")) {
            flag.default = default.trim_end_matches(')').trim_matches('"').to_owned();
        }
    }
    assert!(flags.len() >= 53, "{flags:?}");
    flags
}

/// The flags that change nothing in `mqueue broker`.
const WITHOUT_EFFECT: [&str; 5] =
    ["log-prefix", "queue-scan-selection-count", "queue-scan-worker-pool-max", "verbose", "worker-id"];

/// Starts a broker with these flags, in memory and on free ports, until it listens; returns what it
/// said.
fn said_with(flags: &[String]) -> String {
    let base = ["--memory", "--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"];
    let broker = base.iter().fold(mqueue("broker"), |broker, flag| broker.arg(flag));
    let broker = flags.iter().fold(broker, |broker, flag| broker.arg(flag)).start();
    broker.wait_to_say("HTTP: listening on");
    broker.stderr()
}

#[test]
fn every_flag_of_nsqd_is_accepted_in_all_its_spellings() {
    needs!("nsqd");
    let (help, page) = (mqueue("broker --help").run().stdout, include_str!("../docs/nsqd-flags.md"));
    let mut spellings: [Vec<String>; 3] = Default::default();
    for flag in flags_of_nsqd() {
        let (name, value) = (&flag.name, flag.value());
        assert!(help.contains(&format!("--{name}")), "--{name} is not in the help");
        assert!(page.contains(&format!("| `-{name}` | ")), "-{name} is not in docs/nsqd-flags.md");
        if matches!(name.as_str(), "version" | "config" | "log-level") {
            spellings[1].push(format!("-{name}={value}"));
            continue;
        }
        match flag.is_boolean() {
            true if name == "tls-required" => spellings[0].push("-tls-required=false".to_owned()),
            true => spellings[0].push(format!("-{name}")),
            false => spellings[0].extend([format!("-{name}"), value.clone()]),
        }
        spellings[1].push(format!("-{name}={value}"));
        spellings[2].push(format!("--{name}={value}"));
    }
    for flags in spellings {
        let said = said_with(&flags);
        for name in WITHOUT_EFFECT {
            let warnings = said.lines().filter(|line| line.contains("WARN") && line.contains(&format!("--{name} ")));
            assert_eq!(warnings.count(), 1, "{name}: {said}");
        }
        // registration with the nsqlookupd that is not there is another warning
        let warnings = said.lines().filter(|line| line.contains("WARN") && line.contains("has no effect"));
        assert_eq!(warnings.count(), WITHOUT_EFFECT.len() + 1, "and --https-address: {said}");
    }
}

#[test]
fn values_that_nsqd_refuses_are_refused_in_one_line_and_others_are_not() {
    needs!("nsqd");
    let nsqd = peer("nsqd").expect("needs! checked it");
    let folder = tempfile::tempdir().expect("a folder");
    let data = format!("--data-path={}", folder.path().display());
    let durations = flags_of_nsqd().into_iter().filter(|flag| flag.kind.as_deref() == Some("duration"));
    let help = mqueue("broker --help").run().stdout;
    let mut wrong: Vec<(String, &str)> = Vec::new();
    for flag in durations.filter(|flag| help.contains(&format!("--{} ", flag.name))) {
        wrong.extend([(flag.name.clone(), "60"), (flag.name, "1d")]);
    }
    for (name, value) in [
        ("node-id", "1024"),
        ("node-id", "-1"),
        ("max-deflate-level", "10"),
        ("max-msg-size", "1e6"),
        ("sync-every", "x"),
        ("mem-queue-size", "1.5"),
        ("log-level", "loud"),
        ("snappy", "yes"),
        ("tls-required", "maybe"),
        ("broadcast-tcp-port", "x"),
        ("no-such-flag", "1"),
    ] {
        wrong.push((name.to_owned(), value));
    }
    for (name, value) in wrong {
        let flag = format!("-{name}={value}");
        let theirs = mqueue(&format!("{data} -tcp-address=127.0.0.1:0 {flag}")).program(&nsqd).run();
        let ours = mqueue(&format!("broker {data} -tcp-address=127.0.0.1:0 {flag}")).run();
        assert!(theirs.code != Some(0) && ours.code == Some(2), "{flag}: {theirs:?} {ours:?}");
        let first = ours.stderr.lines().next().unwrap_or_default();
        assert!(first.contains(&name), "{flag}: {first}");
    }
}

/// Both brokers with the same flags; nsqd is the first.
fn both(flags: &[&str]) -> [Nsqd; 2] {
    [Nsqd::real(flags), Nsqd::embedded(flags)]
}

/// Facts of a broker that depend on its configuration: `/info`, IDENTIFY's answer and `/config`.
fn facts(broker: &Nsqd, options: &[&str]) -> (Value, Value, Vec<String>) {
    let mut info: Value = serde_json::from_str(&get(&broker.http(), "/info")).expect("JSON");
    for own in ["tcp_port", "http_port", "start_time"] {
        info[own] = Value::Null;
    }
    let (_, identified) = Client::identified(broker, r#"{"feature_negotiation":true}"#);
    let answer = &identified[identified.find('{').expect("JSON")..=identified.rfind('}').expect("JSON")];
    let mut answer: Value = serde_json::from_str(answer).expect("JSON");
    for own in ["fence", "give_back"] {
        answer.as_object_mut().expect("an object").remove(own);
    }
    let config = options.iter().map(|option| format!("{option} {}", get(&broker.http(), &format!("/config/{option}"))));
    (info, answer, config.collect())
}

/// Settings besides [`CONFIG_OPTIONS`] for which the two have other defaults.
const OTHER_OPTIONS: [&str; 7] = [
    "id",
    "log_level",
    "broadcast_address",
    "broadcast_tcp_port",
    "broadcast_http_port",
    "nsqlookupd_tcp_addresses",
    "output_buffer_timeout",
];

/// A configuration file in a folder of its own.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nsqd.cfg");
    std::fs::write(&path, text).expect("written");
    (folder, path)
}

#[test]
fn the_same_file_configures_both_brokers() {
    needs!("nsqd");
    let (_folder, path) = file(
        r#"# values that are not the defaults
log_level = "warn"
id = 7
broadcast_tcp_port = 5150
broadcast_http_port = "5151"
nsqlookupd_tcp_addresses = [
    "127.0.0.1:9"
]
mem_queue_size = 0x64
msg_timeout = "1m30s"
max_msg_timeout = 1_200_000
max_msg_size = 100_000
max_body_size = "200000"
max_req_timeout = "1.5h"
max_heartbeat_interval = "90s"
max_rdy_count = 25
max_output_buffer_size = 4096
max_output_buffer_timeout = "1s"
min_output_buffer_timeout = "50ms"
output_buffer_timeout = "100ms"
max_channel_consumers = 3
tls_cert = ""
tls_key = ""
tls_min_version = ""
tls_required = false
snappy = "f"
deflate = true
max_deflate_level = 3
http_address = "127.0.0.1:1"
max_bytes_per_file = 1048576
sync_timeout = "1s"
no_such_key = 1
"#,
    );
    let config = format!("--config={}", path.display());
    let [theirs, ours] = both(&[&config, "-max-rdy-count=30", "-log-level", "info"])
        .map(|nsqd| facts(&nsqd, &[&CONFIG_OPTIONS[..], &OTHER_OPTIONS].concat()));
    assert_eq!(ours, theirs);
    assert_eq!((&ours.1["max_rdy_count"], &ours.1["msg_timeout"]), (&30.into(), &90_000.into()), "{ours:?}");
    assert_eq!((&ours.1["output_buffer_timeout"], &ours.0["max_deflate_level"]), (&100.into(), &3.into()));
    assert!(ours.2.contains(&"id 7".to_owned()) && ours.2.contains(&"broadcast_http_port 5151".to_owned()), "{ours:?}");
}

#[test]
fn the_last_of_repeated_flags_counts_except_for_lists() {
    needs!("nsqd");
    let flags = [
        "-max-rdy-count=1",
        "--max-rdy-count",
        "2",
        "-lookupd-tcp-address=127.0.0.1:9",
        "-lookupd-tcp-address=127.0.0.1:8",
        "-tcp-address=127.0.0.1:1",
        "-http-address=127.0.0.1:1",
        "-msg-timeout=-1s",
        "-msg-timeout=1h1m1s",
        "-snappy=false",
        "-snappy",
    ];
    let [theirs, ours] = both(&flags).map(|nsqd| {
        let (_, answer, config) = facts(&nsqd, &["nsqlookupd_tcp_addresses", "snappy"]);
        (answer["max_rdy_count"].clone(), answer["msg_timeout"].clone(), config)
    });
    assert_eq!(ours, theirs);
    assert_eq!(ours.0, 2);
}

#[test]
fn flags_precede_variables_which_precede_the_file() {
    let (folder, path) = file("memory = true\nlog_level = \"error\"\nhttp_address = \"127.0.0.1:1\"\n");
    let data = folder.path().join("data");
    let flags = format!("-memory=false -data-path {} -log-level=info -tcp-address 127.0.0.1:0", data.display());
    let broker = mqueue(&format!("broker -config {} -http-address= {flags}", path.display())).start();
    broker.wait_to_say("TCP: listening on");
    assert!(data.is_dir(), "-memory=false is a flag");
    drop(broker);
    let (_other, path) =
        file("http_address = \"127.0.0.1:1\"\ntcp_address = \"127.0.0.1:1\"\nmemory = true\nmsg_timeuot = 1");
    let broker = mqueue(&format!("broker -config {} -tcp-address 127.0.0.1:0", path.display()));
    let broker = broker.env("MQUEUE_HTTP_ADDRESS", "127.0.0.1:0").start();
    broker.wait_to_say("HTTP: listening on");
    let raised = "--tls-min-version: TLS below 1.2 is not offered";
    assert_eq!(broker.times_said(raised), 0, "the default is not warned about: {}", broker.stderr());
    let warning = "line 4: unknown key \"msg_timeuot\" has no effect; is msg_timeout meant?";
    assert_eq!(broker.times_said(warning), 1, "{}", broker.stderr());
}

#[test]
fn a_file_that_cannot_be_used_is_refused_in_one_line_that_names_the_place() {
    for (text, says) in [
        ("id = 1\nmsg_timeout = \"60\"\n", "nsqd.cfg:2: msg_timeout: invalid value \"60\": say the unit: 60s, 60ms"),
        ("id = 1\n\ndata_path = /var\n", "nsqd.cfg:3: "),
        ("sync = \"always\"\nmemory = true\n", "nsqd.cfg: the argument"),
        ("tls_cert = \"/nope\"\n", "--tls-cert needs --tls-key"),
    ] {
        let (_folder, path) = file(text);
        let ended = mqueue(&format!("broker --config {}", path.display())).run();
        assert!(ended.code == Some(2) && ended.stderr.contains(says), "{text}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    let ended = mqueue("broker --config /nope/nsqd.cfg").run();
    assert!(
        ended.code == Some(2) && ended.stderr.contains("--config /nope/nsqd.cfg: no such file or directory"),
        "{ended:?}"
    );
}

#[test]
fn the_version_has_the_form_of_nsqd() {
    needs!("nsqd");
    let form = |program: Mqueue| {
        let said = program.run().stdout;
        let (version, built) = said.trim_end().split_once(" (built w/").expect("nsqd's form");
        assert!(built.ends_with(')') && said.lines().count() == 1, "{said}");
        version.to_owned()
    };
    let theirs = form(mqueue("-version").program(&peer("nsqd").expect("needs! checked it")));
    for flag in ["--version", "-version", "-version=true", "-V"] {
        assert_eq!(form(mqueue(&format!("broker {flag}"))), theirs);
    }
}

#[test]
fn the_log_level_is_that_of_nsqd() {
    for (flags, silent) in [
        ("-log-level=warn", true),
        ("--log-level INFO", false),
        ("-log-level fatal", true),
        ("-log-level=debug --log warn", true),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("tcp");
        let address = format!("-tcp-address={} -http-address=", socket.display());
        let mut broker = mqueue(&format!("broker --memory {address} {flags}")).start();
        wait_until("it listens, which it does once it handles signals", || socket.exists());
        assert!(!broker.has_ended(), "{flags}");
        broker.signal(nix::sys::signal::Signal::SIGTERM);
        let ended = broker.finish();
        assert_eq!((ended.code, ended.stderr.is_empty()), (Some(0), silent), "{flags}: {ended:?}");
    }
}

#[test]
fn the_log_level_changes_over_http() {
    let broker = mqueue("broker --memory --log info -tcp-address=127.0.0.1:0 -http-address=127.0.0.1:0").start();
    let http = broker.listens("HTTP");
    let put = |option: &str, value: &str| request(&http, "PUT", &format!("/config/{option}"), value.as_bytes());
    assert_eq!(put("log_level", "error"), "4");
    let lookupd = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = lookupd.local_addr().expect("it is bound").to_string();
    put("nsqlookupd_tcp_addresses", &format!("[\"{address}\"]"));
    // the second connection follows the warning about the first
    drop(lookupd.accept().expect("a connection"));
    drop(lookupd.accept().expect("a connection"));
    assert_eq!(put("log_level", "WARN"), "3");
    put("nsqlookupd_tcp_addresses", "[\"127.0.0.1:9\"]");
    broker.wait_to_say("nsqlookupd=127.0.0.1:9");
    assert_eq!(broker.times_said(&address), 0, "{}", broker.stderr());
}

#[test]
fn nsqlookupd_gets_the_broadcast_ports() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let register = format!("-lookupd-tcp-address={}", lookupd.tcp());
    let known = |nsqd: Nsqd| {
        nsqd.create("foo", "c");
        let mut node = Value::Null;
        wait_until("it is registered", || {
            let nodes: Value = serde_json::from_str(&get(&lookupd.http(), "/nodes")).expect("JSON");
            node = nodes["producers"][0].clone();
            node["topics"][0] == "foo"
        });
        drop(nsqd);
        wait_until("it is gone", || get(&lookupd.http(), "/nodes").contains("[]"));
        (node["tcp_port"].clone(), node["http_port"].clone(), node["broadcast_address"].clone())
    };
    let flags = [register.as_str(), "-broadcast-tcp-port", "5150", "-broadcast-http-port=5151"];
    let [theirs, ours] = both(&flags).map(known);
    assert_eq!((&ours, &ours.0), (&theirs, &5150.into()));
}

#[test]
fn the_node_id_is_in_message_ids_as_in_those_of_nsqd() {
    needs!("nsqd");
    for broker in both(&["-node-id=0x155"]) {
        broker.create("foo", "c");
        broker.publish("foo", b"x");
        let mut client = Client::subscribed(&broker, "foo", "c", "{}");
        client.say("RDY 1\n");
        let message = client.messages(1).remove(0);
        let id = u64::from_str_radix(&message.id, 16).expect("a hexadecimal number");
        assert_eq!(id >> 12 & 1023, 0x155, "{}", message.id);
        client.say(&format!("FIN {}\n", message.id));
        broker.wait_for_empty("foo", "c");
    }
}

#[test]
fn a_broker_that_clients_cannot_reach_is_warned_about() {
    let warns = |flags: &str| {
        let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        said_with(&flags).contains("listens on 127.0.0.1 only")
    };
    let lookupd = "-lookupd-tcp-address=127.0.0.1:9";
    assert!(warns(lookupd));
    for flags in ["-broadcast-address=127.0.0.1", "-broadcast-tcp-port=5150", "-tcp-address=0.0.0.0:0"] {
        assert!(!warns(&format!("{lookupd} {flags}")), "{flags}");
    }
    assert!(!warns(""));
}
