//! The mqueue binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATIENCE, wait_or_tell, wait_until, wait_within};

/// Returns the program under test: the one built with the tests, or another
/// (MQUEUE_TEST_PROGRAM=target/release/mqueue).
pub fn program() -> PathBuf {
    std::env::var_os("MQUEUE_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_mqueue").into(), PathBuf::from)
}

/// Returns true if the program is optimised.
pub fn is_optimised() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("MQUEUE_TEST_PROGRAM").is_some()
}

/// Longest time that a test waits for the end of a program.
const LONGEST_RUN: Duration = Duration::from_secs(180);

/// Prepares `mqueue` with these arguments, split at blanks, in an environment without mqueue's
/// variables.
pub fn mqueue(args: &str) -> Mqueue {
    Mqueue::new(&args.split_whitespace().collect::<Vec<_>>())
}

/// Prepares `mqueue consumer` of stream `foo` and group `1` on these nsqds (addresses separated by
/// commas), with further arguments.
pub fn consumer(nsqd: &str, args: &str) -> Mqueue {
    mqueue(&format!("consumer --stream foo --group 1 --nsqd-tcp-address {nsqd} {args}"))
}

/// A running mqueue. It is killed if the test ends first.
pub struct Mqueue {
    command: Command,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// `None` if stdout goes elsewhere.
    stdout: Option<Reader>,
    stderr: Reader,
}

/// The exit code and the output of an mqueue.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Mqueue {
    /// Prepares mqueue with these arguments.
    pub fn new(args: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars().filter(|(name, _)| !matches!(name.as_str(), "PATH" | "HOME" | "TMPDIR")) {
            command.env_remove(name);
        }
        // the contexts of whoever runs the tests
        command.env("XDG_CONFIG_HOME", "/nonexistent");
        Self { command, running: None }
    }

    /// Prepares a shell script that execs mqueue, its `$0`.
    pub fn shell(script: &str) -> Self {
        Self::new(&["-c", script, env!("CARGO_BIN_EXE_mqueue")]).program(Path::new("/bin/sh"))
    }

    /// Runs another file as the program.
    pub fn program(mut self, program: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(self.command.get_args()).env_clear();
        let kept = std::env::vars().filter(|(name, _)| matches!(name.as_str(), "PATH" | "HOME" | "TMPDIR"));
        command.envs(kept).envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command = command;
        self
    }

    /// Takes stdin from elsewhere.
    pub fn with_stdin_from(mut self, stdin: Stdio) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Makes stdin a pipe for the test to write to.
    pub fn with_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Sends stdout elsewhere: to a file, or a pipe of the test.
    pub fn with_stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Starts the program.
    pub fn start(mut self) -> Self {
        let mut child = self.command.spawn().expect("cargo built it");
        // closes a pipe that the test handed over, so that it ends with the program
        self.command.stdout(Stdio::null());
        let stdout = child.stdout.take().map(Reader::new);
        let stderr = Reader::new(child.stderr.take().expect("piped"));
        self.running = Some(Running { child, stdout, stderr });
        self
    }

    /// Returns the program's stdin.
    pub fn stdin(&mut self) -> ChildStdin {
        self.running().child.stdin.take().expect("with_stdin was called, and this once")
    }

    /// Runs the program to its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }

    /// Runs the program to its end with this input on stdin.
    pub fn run_with(self, input: &[u8]) -> Finished {
        let mut running = self.with_stdin().start();
        let mut stdin = running.stdin();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let finished = running.finish();
        let _ = writer.join();
        finished
    }

    /// Runs the program to its end; returns its peak memory, too, in KiB.
    pub fn run_watched(self) -> (Finished, u64) {
        let mut running = self.start();
        let status = format!("/proc/{}/status", running.pid());
        let mut peak = 0;
        wait_within(LONGEST_RUN, "the end of mqueue", || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
            running.has_ended()
        });
        (running.finish(), peak)
    }

    /// Waits for the end of the program and of all processes that have inherited its stdout or
    /// stderr.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        wait_within(LONGEST_RUN, "the end of mqueue", || self.has_ended());
        let running = self.running.as_ref().expect("start was called");
        wait_until("the end of its output", || {
            running.stdout.as_ref().is_none_or(Reader::has_ended) && running.stderr.has_ended()
        });
        let mut running = self.running.take().expect("start was called");
        let status = running.child.wait().expect("it was started");
        let stdout = running.stdout.map(Reader::all).unwrap_or_default();
        let stderr = running.stderr.all();
        check_messages(&stderr);
        Finished { code: status.code(), stdout, stderr }
    }

    /// Returns true once the program has ended.
    pub fn has_ended(&mut self) -> bool {
        self.running().child.try_wait().expect("it was started").is_some()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("it runs");
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("start was called").child.id()
    }

    /// Returns stdout so far.
    pub fn stdout(&self) -> String {
        let running = self.running.as_ref().expect("start was called");
        running.stdout.as_ref().map(Reader::so_far).unwrap_or_default()
    }

    /// Returns stderr so far.
    pub fn stderr(&self) -> String {
        self.running.as_ref().expect("start was called").stderr.so_far()
    }

    /// Returns the number of lines on stderr so far that contain this text.
    pub fn times_said(&self, words: &str) -> usize {
        self.stderr().lines().filter(|line| line.contains(words)).count()
    }

    /// Waits until stderr contains this text.
    #[track_caller]
    pub fn wait_to_say(&self, words: &str) {
        let failure = || format!("no {words:?} on stderr:\n{}", self.stderr());
        wait_or_tell(PATIENCE, failure, || self.times_said(words) > 0);
    }

    /// Returns the address that a broker logs for `TCP` or `HTTP`.
    #[track_caller]
    pub fn listens(&self, protocol: &str) -> String {
        let words = format!("{protocol}: listening on ");
        self.wait_to_say(&words);
        let said = self.stderr();
        let line = said.lines().find(|line| line.contains(&words)).expect("it was just there");
        line.rsplit(' ').next().expect("an address").to_owned()
    }

    /// Returns the memory in use, in KiB.
    pub fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the memory in use without pages of the program's file, in KiB.
    pub fn own_memory(&self) -> u64 {
        self.memory("RssAnon:")
    }

    /// Returns the peak memory, in KiB.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Returns the processor time used.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.pid())
    }

    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Runs the program as a user other than root, without supplementary groups.
    pub fn run_by(mut self, uid: u32) -> Self {
        std::os::unix::process::CommandExt::uid(&mut self.command, uid);
        std::os::unix::process::CommandExt::gid(&mut self.command, uid);
        self
    }

    /// Waits until stdout has `count` lines.
    #[track_caller]
    pub fn wait_for_lines(&self, count: usize) {
        wait_until(&format!("{count} lines on stdout"), || self.stdout().lines().count() >= count);
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("start was called")
    }
}

/// Returns the processor time that a process has used.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

impl Drop for Mqueue {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
            if !std::thread::panicking() {
                check_messages(&running.stderr.so_far());
            }
        }
    }
}

/// Checks messages of the program for texts that are not for people: the numbers of system errors.
#[track_caller]
fn check_messages(stderr: &str) {
    let line = stderr.lines().find(|line| line.contains("(os error "));
    assert!(line.is_none(), "a message has the number of a system error, use io_error::describe: {line:?}");
}

/// Reads a pipe to its end, in a thread, so that the writer never blocks.
struct Reader {
    text: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn new(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let thread = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            while let Ok(bytes) = pipe.fill_buf().map(<[u8]>::to_vec) {
                if bytes.is_empty() {
                    break;
                }
                sink.lock().expect("no holder panics").extend_from_slice(&bytes);
                pipe.consume(bytes.len());
            }
        });
        Self { text, thread }
    }

    fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no holder panics")).into_owned()
    }

    fn all(self) -> String {
        self.thread.join().expect("it does not panic");
        String::from_utf8_lossy(&self.text.lock().expect("no holder panics")).into_owned()
    }
}
