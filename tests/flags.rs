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
