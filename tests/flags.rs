//! Flags and environment variables, on the real program.

use crate::support::{Mqueue, Nsqd, consumer, mqueue, needs};

/// Variables that a shell, a unit or a container may have for other purposes.
const OTHERS: [(&str, &str); 10] = [
    ("COUNT", "1"),
    ("DEADLINE", "x"),
    ("DURATION", "1"),
    ("FILE", "/nope"),
    ("HANDLER", "exec:false"),
    ("LISTEN", "x"),
    ("NULL", "true"),
    ("OUTPUT", "body"),
    ("RATE", "x"),
    ("REPORT", "x"),
];

fn with_others(program: Mqueue) -> Mqueue {
    OTHERS.into_iter().fold(program, |program, (name, value)| program.env(name, value))
}

#[test]
fn variables_without_the_programs_prefix_change_nothing() {
    needs!("nsqd");
    let (nsqd, folder) = (Nsqd::with_channel("foo", "1"), tempfile::tempdir().expect("a folder"));
    let lines = folder.path().join("lines");
    nsqd.create("foo", "2");
    std::fs::write(&lines, "one\ntwo\nthree\n").expect("written");
    let publish = mqueue(&format!("producer --stream foo --nsqd-tcp-address {}", nsqd.tcp()));
    let published = with_others(publish.arg(lines.to_str().expect("UTF-8"))).run();
    assert_eq!(published.code, Some(0), "{published:?}");
    assert_eq!(nsqd.published("foo"), 3);
    let read = |program: Mqueue| {
        let finished = program.run();
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let mut lines: Vec<String> = finished.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let of_group = |group: &str| {
        mqueue(&format!("consumer --stream foo --group {group} --timeout 1s --nsqd-tcp-address {}", nsqd.tcp()))
    };
    let with = read(with_others(of_group("1")));
    let without = read(of_group("2")).iter().map(|line| line.replace(r#""group":"2""#, r#""group":"1""#)).collect();
    assert_eq!((with.len(), with), (3, without));
    let prefixed = consumer(&nsqd.tcp(), "--help").env("MQUEUE_COUNT", "7").run();
    assert!(prefixed.stdout.contains("[env: MQUEUE_COUNT=7]"), "{}", prefixed.stdout);
}

/// Runs make with the project's Makefile and a program that prints the variables it was given.
fn make(args: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("target/release")).expect("made");
    std::fs::create_dir(at("src")).expect("made");
    std::fs::write(at("Makefile"), include_str!("../Makefile")).expect("written");
    // older than the program, so that nothing is built
    for source in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
        let file = std::fs::File::create(at(source)).expect("made");
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).expect("set");
    }
    let program = at("target/release/mqueue");
    std::fs::write(&program, "#!/bin/sh\nenv | grep -E '^(MQUEUE_|STREAM=)'\n").expect("written");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("set");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut make = std::process::Command::new("make");
    make.current_dir(folder.path()).args(args).env_clear().env("PATH", path).envs(environment.iter().copied());
    let output = make.output().expect("make");
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn make_gives_variables_of_its_command_line_the_prefix() {
    let given = make(&["pipeline", "COUNT=500", "WORK=1ms 2ms"], &[]);
    assert_eq!(given, ["MQUEUE_COUNT=500", "MQUEUE_WORK=1ms 2ms"]);
    let environment = [("COUNT", "500"), ("STREAM", "foo"), ("MQUEUE_RATE", "9")];
    assert_eq!(make(&["pipeline"], &environment), ["MQUEUE_RATE=9", "STREAM=foo"], "a shell's own COUNT sets nothing");
    let socket = |args: &[&str]| make(args, &[]).into_iter().find(|line| line.starts_with("MQUEUE_SOCKET="));
    assert_eq!(socket(&["wakeup"]).as_deref(), Some("MQUEUE_SOCKET=/var/run/sa-consumer.sock"));
    assert_eq!(socket(&["wakeup", "SOCKET=/tmp/a.sock"]).as_deref(), Some("MQUEUE_SOCKET=/tmp/a.sock"));
}
