//! `mqueue context`, and commands that use one.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::support::{Finished, Mqueue, Nsqd, mqueue, needs};

/// A folder for settings, as `$XDG_CONFIG_HOME`.
struct Config(TempDir);

impl Config {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn mqueue(&self, args: &str) -> Mqueue {
        mqueue(args).env("XDG_CONFIG_HOME", &self.0.path().display().to_string())
    }

    #[track_caller]
    fn done(&self, args: &str) -> Finished {
        let finished = self.mqueue(args).run();
        assert_eq!(finished.code, Some(0), "{args}: {}", finished.stderr);
        finished
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("mqueue/contexts.toml")
    }
}

#[test]
fn commands_use_the_current_context_a_named_one_or_an_address() {
    needs!("nsqd");
    let config = Config::new();
    let nsqds = [Nsqd::with_channel("one", "g"), Nsqd::with_channel("two", "g"), Nsqd::with_channel("three", "g")];
    let add = |name: &str, nsqd: &Nsqd| {
        let flags = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
        config.done(&format!("context add {name} {flags}")).stdout
    };
    assert!(add("first", &nsqds[0]).contains("is the current one"));
    assert!(add("second", &nsqds[1]).contains("the current one is first"));
    let streams = |args: &str| {
        let listed = config.done(&format!("ls --watch 0 {args}")).stdout;
        listed
            .lines()
            .skip(1)
            .filter(|line| !line.starts_with(' '))
            .map(|line| line[..3].to_owned())
            .collect::<String>()
    };
    assert_eq!(streams(""), "one");
    assert_eq!(streams("--context second"), "two");
    assert_eq!(streams(&format!("--nsqd-http-address {}", nsqds[2].http())), "thr", "a flag beats it");
    let by_variable = config.mqueue("ls --watch 0").env("MQUEUE_CONTEXT", "second").run();
    assert!(by_variable.stdout.contains("two"), "{by_variable:?}");
    let variable = config.mqueue("ls --watch 0").env("NSQD_HTTP_ADDRESS", &nsqds[2].http()).run();
    assert!(variable.stdout.contains("three"), "a variable beats the current context: {variable:?}");
    config.done("context use second");
    assert_eq!(streams(""), "two");
    let sent = config.mqueue("producer --stream two").run_with(b"a\n");
    assert_eq!((sent.code, nsqds[1].published("two")), (Some(0), 1), "{}", sent.stderr);
    let listed = config.done("context ls").stdout;
    assert!(listed.contains("  first: ") && listed.contains("* second: "), "{listed}");
    config.done("context rm second");
    assert!(!config.done("context ls").stdout.contains('*'));
}

#[test]
fn the_file_is_private_and_a_broken_one_is_one_line_only_where_it_is_needed() {
    needs!("nsqd");
    let config = Config::new();
    let nsqd = Nsqd::with_channel("one", "g");
    config.done(&format!("context add a --nsqd-http-address {}", nsqd.http()));
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&config.file()), mode(config.file().parent().unwrap())), (0o600, 0o700));
    let unknown = config.mqueue("ls --context b").run();
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("no context b: a ("), "{}", unknown.stderr);
    std::fs::write(config.file(), "[contexts.a]\nnsqd_tcp_adress = []\n").unwrap();
    for args in ["ls", "context ls", "ls --context a"] {
        let broken = config.mqueue(args).run();
        assert_eq!((broken.code, broken.stderr.lines().count()), (Some(2), 1), "{args}: {}", broken.stderr);
        assert!(broken.stderr.contains("contexts.toml: unknown field `nsqd_tcp_adress`"), "{}", broken.stderr);
    }
    config.done(&format!("ls --watch 0 --nsqd-http-address {}", nsqd.http()));
    config.done("bench --help");
}

#[test]
fn commands_with_a_broker_of_their_own_ignore_the_current_context() {
    let config = Config::new();
    config.done("context add dead --nsqd-tcp-address 127.0.0.1:1 --nsqd-http-address 127.0.0.1:1");
    config.done("pipeline --stages 1 --count 5 --rate 1000");
    assert_eq!(config.mqueue("pipeline --stages 1 --count 5 --context dead").run().code, Some(69));
    assert_eq!(config.mqueue("ls").run().code, Some(69));
}
