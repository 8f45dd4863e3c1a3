//! The documentation: its summary, its links, and the console blocks of README.md and the tutorial,
//! which are run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{program, skip};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files below a folder of the project, by their paths in the project.
fn markdown(folder: &str, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(path.strip_prefix(root()).unwrap().to_str().unwrap(), found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.insert(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

fn pages() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    markdown("docs", &mut found);
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The targets of a page's links and images, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        let outside = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let mut rest = if is_code { "" } else { &outside };
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else { break };
            found.push(target.to_owned());
            rest = after;
        }
    }
    found
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let headings = text.lines().filter(|line| {
        is_code ^= line.trim_start().starts_with("```");
        !is_code && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    };
    headings.map(anchor).collect()
}

/// Names of packages and first lines of reports change with each release.
#[test]
fn pages_name_the_version_of_the_program() {
    let is_version = |character: char| character.is_ascii_digit() || character == '.';
    let mut found = 0;
    for page in pages().iter().chain([&PathBuf::from("README.md")]) {
        let text = read(page);
        for (at, word) in text.match_indices("mqueue") {
            let Some(after) = text[at + word.len()..].strip_prefix(['_', '-', ' ', '/']) else { continue };
            let version = after.split(|character| !is_version(character)).next().unwrap_or_default();
            if version.split('.').filter(|part| !part.is_empty()).count() == 3 {
                assert_eq!(version, env!("CARGO_PKG_VERSION"), "in {}", page.display());
                found += 1;
            }
        }
    }
    assert!(found > 3, "{found}");
}

#[test]
fn every_page_is_in_the_summary_once() {
    let summary = read(Path::new("docs/SUMMARY.md"));
    let mut listed = BTreeSet::new();
    for target in links(&summary) {
        assert!(listed.insert(PathBuf::from("docs").join(&target)), "{target} is there twice");
    }
    let mut expected = pages();
    expected.remove(Path::new("docs/SUMMARY.md"));
    assert_eq!(listed, expected);
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut all = pages();
    all.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(PathBuf::from));
    let (mut checked, mut broken) = (0, String::new());
    for page in all {
        let text = read(&page);
        for target in links(&text).iter().filter(|target| !target.contains("://") && !target.starts_with("mailto:")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let exists = root().join(&file).exists();
            let has_anchor = anchor.is_empty() || !exists || anchors(&read(&file)).contains(anchor);
            if !exists || !has_anchor {
                let _ = writeln!(broken, "{}: {target}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 150 && broken.is_empty(), "{checked} links; broken:\n{broken}");
}

/// Console blocks that are not run here, by their first line, and the reason with the place where
/// they are run.
const NOT_RUN_HERE: [(&str, &str); 5] = [
    (
        "$ make demo     # two groups on a broker in the program, one of them asleep; needs only Rust",
        "builds the program: .ci/run, stages \"the first command\" and \"tests\"",
    ),
    (
        "$ make demo FOR=9s",
        "builds the program: .ci/run, stage \"the first command\"; tests/demo.rs compares the output",
    ),
    (
        "$ make build                           # target/release/mqueue",
        "builds and installs the program: .ci/run, stage \"program\", and tests/systemd",
    ),
    ("$ STREAM=foo make producer", "has no end: .ci/first-commands runs it with --count"),
    (
        "# make reload-systemd-consumer                            # make install, and systemd reads the units",
        "needs systemd and root: tests/systemd",
    ),
];

/// The block with `make up`, in whose place a broker is started here: `make up` builds the program, and
/// uses the ports of NSQ. .ci/first-commands runs it as it is, with each way to start NSQ.
const MAKE_UP: &str = "$ make up";

/// Blocks that begin as one of `NOT_RUN_HERE` says, or are run.
struct Console {
    /// Command lines and the output that follows each.
    commands: Vec<(String, Vec<String>)>,
    first: String,
}

fn console_blocks(text: &str) -> Vec<Console> {
    let mut blocks: Vec<Console> = Vec::new();
    let mut is_console = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
            if is_console {
                blocks.push(Console { commands: Vec::new(), first: String::new() });
            }
            continue;
        }
        let Some(block) = blocks.last_mut().filter(|_| is_console) else { continue };
        if block.first.is_empty() {
            block.first = line.to_owned();
        }
        match line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) {
            Some(command) => block.commands.push((command.to_owned(), Vec::new())),
            None => block.commands.last_mut().expect("a block begins with a command").1.push(line.to_owned()),
        }
    }
    blocks
}

/// Masks what differs between runs: times, durations, ids, ages, addresses, and the widths of
/// columns.
fn masked(line: &str) -> String {
    let is_digit = |c: char| c.is_ascii_digit();
    let word = |word: &str| {
        let bare = word.trim_end_matches([',', ':', ';']);
        let is_time = bare.len() >= 20 && bare.ends_with('Z') && bare.starts_with("20");
        let is_id = bare.len() == 16 && bare.chars().all(|c| c.is_ascii_hexdigit());
        let number = bare.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == 'µ');
        let is_duration =
            number.len() < bare.len() && !number.is_empty() && number.chars().all(|c| is_digit(c) || c == '.');
        let is_decimal = bare.contains('.') && !bare.is_empty() && bare.chars().all(|c| is_digit(c) || c == '.');
        match bare.split_once("id=") {
            _ if is_time => "TIME".to_owned(),
            _ if is_id => "ID".to_owned(),
            _ if is_duration || is_decimal => "DURATION".to_owned(),
            Some(("", _)) => "id=ID".to_owned(),
            _ => word.to_owned(),
        }
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Runs commands in a shell with a network of its own, in an empty folder; returns the output of
/// each. `None`, and skipped, where there can be no network.
fn run(commands: &[&str]) -> Option<Vec<String>> {
    let isolated = ["--user --map-root-user --net", "--net"].into_iter().find(|flags| {
        let unshared = Command::new("unshare").args(flags.split(' ')).args(["ip", "link", "set", "lo", "up"]).output();
        unshared.is_ok_and(|output| output.status.success())
    });
    let Some(isolated) = isolated else {
        skip("a network of its own needs unshare, ip and namespaces");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(program(), folder.path().join("bin/mqueue")).unwrap();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let mut shell = Command::new("unshare");
    shell.args(isolated.split(' ')).args(["--", "timeout", "--kill-after", "5", "240", "bash"]).current_dir(&work);
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH").unwrap());
    shell.env_clear().env("PATH", path).env("HOME", folder.path()).env("LC_ALL", "C.UTF-8");
    shell.env("XDG_CONFIG_HOME", folder.path());
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut script = String::from("exec 2>&1; ip link set lo up\n");
    for command in commands {
        // a group, so that a heredoc and a background job are as typed
        let _ = write!(script, "{command}\necho \"--- $?\"\n");
    }
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{:?}:\n{text}", output.status);
    let mut outputs = vec![String::new()];
    for line in text.lines() {
        if let Some(code) = line.strip_prefix("--- ") {
            let command = commands[outputs.len() - 1];
            assert_eq!(code, "0", "{command}:\n{text}");
            outputs.push(String::new());
        } else {
            let _ = writeln!(outputs.last_mut().unwrap(), "{line}");
        }
    }
    outputs.pop();
    assert_eq!(outputs.len(), commands.len(), "{text}");
    Some(outputs)
}

/// Runs the blocks of a page, and compares the output of each command with the page's. A command
/// without output on the page may have any.
fn runs_as_written(page: &str) {
    let blocks = console_blocks(&read(Path::new(page)));
    let here: Vec<&Console> =
        blocks.iter().filter(|block| !NOT_RUN_HERE.iter().any(|(first, _)| *first == block.first)).collect();
    let commands: Vec<&(String, Vec<String>)> = here.iter().flat_map(|block| &block.commands).collect();
    let lines: Vec<&str> = commands.iter().map(|(command, _)| command.as_str()).collect();
    let Some(outputs) = run(&lines) else { return };
    for ((command, expected), output) in commands.iter().zip(outputs) {
        if expected.is_empty() {
            continue;
        }
        let expected: Vec<String> = expected.iter().map(|line| masked(line)).collect();
        let got: Vec<String> = output.lines().map(masked).collect();
        assert_eq!(got, expected, "{page}: {command}\n{output}");
    }
}

#[test]
fn the_tutorial_runs_as_written() {
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        return skip("systemd-socket-activate is missing (apt-get install systemd)");
    }
    runs_as_written("docs/tutorial.md");
}

#[test]
fn the_readmes_blocks_run_here_or_in_a_stage() {
    let blocks = console_blocks(&read(Path::new("README.md")));
    for (first, reason) in NOT_RUN_HERE {
        assert!(blocks.iter().any(|block| block.first == first), "README.md has no block {first:?} ({reason})");
    }
    let is_listed = |first: &str| first == MAKE_UP || NOT_RUN_HERE.iter().any(|(listed, _)| *listed == first);
    let unlisted: Vec<&str> = blocks.iter().map(|block| &block.first[..]).filter(|first| !is_listed(first)).collect();
    assert!(unlisted.is_empty(), "say where these blocks of README.md are run: {unlisted:#?}");
    let up = blocks.iter().find(|block| block.first == MAKE_UP).expect("README.md has the first messages");
    let start =
        "mqueue broker --memory >broker.log 2>&1 & until mqueue ls --watch 0 >/dev/null 2>&1; do sleep 0.1; done";
    let lines: Vec<&str> = up.commands.iter().map(|(line, _)| if line == "make up" { start } else { line }).collect();
    let Some(outputs) = run(&[&lines[..], &["kill $(jobs -p); wait"]].concat()) else { return };
    for ((line, expected), output) in up.commands.iter().zip(outputs) {
        let got: Vec<&str> = output.lines().collect();
        let mut rest = got.iter();
        let is_there = expected.iter().all(|line| rest.any(|got| got == line));
        assert!(is_there, "README.md: {line}: expected {expected:#?}, in this order, got {got:#?}");
    }
}
