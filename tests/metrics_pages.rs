//! Documentation of metrics, compared with the running programs: docs/metrics.md, the dashboard and
//! the alerts name metrics that exist, and every metric is documented.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::{Client, Gateway, Mqueue, Nsqd, Told, mqueue, needs, peer, skip, wait_until};

/// A metric of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

/// The text of `/metrics`, by command.
type Texts = BTreeMap<&'static str, String>;

/// Parses Prometheus' text format: the families by name.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut found: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            let family = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(found.insert(name.to_owned(), family).is_none(), "{name} is there twice");
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_once(['{', ' ']).expect("a value");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                let base = name.strip_suffix(suffix)?;
                found.get(base).is_some_and(|family| family.kind == "histogram").then_some(base)
            });
            let family = found.get_mut(base.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no type"));
            let labels = if line.contains('{') { rest.split_once('}').expect("labels").0 } else { "" };
            let names = labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name);
            family.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    found
}

/// Starts every command that has metrics, and reads them while it works.
fn texts() -> &'static Texts {
    static TEXTS: OnceLock<Texts> = OnceLock::new();
    TEXTS.get_or_init(read_all)
}

fn read_all() -> Texts {
    let (nsqd, folder) = (Nsqd::start(), tempfile::tempdir().unwrap());
    nsqd.create("a", "g");
    let addresses = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let gateway = Gateway::start(&nsqd, "");
    let (socket, queue) = (folder.path().join("in.sock"), &gateway.address);
    let commands = [
        ("producer", format!("producer --stream a --interval 10ms {addresses} --listen 127.0.0.1:0")),
        ("consumer", format!("consumer --stream a --group g {addresses} --listen 127.0.0.1:0")),
        ("stage", format!("stage --from a --group h --to b {addresses} --listen 127.0.0.1:0")),
        ("worker", format!("worker --queue http://{queue} --stream b --group w --listen 127.0.0.1:0")),
        ("node", format!("node --mport 0 {addresses} --listen 127.0.0.1:0")),
        (
            "ingest",
            format!("ingest --listen unix:{} --to c {addresses} --metrics-listen 127.0.0.1:0", socket.display()),
        ),
        (
            "wakeup",
            format!(
                "wakeup --socket-dir {} --nsqd-http-address {} --listen 127.0.0.1:0",
                folder.path().display(),
                nsqd.http()
            ),
        ),
    ];
    let started: Vec<(&'static str, Mqueue)> =
        commands.into_iter().map(|(name, command)| (name, mqueue(&command).start())).collect();
    let mut texts = Texts::new();
    for (name, program) in &started {
        let told = if *name == "wakeup" { Told::by(program) } else { Told::metrics_of(program) };
        wait_until(&format!("health of {name}"), || told.get("/healthz").0 == 200);
        texts.insert(name, told.get("/metrics").1);
    }
    // a group is there once its worker has joined
    wait_until("jobs", || Told::at(queue).get("/metrics").1.contains("mqueue_messages_handled_total{"));
    texts.insert("gateway", Told::at(queue).get("/metrics").1);
    texts.insert("broker", text_of_broker());
    texts
}

fn text_of_broker() -> String {
    let broker = Nsqd::embedded(&["--e2e-processing-latency-percentile=0.99"]);
    broker.create("a", "g");
    broker.publish("a", b"x");
    let mut client = Client::subscribed(&broker, "a", "g", "{}");
    client.say("RDY 1\n");
    let message = client.messages(1).remove(0);
    client.say(&format!("FIN {}\n", message.id));
    broker.wait_for_empty("a", "g");
    let told = Told::at(&broker.http());
    wait_until("a quantile", || told.get("/metrics").1.contains("quantile="));
    told.get("/metrics").1
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).expect("it is in the repository")
}

#[test]
fn the_manual_lists_every_metric_with_its_type_labels_and_commands() {
    needs!("nsqd");
    let mut exposed: BTreeMap<String, (String, BTreeSet<String>, BTreeSet<&str>)> = BTreeMap::new();
    for (command, text) in texts() {
        for (name, Family { kind, labels }) in families(text) {
            let entry = exposed.entry(name.clone()).or_default();
            assert!(entry.0.is_empty() || entry.0 == kind, "{name} has two types");
            entry.0 = kind;
            entry.1.extend(labels);
            entry.2.insert(*command);
        }
    }
    assert!(exposed.len() > 60, "{}", exposed.len());
    let manual = read("docs/metrics.md");
    let mut listed = BTreeSet::new();
    for row in manual.lines().filter(|line| line.starts_with("| `mqueue_")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning, commands] = cells[..] else { panic!("not five columns: {row}") };
        let name = name.trim_matches('`');
        let Some((real_kind, real_labels, real_commands)) = exposed.get(name) else { panic!("no command has {name}") };
        assert_eq!(kind, real_kind, "{name}");
        // as in "stream, group (consumers)"
        let labels = labels.split(',').filter_map(|label| label.split_whitespace().next()).map(str::to_owned);
        assert_eq!(labels.collect::<BTreeSet<String>>(), *real_labels, "labels of {name}");
        let commands: BTreeSet<&str> = match commands {
            "all but broker" => texts().keys().copied().filter(|command| *command != "broker").collect(),
            commands => commands.split(", ").collect(),
        };
        assert_eq!(commands, *real_commands, "commands of {name}");
        assert!(!meaning.is_empty() && listed.insert(name), "{row}");
    }
    let missing: Vec<_> = exposed.keys().filter(|name| !listed.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
}

/// The words of a PromQL expression that name a metric of mqueue.
fn metrics_in(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("mqueue_"))
}

/// Asserts that a metric, or the histogram of a bucket, exists in some command, with these labels.
fn assert_exists(name: &str, place: &str) {
    let base = name.trim_end_matches("_bucket");
    let found = texts().values().any(|text| families(text).contains_key(base));
    assert!(found, "{place}: no command has {name}");
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    needs!("nsqd");
    let dashboard: Value = serde_json::from_str(&read("data/grafana/mqueue.json")).expect("valid JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut expressions, mut ids) = (0, BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let names: Vec<&str> = metrics_in(expression).collect();
            assert!(!names.is_empty(), "{expression}");
            names.iter().for_each(|name| assert_exists(name, expression));
            expressions += 1;
        }
    }
    assert!(expressions > 40 && panels.len() > 20, "{expressions} in {} panels", panels.len());
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    assert_eq!(variables, ["datasource", "stream", "group"]);
}

#[test]
fn the_alerts_are_about_metrics_that_exist() {
    needs!("nsqd");
    let rules = read("data/prometheus/alerts.yml");
    let mut named = BTreeSet::new();
    for line in rules.lines().filter(|line| !line.trim_start().starts_with("name:") && !line.contains("- name:")) {
        for name in metrics_in(line) {
            assert_exists(name, line);
            named.insert(name.to_owned());
        }
    }
    assert!(named.len() > 10, "{named:?}");
    let tests = read("data/prometheus/alerts_test.yml");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
    for name in tests.lines().filter_map(|line| line.trim().strip_prefix("- {series: '")).flat_map(metrics_in) {
        assert!(named.contains(name), "{name} is in no rule");
    }
}

/// Runs promtool with this input; `None`, and a message, if it is missing.
fn promtool(args: &[&str], input: &str) -> Option<Output> {
    let Some(promtool) = peer("promtool") else {
        skip("promtool is missing (Debian: apt-get install prometheus)");
        return None;
    };
    let mut running = Command::new(promtool)
        .args(args)
        .current_dir(file("data/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is a program");
    running.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    Some(running.wait_with_output().expect("it ends"))
}

fn lines_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn promtool_accepts_the_alerts_and_their_tests_pass() {
    for args in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let Some(output) = promtool(&args, "") else { return };
        let said = lines_of(&output);
        assert!(output.status.success() && said.contains("SUCCESS"), "{args:?}: {said}");
    }
}

#[test]
fn promtool_accepts_the_metrics_of_every_command() {
    needs!("nsqd");
    for (command, text) in texts() {
        let Some(output) = promtool(&["check", "metrics"], text) else { return };
        let said = lines_of(&output);
        assert!(output.status.success() && said.is_empty(), "{command}: {:?}: {said}\n{text}", output.status);
    }
}
