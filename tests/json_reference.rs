//! docs/reference/json.md: the shapes of the program's JSON, made from its output.
//! `MQUEUE_TEST_SNAPSHOTS=write cargo test --test main json_reference` writes it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::support::{Mqueue, mqueue};

/// The fields of a value by their paths, with their types.
fn shape(path: &str, value: &Value, fields: &mut BTreeMap<String, String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(items) => {
            items.iter().for_each(|item| shape(&format!("{path}[]"), item, fields));
            if items.is_empty() { "list" } else { return }
        }
        Value::Object(object) => {
            object.iter().for_each(|(name, value)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                shape(&path, value, fields);
            });
            return;
        }
    };
    let known = fields.entry(path.to_owned()).or_default();
    if !known.split(" or ").any(|one| one == kind) && known != kind {
        *known = if known.is_empty() { kind.to_owned() } else { format!("{known}, or {kind}") };
    }
}

/// Adds a section with the shape of a command's output: documents, a line each.
fn add(page: &mut String, title: &str, about: &str, output: &str) {
    let mut fields = BTreeMap::new();
    for line in output.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{title}: {error}: {line}"));
        shape("", &value, &mut fields);
    }
    assert!(!fields.is_empty(), "{title}: {output}");
    let _ = write!(page, "\n## {title}\n\n{about}\n\n| field | type |\n|---|---|\n");
    for (path, kind) in fields {
        let _ = writeln!(page, "| `{path}` | {kind} |");
    }
}

#[test]
fn the_reference_of_json_is_fresh() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let broker = "broker --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --data-path";
    let broker = mqueue(broker).arg(&data).start();
    let (tcp, http) = (broker.listens("TCP"), broker.listens("HTTP"));
    let on_broker = |program: Mqueue| program.env("NSQD_TCP_ADDRESS", &tcp).env("NSQD_HTTP_ADDRESS", &http);
    let output = |args: &str| {
        let done = on_broker(mqueue(args)).run();
        assert!(matches!(done.code, Some(0 | 3 | 4)), "{args}: {done:?}");
        done.stdout
    };
    let created = output("create orders/mail orders/reports --json");
    let published = on_broker(mqueue("producer --stream orders --json")).run_with(b"one\ntwo\n").stdout;
    let listed = output("ls --json --watch 0");
    let top = output("top --once --json");
    let peeked = output("peek orders/mail --json");
    let paused = output("pause orders/reports --json");
    let consumed = output("consumer --stream orders --group mail --timeout 1");
    output("unpause orders/reports");
    let given_up = on_broker(
        mqueue("consumer --stream orders --group reports --timeout 1 --max-attempts 1")
            .arg("--handler")
            .arg("exec:exit 65"),
    )
    .run();
    assert_eq!(given_up.code, Some(5), "{given_up:?}");
    let letters = output("consumer --stream orders.dead --group x --timeout 1 --output body");
    let reasons: String =
        letters.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect();
    let backup = Mqueue::new(&["broker", "backup", "--json", "--data-path", &data, "--to"]);
    let backup = backup.arg(&folder.path().join("copy").display().to_string()).run();
    let verify = Mqueue::new(&["broker", "verify", "--json", &data]).run();

    let mut page = String::from(
        "# JSON\n\n<!-- Made from the program: MQUEUE_TEST_SNAPSHOTS=write cargo test --test main json_reference -->\n\n\
         The fields of what the program prints as JSON, a document a line. `[]` are the elements of a list. Fields may\n\
         be added; those that are here keep their names and types.\n",
    );
    add(
        &mut page,
        "mqueue consumer",
        "A message, as `print` writes it, and as `pipe:` and `file:` receive it (`--output json`).",
        &consumed,
    );
    add(&mut page, "A dead letter", "The first line of a message of `STREAM.dead`; the body follows it.", &reasons);
    add(&mut page, "mqueue producer --json", "The summary.", &published);
    add(&mut page, "mqueue ls --json", "Streams, groups and nsqds.", &listed);
    add(&mut page, "mqueue top --once --json", "What the view shows.", &top);
    add(&mut page, "mqueue peek --json", "A message; also of `mqueue tail --json`.", &peeked);
    add(&mut page, "mqueue create --json", "A stream or group on each nsqd.", &created);
    add(&mut page, "mqueue pause --json", "The same of `unpause`, `empty` and `delete`.", &paused);
    add(&mut page, "mqueue broker verify --json", "A log.", &verify.stdout);
    add(&mut page, "mqueue broker backup --json", "A copy of a log.", &backup.stdout);

    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/json.md");
    if std::env::var("MQUEUE_TEST_SNAPSHOTS").is_ok_and(|mode| mode == "write") {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(kept.lines()).find(|(now, then)| now != then);
    assert!(page == kept, "docs/reference/json.md is stale (MQUEUE_TEST_SNAPSHOTS=write writes it): {differs:#?}");
}
