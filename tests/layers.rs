//! The library's layers: a module uses only lower layers, and the subcommands do not use each
//! other.

use std::path::Path;

/// The layers, top down. A module may use its own row and the rows below. The program (main.rs,
/// commands/) is a crate of its own.
const LAYERS: [&[&str]; 6] = [
    &["worker"],
    &["handler", "wake", "cluster"],
    &["client", "broker"],
    &["shutdown", "backoff", "http", "systemd"],
    &["net"],
    &["proto", "io_error", "plural", "duration_histogram"],
];

/// Test code that plays what is below the real modules, and runs them.
const SIMULATED: &str = "simulated";

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
        if ["lib", "main", "commands", SIMULATED].contains(&module) {
            continue;
        }
        let from = layer_of(module).unwrap_or_else(|| panic!("{inside}: {module} has no layer: give it one in LAYERS"));
        for used in named_after(&text, "crate::").filter(|used| *used != module && *used != SIMULATED) {
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

/// Type names that may stand in several modules: each command has its `Args`.
const SHARED_TYPE_NAMES: [&str; 1] = ["Args"];

/// True for test code that plays other programs with types of its own.
fn is_test_code(path: &str) -> bool {
    let parts = ["/tests/", "/simulation/", "/model/", "/tests.rs", "/model.rs", "/world.rs", "_tests.rs"];
    parts.iter().any(|part| path.contains(part))
}

#[test]
fn type_names_stand_for_one_thing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut places = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (path, text) in sources(&root).into_iter().filter(|(path, _)| !is_test_code(path)) {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in code.lines() {
            let words: Vec<&str> = line.split_whitespace().skip_while(|word| word.starts_with("pub")).collect();
            let (Some(&("struct" | "enum" | "trait" | "union")), Some(name)) = (words.first(), words.get(1)) else {
                continue;
            };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            places.entry(name).or_default().push(path.clone());
        }
    }
    assert!(places.len() > 300, "only {} types were found: is the search broken?", places.len());
    places.retain(|name, places| places.len() > 1 && !SHARED_TYPE_NAMES.contains(&name.as_str()));
    assert!(places.is_empty(), "names that stand for several types: {places:#?}");
}

#[test]
fn the_readme_shows_an_example_that_compiles() {
    let trimmed = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n");
    let (readme, example) = (include_str!("../README.md"), trimmed(include_str!("../examples/readme.rs")));
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    assert!(shown.lines().count() > 5 && example.contains(&trimmed(shown)), "{shown}");
}
