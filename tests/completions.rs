//! `mqueue completions`, in bash, zsh and fish on a terminal.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Mqueue, Nsqd, PATIENCE, Tmux, has_tmux, mqueue, needs, program, skip};

/// The shells, and how each is started with the completions in a folder that is its home.
const SHELLS: [(&str, &str, &str, &str); 3] = [
    ("bash", ".bashrc", "PS1='$ '; source <(mqueue completions bash)", "bash --rcfile .bashrc -i"),
    (
        "zsh",
        ".zshrc",
        "PS1='$ '; autoload -Uz compinit; compinit -D -u; source <(mqueue completions zsh)",
        "ZDOTDIR=\"$PWD\" zsh -i",
    ),
    (
        "fish",
        "config.fish",
        "function fish_prompt; echo -n '$ '; end; set fish_greeting; set fish_autosuggestion_enabled 0; mqueue completions fish | source",
        "fish --no-config -C 'source config.fish'",
    ),
];

/// A shell on a terminal, in a folder of its own.
struct Shell {
    name: &'static str,
    tmux: Tmux,
    folder: tempfile::TempDir,
}

impl Shell {
    /// Starts every shell that is here, for a broker with this HTTP address.
    fn all(http: &str) -> Vec<Self> {
        if !has_tmux() {
            skip("tmux is missing");
            return Vec::new();
        }
        let is_here = |name: &str| {
            let is_here = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
            if !is_here {
                skip(&format!("{name} is missing"));
            }
            is_here
        };
        SHELLS.into_iter().filter(|(name, ..)| is_here(name)).map(|shell| Self::start(shell, http)).collect()
    }

    fn start((name, file, script, start): (&'static str, &str, &str, &str), http: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("bin")).unwrap();
        symlink(program(), path.join("bin/mqueue")).unwrap();
        std::fs::write(path.join(file), script).unwrap();
        let home = path.display();
        let tmux = Tmux::command(
            &format!(
                "cd {home} && env -i PATH={home}/bin:\"$PATH\" HOME={home} XDG_CONFIG_HOME={home} XDG_DATA_HOME={home} \
                 TERM=\"$TERM\" LANG=C.UTF-8 NSQD_HTTP_ADDRESS={http} {start}"
            ),
            (120, 40),
        );
        let shell = Self { name, tmux, folder };
        shell.wait(|line| line == "$");
        shell
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn types(&self, text: &str) {
        self.tmux.press(&["-l", "--", text]);
    }

    /// The last line with a prompt.
    fn line(&self) -> String {
        let screen = self.tmux.screen();
        screen.lines().rfind(|line| line.starts_with('$')).unwrap_or_default().trim_end().to_owned()
    }

    #[track_caller]
    fn wait(&self, is: impl Fn(&str) -> bool) {
        self.until(|| is(&self.line()));
    }

    /// Waits, and shows the screen in vain.
    #[track_caller]
    fn until(&self, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "{}:\n{}", self.name, self.tmux.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses Tab until the command line is like this. On a busy machine the broker's names may
    /// come too late for one Tab; a second Tab after it would only list in bash, so another key
    /// (Ctrl-E, to the end of the line) comes first.
    #[track_caller]
    fn completes(&self, is: impl Fn(&str) -> bool) {
        self.presses(&["C-e", "Tab"], is);
    }

    /// Presses Tab, and then `again`, until the command line is like this.
    #[track_caller]
    fn presses(&self, again: &[&str], is: impl Fn(&str) -> bool) {
        let mut keys = &["Tab"][..];
        self.until(|| {
            self.tmux.press(keys);
            keys = again;
            let pressed = Instant::now();
            while !is(&self.line()) && pressed.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(10));
            }
            is(&self.line())
        });
    }

    #[track_caller]
    fn completes_to(&self, line: &str) {
        self.completes(|is| is == line);
    }

    /// Starts a new command line. bash may notice Ctrl-C only at the next key, if it comes while a
    /// completion ends.
    fn clear(&self) {
        self.until(|| {
            self.tmux.press(&["C-c"]);
            let pressed = Instant::now();
            while self.line() != "$" && pressed.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(10));
            }
            self.line() == "$"
        });
    }
}

#[test]
fn commands_flags_and_names_are_completed() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("orders-eu", "billing");
    for shell in Shell::all(&nsqd.http()) {
        shell.types("mqueue con");
        // bash lists choices at the second Tab
        let is_listed = || {
            let screen = shell.tmux.screen();
            screen.contains("context") && screen.contains("consumer")
        };
        shell.presses(&["Tab"], |_| is_listed());
        shell.clear();
        for (typed, line) in [
            ("mqueue cons", "$ mqueue consumer"),
            ("--str", "$ mqueue consumer --stream"),
            ("", "$ mqueue consumer --stream orders-eu"),
            ("--gro", "$ mqueue consumer --stream orders-eu --group"),
            ("", "$ mqueue consumer --stream orders-eu --group billing"),
            ("--handler=forw", "$ mqueue consumer --stream orders-eu --group billing --handler=forward:"),
            ("", "$ mqueue consumer --stream orders-eu --group billing --handler=forward:orders-eu"),
            (
                "--output b",
                "$ mqueue consumer --stream orders-eu --group billing --handler=forward:orders-eu --output body",
            ),
        ] {
            shell.types(typed);
            shell.completes_to(line);
        }
        shell.clear();
        shell.types("mqueue pause ord");
        shell.completes_to("$ mqueue pause orders-eu");
        shell.types("/");
        shell.completes_to("$ mqueue pause orders-eu/billing");
        shell.clear();
    }
}

#[test]
fn names_of_files_are_quoted_and_never_run() {
    for (typed, begin) in [
        ("mqueue consumer --handler=file:a", "$ mqueue consumer --handler=file:a"),
        ("mqueue consumer --handler file:a", "$ mqueue consumer --handler file:a"),
        ("mqueue producer --stream foo --file a", "$ mqueue producer --stream foo --file a"),
        ("mqueue producer --stream foo \"a", "$ mqueue producer --stream foo \"a"),
    ] {
        for shell in Shell::all("127.0.0.1:1") {
            std::fs::write(shell.path().join("a b$(touch pwned)`touch pwned`;touch pwned"), "").unwrap();
            shell.types(typed);
            shell.completes(|line| line.contains("touch"));
            assert!(shell.line().starts_with(begin), "{}: {}", shell.name, shell.line());
            shell.types(" --no-such-flag");
            shell.tmux.press(&["Enter"]);
            shell.tmux.wait_for("--no-such-flag' found");
            assert!(!shell.path().join("pwned").exists(), "{}", shell.name);
        }
    }
}

/// Serves this body to every request, as an nsqd's statistics; returns its address.
fn serve(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
            let _ = write!(stream, "{head}{}\r\n\r\n{body}", body.len());
        }
    });
    address
}

/// Statistics, and `/info`, with names that are commands for a shell.
const HOSTILE: &str = r#"{"version":"1.3.0","health":"OK","start_time":1,"tcp_port":1,"http_port":1,"hostname":"h","broadcast_address":"h",
"topics":[{"topic_name":"x$(touch pwned)","channels":[],"depth":0},{"topic_name":"x;touch pwned;","channels":[],"depth":0},
{"topic_name":"x\u001b[2J\npwned","channels":[],"depth":0},{"topic_name":"xylophone","channels":[],"depth":0}]}"#;

#[test]
fn hostile_names_of_streams_are_dropped() {
    let broker = serve(HOSTILE);
    for shell in Shell::all(&broker) {
        shell.types("mqueue ls x");
        shell.completes_to("$ mqueue ls xylophone");
        shell.types("--no-such-flag");
        shell.tmux.press(&["Enter"]);
        shell.tmux.wait_for("--no-such-flag' found");
        assert!(!shell.path().join("pwned").exists(), "{}", shell.name);
    }
}

/// The answer to fish for these words, and how long it took.
fn answer(program: Mqueue) -> (String, Duration) {
    let start = Instant::now();
    let finished = program.run();
    assert_eq!((finished.code, &finished.stderr[..]), (Some(0), ""));
    (finished.stdout, start.elapsed())
}

#[test]
fn a_broker_that_does_not_answer_delays_nothing_and_prints_nothing() {
    // accepts connections by its backlog, and never answers
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    for broker in [silent.to_string(), "127.0.0.1:1".to_owned(), "192.0.2.1:4151".to_owned()] {
        let (text, took) = answer(mqueue(&format!("__complete fish ls --nsqd-http-address {broker}")).arg(""));
        assert_eq!(text, "words\t\n", "{broker}");
        // the client's own deadlines are 2 s to connect, and 5 s
        assert!(took < Duration::from_secs(2), "{broker}: {took:?}");
    }
}

#[test]
fn invalid_settings_are_no_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("mqueue")).unwrap();
    std::fs::write(folder.path().join("mqueue/contexts.toml"), "no [ toml").unwrap();
    let config = folder.path().display().to_string();
    for words in ["fish --context", "zsh consumer --stream", "fish", "nonsense x", "", "bash", "bash a b c"] {
        let (text, _) = answer(mqueue(&format!("__complete {words}")).arg("").env("XDG_CONFIG_HOME", &config));
        assert!(text.lines().count() < 2 || text.contains("consumer"), "{words}: {text}");
        answer(mqueue(&format!("__complete {words}")).arg("").env("NSQD_HTTP_ADDRESS", "\u{1b} no address"));
    }
}
