//! `--handler exec:COMMAND` and `pipe:COMMAND` when the consumer is killed, and the environment of
//! their commands.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::{Mqueue, Nsqd, consumer, mqueue, needs, wait_until};

/// Creates a folder for the commands' output.
fn folder() -> (TempDir, impl Fn(&str) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    (folder, move |name| path.join(name))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn start(nsqd: &Nsqd, handler: &str) -> Mqueue {
    consumer(&nsqd.tcp(), "--concurrency 1").arg("--handler").arg(handler).start()
}

/// Returns true if there is no such process, or it is a zombie.
fn has_ended(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Returns true if the consumer's table of running commands has this process group.
fn is_guarded(consumer: u32, group: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{consumer}/fd")).unwrap().flatten().map(|file| file.path());
    files
        .filter(|file| fs::read_link(file).is_ok_and(|leads| leads.to_string_lossy().contains("mqueue-commands")))
        .any(|table| read(&table).lines().any(|line| line.trim() == group))
}

#[test]
fn commands_of_a_killed_consumer_still_read_the_whole_body() {
    needs!("nsqd");
    let (nsqd, (_folder, at)) = (Nsqd::with_channel("foo", "1"), folder());
    nsqd.publish("foo", &vec![b'x'; 800_000]);
    // a session of its own is not killed with the consumer's commands
    let script = format!(
        "echo $$ >{0}; until [ -e {1} ]; do sleep 0.01; done; wc -c >{2}.part; mv {2}.part {2}",
        at("up").display(),
        at("go").display(),
        at("read").display()
    );
    let mut consumer = start(&nsqd, &format!("exec:setsid --wait sh -c '{script}'"));
    wait_until("the command", || read(&at("up")).ends_with('\n'));
    consumer.signal(Signal::SIGKILL);
    wait_until("the consumer to end", || consumer.has_ended());
    fs::write(at("go"), "").unwrap();
    wait_until("the command to have read", || at("read").exists());
    assert_eq!(read(&at("read")).trim(), "800000");
}

#[test]
fn commands_and_their_children_are_killed_with_their_consumer() {
    needs!("nsqd");
    for kind in ["exec", "pipe"] {
        let (nsqd, (_folder, at)) = (Nsqd::with_channel("foo", "1"), folder());
        nsqd.publish("foo", b"a");
        let pids = at("pids");
        let script = format!("trap '' TERM; sleep 1000 & echo $$ $! >{}; wait; sleep 1000", pids.display());
        let consumer = start(&nsqd, &format!("{kind}:{script}"));
        wait_until("the command", || read(&pids).ends_with('\n'));
        let pids: Vec<String> = read(&pids).split_whitespace().map(str::to_owned).collect();
        assert!(!pids.iter().any(|pid| has_ended(pid)), "{kind}: they run");
        wait_until("the command to be in the table", || is_guarded(consumer.pid(), &pids[0]));
        consumer.signal(Signal::SIGKILL);
        consumer.finish();
        wait_until("the command and its child to end", || pids.iter().all(|pid| has_ended(pid)));
    }
}

#[test]
fn commands_inherit_the_environment_without_mqueues_secrets() {
    needs!("nsqd");
    for kind in ["exec", "pipe"] {
        let (nsqd, (_folder, at)) = (Nsqd::with_channel("foo", "1"), folder());
        nsqd.publish("foo", b"a");
        let handler = format!("{kind}:read -r _; env >{}; echo ok", at("env").display());
        let mine = [("MINE", "kept"), ("MQUEUE_LOG", "info")];
        let secret = [
            ("MQUEUE_QUEUE", "http://me:pass@host"),
            ("MQUEUE_TO", "http://me:pass@host"),
            ("MQUEUE_BEARER_TOKEN_FILE", "/pass"),
        ];
        let mut consumer = consumer(&nsqd.tcp(), "--count 1").env("MQUEUE_HANDLER", &handler).env("WATCHDOG_PID", "1");
        for (name, value) in mine.iter().chain(&secret) {
            consumer = consumer.env(name, value);
        }
        let finished = consumer.run();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let env = read(&at("env"));
        for (name, value) in mine {
            assert!(env.contains(&format!("{name}={value}\n")), "{kind}: {env}");
        }
        assert!(env.contains("MQUEUE_STREAM=foo\n"), "{kind}: {env}");
        for name in ["pass", "HANDLER=", "WATCHDOG_PID"] {
            assert!(!env.contains(name), "{kind}: {name} is in {env}");
        }
    }
}

/// Settings of mqueue, with the values that they have for the consumer or its commands.
const SETTINGS: [(&str, &str); 8] = [
    ("COUNT", "1"),
    ("RATE", "1000"),
    ("INTERVAL", "1ms"),
    ("DURATION", "1ms"),
    ("GOROUTINES", "1"),
    ("PAYLOAD_KEYS", "1"),
    ("FILE", "/dev/null"),
    ("DELIMITER", "x"),
];

/// The variables of these settings, as the help of `mqueue producer` names them.
fn settings() -> Vec<(String, &'static str)> {
    let help = mqueue("help producer").run().stdout;
    let is_named = |name: &String| help.contains(&format!("[env: {name}="));
    let variable = |name: &str| [name.to_owned(), format!("MQUEUE_{name}")].into_iter().find(is_named);
    SETTINGS.map(|(name, value)| (variable(name).expect("a flag of producer"), value)).to_vec()
}

fn with_settings(program: Mqueue) -> Mqueue {
    settings().iter().fold(program, |program, (name, value)| program.env(name, value))
}

#[test]
fn a_handler_that_calls_mqueue_publishes_the_message_whatever_the_consumers_settings() {
    needs!("nsqd");
    for command in ["consumer --stream foo --group 1 --count 1", "stage --stream foo --group 1 --to next --timeout 1"] {
        let nsqd = Nsqd::with_channel("foo", "1");
        nsqd.create("out", "1");
        nsqd.publish("foo", b"hello");
        let handler = format!("exec:{} producer --stream out && echo passed on", crate::support::program().display());
        let program = with_settings(mqueue(command)).env("NSQD_TCP_ADDRESS", &nsqd.tcp());
        let ran = program.arg("--handler").arg(&handler).run();
        assert_eq!(ran.code, Some(0), "{command}: {}", ran.stderr);
        let read = format!("consumer --stream out --group 1 --count 1 --output body --nsqd-tcp-address {}", nsqd.tcp());
        assert_eq!(mqueue(&read).run().stdout, "hello\n", "{command}: {}", ran.stderr);
        assert_eq!(nsqd.published("out"), 1, "{command}");
    }
}

#[test]
fn commands_inherit_no_settings_of_mqueue_but_where_nsq_is() {
    needs!("nsqd");
    for kind in ["exec", "pipe"] {
        let (nsqd, (_folder, at)) = (Nsqd::with_channel("foo", "1"), folder());
        nsqd.publish("foo", b"a");
        let handler = format!("{kind}:read -r _; env >{}; echo ok", at("env").display());
        let consumer = mqueue("consumer --count 1").env("STREAM", "foo").env("GROUP", "1").env("TIMEOUT", "60");
        let consumer = with_settings(consumer).env("NSQD_TCP_ADDRESS", &nsqd.tcp()).arg("--handler").arg(&handler);
        let finished = consumer.run();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let env = read(&at("env"));
        assert!(env.contains(&format!("NSQD_TCP_ADDRESS={}\n", nsqd.tcp())), "{kind}: {env}");
        assert!(env.contains("MQUEUE_STREAM=foo\n") && env.contains("MQUEUE_GROUP=1\n"), "{kind}: {env}");
        let withheld = settings().into_iter().map(|(name, _)| name);
        for name in withheld.chain(["STREAM", "GROUP", "TIMEOUT"].map(str::to_owned)) {
            assert!(!env.lines().any(|line| line.starts_with(&format!("{name}="))), "{kind}: {name} is in {env}");
        }
    }
}
