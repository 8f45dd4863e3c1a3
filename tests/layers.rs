//! The library's layers: a module uses only lower layers, and the subcommands do not use each
//! other.

use std::path::Path;

/// The layers, top down. A module may use its own row and the rows below. The program (main.rs,
/// commands/) is a crate of its own.
const LAYERS: [&[&str]; 6] = [
    &["worker"],
    &["handler", "wake"],
    &["client", "broker"],
    &["shutdown", "backoff", "http", "systemd"],
    &["net"],
    &["proto", "io_error", "plural"],
];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Reads every `.rs` file below `folder`; returns paths and texts.
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

/// The names that follow `prefix` in `text`: `a` and `b` for `crate::a::x` and `crate::{b, …}` is
/// not used here.
fn named_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(prefix).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn modules_use_only_lower_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut edges = 0;
    for (path, text) in sources(&root) {
        let inside = path.strip_prefix(&format!("{}/", root.display())).expect("below the root");
        let module = inside.split(['/', '.']).next().expect("a name");
        if ["lib", "main", "commands"].contains(&module) {
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands");
    let is_command = |path: &Path| path.join("args.rs").exists();
    let commands: Vec<String> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| is_command(path))
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .collect();
    assert!(commands.len() > 12, "only {commands:?} were found: is the search broken?");
    for (path, text) in sources(&folder) {
        let inside = path.strip_prefix(&format!("{}/", folder.display())).expect("below the folder");
        let command = inside.split('/').next().expect("a name");
        // the simulation is a test of two commands together, and arguments may share groups of
        // flags
        if !commands.iter().any(|name| name == command) || inside.contains("/simulation/") {
            continue;
        }
        for other in commands.iter().filter(|other| *other != command) {
            let path = format!("crate::commands::{other}::");
            let uses = text.split(&path).skip(1);
            assert_eq!(uses.filter(|rest| !rest.starts_with("args::")).count(), 0, "{inside} uses {other}");
        }
    }
}
