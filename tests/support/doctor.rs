//! `mqueue doctor`: its findings, and running the commands that it prints.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Finished, Mqueue, Nsqd, mqueue, peer, program};

pub const OK: Option<i32> = Some(0);
pub const WARNINGS: Option<i32> = Some(3);
pub const ERRORS: Option<i32> = Some(4);
pub const UNAVAILABLE: Option<i32> = Some(69);

/// Prepares a doctor with a folder of sockets of its own, and without systemd.
pub fn doctor(sockets: &TempDir, args: &str) -> Mqueue {
    let no_systemctl = sockets.path().display().to_string();
    mqueue(&format!("doctor {args}")).arg("--socket-dir").arg(&no_systemctl).env("PATH", &no_systemctl)
}

/// Returns the flags for this broker.
pub fn on(nsqd: &Nsqd) -> String {
    format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http())
}

pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Its findings that are not in order: level, check and the command that fixes it.
#[track_caller]
pub fn findings(finished: &Finished) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let findings = report["findings"].as_array().expect("a list").iter();
    let bad = findings.filter(|finding| !["ok", "skipped"].contains(&finding["level"].as_str().expect("a level")));
    bad.map(|finding| (text(finding, "level"), text(finding, "check"), text(finding, "fix"))).collect()
}

/// Returns the command of the only finding, which has this level and check.
#[track_caller]
pub fn the_one(finished: &Finished, level: &str, check: &str) -> String {
    let mut found = findings(finished);
    assert!(found.len() == 1 && found[0].0 == level && found[0].1 == check, "{level} {check}, got {finished:#?}");
    found.remove(0).2
}

/// The result of a pasted command.
#[derive(Debug)]
pub struct Pasted {
    pub code: Option<i32>,
    pub stdout: String,
}

/// Runs a command as if pasted into a shell, with `answers` on its stdin. Fails if the command
/// leaves a file in the shell's folder, or does not end.
#[track_caller]
pub fn paste(command: &str, answers: &str) -> Pasted {
    let (work, programs) = (folder(), folder());
    let nsq = ["nsqd", "nsqlookupd"].map(|name| (name, peer(name)));
    let all = nsq.into_iter().filter_map(|(name, path)| Some((name, path?))).chain([("mqueue", program())]);
    for (name, path) in all {
        std::os::unix::fs::symlink(path, programs.path().join(name)).expect("a folder of our own");
    }
    // the tests run as root, or with their own sockets
    std::fs::write(programs.path().join("sudo"), "#!/bin/sh\nexec \"$@\"\n").expect("a folder of our own");
    let script = programs.path().join("sudo");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("timeout");
    shell.args(["60", "sh", "-c", command]).env_clear().env("PATH", path).current_dir(work.path());
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut shell = shell.spawn().expect("coreutils have timeout");
    // the command need not ask
    let _ = shell.stdin.take().expect("piped").write_all(answers.as_bytes());
    let done = shell.wait_with_output().expect("it was started");
    assert_ne!(done.status.code(), Some(124), "{command} does not end");
    let left: Vec<_> = work.path().read_dir().expect("a folder").map(|entry| entry.expect("readable").path()).collect();
    assert!(left.is_empty(), "{command} leaves {left:?}");
    Pasted { code: done.status.code(), stdout: String::from_utf8_lossy(&done.stdout).into_owned() }
}

/// The HTTP API of an nsqd of 2015.
pub fn old_nsqd(mut stream: std::net::TcpStream) {
    let mut request = [0; 4096];
    let length = stream.read(&mut request).unwrap_or(0);
    let stats = request[..length].starts_with(b"GET /stats");
    let body = match stats {
        true => r#"{"version":"0.3.8","health":"NOK - no space left on device","topics":[]}"#,
        false => r#"{"version":"0.3.8","tcp_port":1}"#,
    };
    let date = "Date: Fri, 01 May 2015 10:00:00 GMT";
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\n{date}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// Lists the files of a folder, with their lengths.
pub fn listing(folder: &Path) -> Vec<(String, u64)> {
    let entries = folder.read_dir().expect("a folder").map(|entry| entry.expect("readable"));
    let about = |entry: std::fs::DirEntry| {
        let length = entry.path().symlink_metadata().expect("it is there").len();
        (entry.file_name().to_string_lossy().into_owned(), length)
    };
    let mut all: Vec<_> = entries.map(about).collect();
    all.sort();
    all
}
