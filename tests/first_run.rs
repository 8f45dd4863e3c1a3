//! First use: pipes, help, nearly right words, and runs in which every message failed.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Finished, Mqueue, Nsqd, consumer, mqueue, needs};

/// An embedded broker on a free port, in memory.
struct Broker(Mqueue);

impl Broker {
    fn start() -> Self {
        let broker = mqueue("broker --memory --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0").start();
        broker.wait_to_say("HTTP: listening on");
        Self(broker)
    }

    fn address(&self, what: &str) -> String {
        let said = self.0.stderr();
        said.lines().find_map(|line| line.split_once(what)).expect("it was said").1.trim().to_owned()
    }

    fn tcp(&self) -> String {
        self.address("TCP: listening on ")
    }
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("Linux has it").into()
}

/// Returns the lines of `mqueue help` for this command, or of the program for an empty name.
fn help(command: Option<&str>) -> String {
    let finished = mqueue(&format!("help {}", command.unwrap_or_default())).run();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.stdout
}

/// Lists the variables that set a flag of any other command.
fn variables_of_others(own: &str) -> Vec<String> {
    let names = |command: &str| -> Vec<String> {
        let text = help(Some(command)).split_whitespace().collect::<Vec<_>>().join(" ");
        text.split("[env: ").skip(1).filter_map(|rest| Some(rest.split_once('=')?.0.to_owned())).collect()
    };
    let mine = names(own);
    let all = help(None);
    let commands = all
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split_whitespace().next());
    let commands: Vec<&str> =
        commands.filter(|word| word.chars().all(|c| c.is_ascii_lowercase()) && *word != "help").collect();
    assert!(commands.len() > 12, "{all}");
    commands.into_iter().flat_map(names).filter(|name| !mine.contains(name)).collect()
}

/// Runs the command with variables of all other commands in its environment.
fn in_a_hostile_environment(args: &str) -> Finished {
    let own = args.split_whitespace().next().expect("a command");
    let mut program = mqueue(args);
    let names = variables_of_others(own);
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        program = program.env(&name, "silly");
    }
    program.run()
}

#[test]
fn children_do_not_inherit_variables_that_set_flags() {
    let ran = in_a_hostile_environment("demo --for 3s");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let ran = in_a_hostile_environment("pipeline --stages 1 --count 50 --rate 200 --work 1ms");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = in_a_hostile_environment("bench both --messages 100 --warm-up 0");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = in_a_hostile_environment("simulate --via broker --duration 1 --workers 10 --streams 10");
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn variables_of_other_commands_do_not_make_the_demo_lose_messages() {
    for (name, value) in
        [("MQUEUE_OUTPUT", "body"), ("MQUEUE_COUNT", "3"), ("MQUEUE_HANDLER", "exec:false"), ("MQUEUE_LOG", "off")]
    {
        let ran = mqueue("demo --for 2s").env(name, value).run();
        assert_eq!(ran.code, Some(0), "{name}={value}: {}{}", ran.stdout, ran.stderr);
    }
}

#[test]
fn a_pipe_or_a_file_on_stdin_is_published() {
    let broker = Broker::start();
    let args = format!("producer --stream piped --nsqd-tcp-address {}", broker.tcp());
    let ran = mqueue(&args).run_with(b"a\nb\n");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("stdin, a pipe"), "{ran:?}");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"c\n").and_then(|()| std::io::Seek::rewind(&mut file)).expect("written");
    let ran = mqueue(&args).with_stdin_from(file.into()).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let read = format!("consumer --stream piped --group 1 --count 3 --output body --nsqd-tcp-address {}", broker.tcp());
    assert_eq!(mqueue(&read).run().stdout, "a\nb\nc\n");
}

#[test]
fn flags_for_generated_events_win_over_a_pipe_with_a_warning() {
    let broker = Broker::start();
    let args = format!("producer --stream made --report json --nsqd-tcp-address {}", broker.tcp());
    for flags in ["--count 2 --interval 0", "--generate --duration 1ms", "--tasks 2 --count 2 --interval 0"] {
        let ran = mqueue(&format!("{args} {flags}")).run_with(b"a\nb\nc\n");
        assert_eq!(ran.code, Some(0), "{flags}: {ran:?}");
        assert!(ran.stderr.contains("stdin is a pipe and is not read"), "{flags}: {ran:?}");
    }
    // with /dev/null on stdin (systemd, cron) events are generated without a warning
    let ran = mqueue(&format!("{args} --count 1")).run();
    assert!(ran.code == Some(0) && !ran.stderr.contains("stdin"), "{ran:?}");
}

#[test]
fn the_producer_ends_right_after_the_last_message() {
    let broker = Broker::start();
    let args = format!("producer --stream last --interval 1h --nsqd-tcp-address {}", broker.tcp());
    let begun = Instant::now();
    assert_eq!(mqueue(&format!("{args} --count 1")).run().code, Some(0));
    assert_eq!(mqueue(&format!("{args} -")).run_with(b"one\n").code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(120), "an interval is an hour");
}

#[test]
fn log_levels_have_their_usual_names_and_unknown_ones_are_refused() {
    let broker = Broker::start();
    let args = format!("consumer --stream s --group 1 --timeout 1ms --nsqd-tcp-address {}", broker.tcp());
    assert!(mqueue(&format!("{args} --log INFO")).run().stderr.contains("consuming"));
    assert_eq!(mqueue(&format!("{args} --log warning")).run().stderr, "");
    let ran = mqueue(&format!("{args} --log verbos")).run();
    assert!(ran.code == Some(2) && ran.stderr.contains("error, warn, info, debug, trace"), "{ran:?}");
}

#[test]
fn log_lines_have_colours_only_on_terminals_that_want_them() {
    let broker = Broker::start();
    let line =
        r#"script -qec 'PROGRAM consumer --stream s --group 1 --nsqd-tcp-address BROKER --timeout 1ms' /dev/null"#;
    let terminal = |set: &str| {
        let shell = line.replace("PROGRAM", crate::support::program().to_str().expect("UTF-8"));
        let shell = shell.replace("BROKER", &broker.tcp());
        let ran = Mqueue::shell(&format!("{set} {shell}")).env("TERM", "xterm").run();
        ran.stdout
    };
    if !Path::new("/usr/bin/script").exists() {
        eprintln!("skipped: script (util-linux) is missing");
        return;
    }
    assert!(terminal("").contains("\u{1b}["), "a terminal has colours: {}", terminal(""));
    for set in ["NO_COLOR=1", "CLICOLOR=0", "TERM=dumb"] {
        assert!(!terminal(set).contains("\u{1b}["), "{set}: {}", terminal(set));
    }
}

#[test]
fn an_invalid_value_is_reported_with_its_source_and_the_allowed_range() {
    let fails = |program: Mqueue, parts: &[&str]| {
        let ran = program.run();
        assert_eq!(ran.code, Some(2), "{ran:?}");
        let first = ran.stderr.lines().next().unwrap_or_default();
        assert!(parts.iter().all(|part| first.contains(part)), "{parts:?} in {first}");
    };
    fails(mqueue("gateway --listen 5000"), &["--listen", "5000", "HOST:PORT"]);
    fails(mqueue("wakeup --listen 5000"), &["--listen", "5000", "HOST:PORT"]);
    fails(mqueue("producer --stream s --payload-keys 1e6"), &["--payload-keys", "1e6", "0 to 100000"]);
    fails(mqueue("producer --stream s --count 0"), &["--count", "'0'", "at least 1"]);
    fails(
        mqueue("producer --stream s").env("MQUEUE_COUNT", "abc"),
        &["environment variable MQUEUE_COUNT", "abc", "at least 1"],
    );
    fails(mqueue("consumer --group 1").env("STREAM", "a/b"), &["environment variable STREAM", "a/b"]);
    fails(mqueue("simulate --interval 500"), &["--interval", "500ms or 500s"]);
    let typed = mqueue("producer --stream s --count 0").env("MQUEUE_COUNT", "abc").run();
    assert!(!typed.stderr.contains("environment"), "{typed:?}");
}

#[test]
fn unwritable_help_is_a_failure() {
    for args in [
        "--help",
        "--version",
        "help consumer",
        "consumer --help",
        "simulate --plan",
        "doctor --deadline 1ms",
        "demo --for 1ms",
    ] {
        let ran = mqueue(args).with_stdout(full()).run();
        assert_eq!(ran.code, Some(1), "{args}: {ran:?}");
        assert!(ran.stderr.lines().count() == 1 && ran.stderr.contains("no space left"), "{args}: {ran:?}");
    }
    assert_eq!(mqueue("help consumer").run().stdout, mqueue("consumer --help").run().stdout);
}

#[test]
fn unwritable_reports_are_a_failure() {
    let broker = Broker::start();
    let args = format!("--stream s --count 1 --json --nsqd-tcp-address {}", broker.tcp());
    let ran = mqueue(&format!("producer {args}")).with_stdout(full()).run();
    assert!(ran.code == Some(1) && ran.stderr.contains("no space left"), "{ran:?}");
    let ran =
        mqueue(&format!("stage --from s --to t --group 1 --timeout 1ms --json --nsqd-tcp-address {}", broker.tcp()));
    let ran = ran.with_stdout(full()).run();
    assert!(ran.code == Some(1) && ran.stderr.contains("no space left"), "{ran:?}");
}

#[test]
fn a_consumer_without_stdout_takes_no_message() {
    let broker = Broker::start();
    let tcp = broker.tcp();
    assert_eq!(
        mqueue(&format!("producer --stream foo --count 2 --interval 0 --nsqd-tcp-address {tcp}")).run().code,
        Some(0)
    );
    let closed = format!("exec \"$0\" consumer --stream foo --group 1 --timeout 1 --nsqd-tcp-address {tcp} >&-");
    let ran = Mqueue::shell(&closed).run();
    assert!(ran.code == Some(2) && ran.stderr.contains("standard output is closed"), "{ran:?}");
    // output to /dev/null counts as written
    let on_purpose = closed.replace(">&-", "--count 1 >/dev/null");
    assert_eq!(Mqueue::shell(&on_purpose).run().code, Some(0));
    let both = closed.replace(">&-", "--count 1 <>/dev/null >&0");
    assert_eq!(Mqueue::shell(&both).run().code, Some(0));
}

#[test]
fn a_run_in_which_every_message_failed_has_its_own_exit_code() {
    let broker = Broker::start();
    let tcp = broker.tcp();
    let publish = |count| {
        let args = format!("producer --stream foo --count {count} --interval 0 --nsqd-tcp-address {tcp}");
        assert_eq!(mqueue(&args).run().code, Some(0));
    };
    publish(1);
    let failing = "--handler exec:false --max-attempts 1 --timeout 100ms --max-backoff 0";
    let ran = consumer(&tcp, failing).run();
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert_eq!(consumer(&tcp, "--timeout 100ms").run().code, Some(0), "nothing came, and nothing failed");
    publish(1);
    let stage = format!("stage --from foo --to t --group 1 --nsqd-tcp-address {tcp} {failing}");
    assert_eq!(mqueue(&stage).run().code, Some(5));
    // with one message done the run is a success
    publish(2);
    let once = tempfile::tempdir().expect("a folder");
    let first_only = format!("mkdir {}", once.path().join("first").display());
    let args = format!("consumer --stream foo --group 1 --nsqd-tcp-address {tcp} --max-attempts 1 --timeout 100ms");
    let ran = mqueue(&args).arg("--handler").arg(&format!("exec:{first_only}")).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn wakeup_once_fails_for_a_folder_that_cannot_have_sockets() {
    let ran = mqueue("wakeup --once --socket-dir /nope").run();
    assert!(ran.code == Some(1) && ran.stderr.lines().count() == 1, "{ran:?}");
    assert!(ran.stderr.contains("/nope") && ran.stderr.contains("--socket-dir"), "{ran:?}");
}

#[test]
fn a_broker_that_cannot_listen_creates_no_folder() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let folder = tempfile::tempdir().expect("a folder");
    let (data, socket) = (folder.path().join("data"), folder.path().join("nsqd.sock"));
    let args = format!(
        "broker --tcp-address unix:{} --http-address {} --data-path {}",
        socket.display(),
        taken.local_addr().expect("bound"),
        data.display()
    );
    let ran = mqueue(&args).run();
    assert!(ran.code == Some(1) && ran.stderr.contains("cannot listen on"), "{ran:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "neither a folder nor a socket");
}

/// Publishes and consumes where nsqd refuses it; checks that the refusal is the only line about it.
#[track_caller]
fn is_refused(nsqd: &Nsqd, producer: &str, parts: &[&str]) {
    let about = |ran: &Finished| ran.stderr.lines().filter(|line| line.contains("nsqd said")).count();
    let ran = mqueue(&format!("producer --stream foo --count 1 --nsqd-tcp-address {} {producer}", nsqd.tcp())).run();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(!ran.stderr.contains("connection lost") && about(&ran) == 1, "{}", ran.stderr);
    assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{parts:?} in {}", ran.stderr);
}

#[test]
fn a_refusal_by_nsqd_is_one_line_with_its_reason() {
    needs!("nsqd");
    is_refused(&Nsqd::start(), "--defer 2h", &["7200000 out of range", "--max-req-timeout"]);
    let closed = Nsqd::real(&["--auth-http-address=127.0.0.1:1"]);
    let producer = mqueue(&format!("producer --stream foo --count 1 --nsqd-tcp-address {}", closed.tcp())).run();
    for ran in [producer, consumer(&closed.tcp(), "").run()] {
        assert!(ran.code == Some(69) && ran.stderr.lines().count() == 1, "{ran:?}");
        assert!(ran.stderr.contains("wants AUTH") && ran.stderr.contains("--auth-secret-file"), "{ran:?}");
    }
}

#[test]
fn an_nsqd_that_requires_tls_is_reported() {
    needs!("nsqd");
    let folder = tempfile::tempdir().expect("a folder");
    let (key, cert) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: openssl, which makes a certificate, is missing");
        return;
    }
    let (key, cert) = (format!("--tls-key={}", key.display()), format!("--tls-cert={}", cert.display()));
    let nsqd = Nsqd::real(&["--tls-required=true", "--https-address=127.0.0.1:0", &key, &cert]);
    is_refused(&nsqd, "", &["TLS required", "--tls-required"]);
    let ran = consumer(&nsqd.tcp(), "").run();
    assert!(ran.code == Some(69) && ran.stderr.lines().count() == 1, "{ran:?}");
    assert!(ran.stderr.contains("--tls-required"), "{ran:?}");
}

/// A folder with the Makefile, and a fake cargo that only prints that it builds.
fn makefile_with_a_played_cargo() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/Makefile"), at("Makefile")).expect("copied");
    for name in ["src", "bin"] {
        std::fs::create_dir(at(name)).expect("made");
    }
    for name in ["src/main.rs", "Cargo.toml", "Cargo.lock"] {
        std::fs::write(at(name), "").expect("written");
    }
    let cargo = "#!/bin/sh\necho Compiling >&2\necho a line on stdout\nmkdir -p target/release\n\
                 printf '#!/bin/sh\\necho \"ran $*\"\\n' >target/release/mqueue\nchmod +x target/release/mqueue\n";
    std::fs::write(at("bin/cargo"), cargo).expect("written");
    std::fs::set_permissions(at("bin/cargo"), std::fs::Permissions::from_mode(0o755)).expect("set");
    folder
}

#[test]
fn make_shows_a_needed_build_and_keeps_stdout_for_the_program() {
    let folder = makefile_with_a_played_cargo();
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let make = || {
        let mut make = std::process::Command::new("make");
        make.current_dir(folder.path()).args(["consumer", "ARGS=--count 1"]).env("PATH", &path).stdin(Stdio::null());
        for name in ["CARGO_TARGET_DIR", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
            make.env_remove(name);
        }
        let output = make.output().expect("make");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (text(output.stdout), text(output.stderr))
    };
    let ran = "ran consumer --count 1\n".to_owned();
    let built = "Compiling\na line on stdout\n".to_owned();
    assert_eq!(make(), (ran.clone(), built.clone()), "there is no program yet");
    assert_eq!(make(), (ran.clone(), String::new()), "nothing to build");
    let program = File::options().append(true).open(folder.path().join("target/release/mqueue")).expect("there");
    program.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).expect("set");
    // a file that is open for writing cannot be run
    drop(program);
    assert_eq!(make(), (ran, built), "a source is newer");
}

#[test]
fn make_up_starts_the_broker_with_its_own_flags_whatever_the_environment_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |path: &str| folder.path().join(path);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in ["scripts", "bin", "target/release"] {
        std::fs::create_dir_all(at(path)).expect("made");
    }
    for script in ["up", "lib.sh"] {
        std::fs::copy(root.join("scripts").join(script), at("scripts").join(script)).expect("copied");
    }
    // a broker that tells its environment and ends, and a Docker that does not answer
    for (path, script) in [("target/release/mqueue", "env >&2; exit 1"), ("bin/docker", "exit 1")] {
        std::fs::write(at(path), format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(at(path), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    }
    let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut up = std::process::Command::new(at("scripts/up"));
    up.env_clear().envs([("PATH", path.as_str()), ("MQUEUE_UP", "broker"), ("HOME", "/"), ("MEMORY", "true")]);
    let output = up.env("MQUEUE_MEMORY", "true").stdin(Stdio::null()).output().expect("it runs");
    let Ok(log) = std::fs::read_to_string(at(".mqueue/broker.log")) else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("is taken"), "{said}");
        return crate::support::skip("port 4150 is taken by another program");
    };
    assert!(log.contains("HOME=/\n") && !log.contains("MEMORY"), "{log}");
}

#[test]
fn a_socket_on_stdin_is_published() {
    let broker = Broker::start();
    let args = format!("producer --stream piped --nsqd-tcp-address {}", broker.tcp());
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    ours.write_all(b"a\nb\n").expect("there is room");
    drop(ours);
    let ran = mqueue(&args).with_stdin_from(std::os::fd::OwnedFd::from(theirs).into()).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("stdin, a socket"), "{ran:?}");
    let read = format!("consumer --stream piped --group 1 --count 2 --output body --nsqd-tcp-address {}", broker.tcp());
    assert_eq!(mqueue(&read).run().stdout, "a\nb\n");
}

#[test]
fn a_listening_socket_on_stdin_is_no_input() {
    let broker = Broker::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let args = format!("producer --stream made --interval 0 --duration 1ms --nsqd-tcp-address {}", broker.tcp());
    let ran = mqueue(&args).with_stdin_from(std::os::fd::OwnedFd::from(listener).into()).run();
    assert!(ran.code == Some(0) && !ran.stderr.contains("stdin"), "{ran:?}");
}

#[test]
fn a_level_for_a_part_leaves_the_rest_at_its_default() {
    let broker = Broker::start();
    let args = format!("consumer --stream s --group 1 --timeout 1ms --nsqd-tcp-address {}", broker.tcp());
    let ran = mqueue(&format!("{args} --log mqueue::nope=debug")).run();
    assert!(ran.code == Some(0) && ran.stderr.contains("consuming"), "{ran:?}");
}

#[test]
fn output_that_is_lost_because_stdout_is_closed_is_a_failure() {
    let broker = Broker::start();
    let (tcp, http) = (broker.tcp(), broker.address("HTTP: listening on "));
    for args in [
        format!("producer --stream s --count 1 --json --nsqd-tcp-address {tcp}"),
        format!("doctor --nsqd-tcp-address {tcp} --nsqd-http-address {http}"),
        format!("bench publish --messages 10 --warm-up 0 --nsqd-tcp-address {tcp} --nsqd-http-address {http}"),
        "--help".to_owned(),
    ] {
        let ran = Mqueue::shell(&format!("exec \"$0\" {args} >&-")).run();
        assert_eq!(ran.code, Some(1), "{args}: {ran:?}");
        assert!(ran.stderr.contains("standard output is closed"), "{args}: {ran:?}");
    }
}
