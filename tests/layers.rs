//! The library's layers: a module uses only what stands below it, and the subcommands do not use each other.

use std::path::Path;

/// Top down. What is in one row may use the rows below it, and itself.
const LAYERS: [&[&str]; 10] = [
    &["main"],
    &["journal"],
    &["app"],
    &["cli"],
    &["worker"],
    &["handler"],
    &["client", "broker"],
    &["shutdown", "backoff", "http", "systemd", "report", "metrics", "serve", "feed", "pace", "plot", "records"],
    &["net"],
    &["proto", "plural", "reason"],
];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Every `.rs` file below `folder`, with its text.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|e| e == "rs") {
            found.push((entry.display().to_string(), std::fs::read_to_string(&entry).expect("UTF-8")));
        }
    }
    found
}

/// The names that follow `prefix` in `text`: `a` and `b` for `crate::a::x` and `crate::{b, …}` is not used here.
fn named_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(prefix).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut edges = 0;
    for (path, text) in sources(&root) {
        let inside = path.strip_prefix(&format!("{}/", root.display())).expect("below the root");
        let module = inside.split(['/', '.']).next().expect("a name");
        if module == "lib" {
            continue;
        }
        let from = layer_of(module).unwrap_or_else(|| panic!("{inside}: {module} has no layer: give it one in LAYERS"));
        for used in named_after(&text, "crate::").filter(|used| *used != module) {
            let to = layer_of(used).unwrap_or_else(|| panic!("{inside}: {used} has no layer"));
            assert!(from < to, "{inside} uses {used}, which does not stand below {module}");
            edges += 1;
        }
    }
    assert!(edges > 20, "only {edges} uses were found: is the search broken?");
}

#[test]
fn subcommands_do_not_use_each_other() {
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/app");
    let commands: Vec<String> = std::fs::read_dir(&app)
        .expect("a folder")
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .filter(|name| {
            !matches!(
                name.as_str(),
                "mod"
                    | "exit"
                    | "sleeping"
                    | "brokers"
                    | "child"
                    | "embedded"
                    | "job"
                    | "fleet"
                    | "lines"
                    | "open_files"
                    | "output"
                    | "picture"
                    | "redriven"
                    | "words"
                    | "working"
            )
        })
        .collect();
    for (path, text) in sources(&app) {
        let inside = path.strip_prefix(&format!("{}/", app.display())).expect("below the folder");
        let command = inside.split(['/', '.']).next().expect("a name");
        // a test of two of them together
        if command == "sleeping" {
            continue;
        }
        for other in commands.iter().filter(|other| *other != command && command != "mod") {
            assert!(!named_after(&text, "crate::app::").any(|used| used == other), "{inside} uses {other}");
            assert!(!text.contains(&format!("super::{other}::")), "{inside} uses {other}");
        }
    }
}

/// Raw connections are made in `net`, where each has a deadline, and a name is tried with all of its addresses.
#[test]
fn connections_are_made_in_one_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = 0;
    for (path, text) in sources(&src) {
        let inside = path.strip_prefix(&format!("{}/", src.display())).expect("below the folder");
        // tests connect as they like, and a Unix datagram socket never waits
        let code = text.split("#[cfg(test)]").next().expect("a beginning");
        let is_test = inside.ends_with("tests.rs") || inside.ends_with("testing.rs") || inside.contains("/tests/");
        for call in ["TcpStream::connect", "UnixStream::connect", "TcpSocket::connect", "sys::socket::connect"] {
            if !is_test && code.contains(call) {
                found += 1;
                assert!(inside.starts_with("net/"), "{inside} has {call}: use crate::net");
            }
        }
    }
    assert!(found >= 2, "is the search broken?");
}
