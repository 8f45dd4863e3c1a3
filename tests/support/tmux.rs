//! A terminal: tmux, whose screen a test reads, and in which it types.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{PATIENCE, program, wait_or_tell, wait_until};

/// A terminal with a program in it. It ends with the test.
pub struct Tmux {
    folder: tempfile::TempDir,
}

/// Returns true if tmux is installed.
pub fn has_tmux() -> bool {
    Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success())
}

impl Tmux {
    /// Runs mqueue with these words of a shell command, and says `ENDED` and the exit code when it
    /// has ended. The variables are set in an environment without others.
    pub fn mqueue(words: &str, (width, height): (u16, u16), variables: &[&str]) -> Self {
        let tmux = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let (width, height) = (width.to_string(), height.to_string());
        // the folder keeps the process id; a shell stays, as a user's does
        let script = format!(
            "env -i PATH=\"$PATH\" HOME=\"$HOME\" TERM=\"$TERM\" LANG=C.UTF-8 XDG_CONFIG_HOME=/nonexistent {} sh -c 'echo $$ >{}; exec \"$0\" \"$@\"' {} {words}; echo ENDED $?; cat",
            variables.join(" "),
            tmux.pid_file().display(),
            program().display()
        );
        tmux.run(&["-f", "/dev/null", "-u", "new-session", "-d", "-x", &width, "-y", &height, &script]);
        tmux
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.path().join("pid")
    }

    /// Returns mqueue's process id.
    pub fn pid(&self) -> i32 {
        let mut pid = None;
        wait_until("the process id", || {
            let text = std::fs::read_to_string(self.pid_file()).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|text| text.parse().ok());
            pid.is_some()
        });
        pid.expect("waited for")
    }

    /// Returns true while mqueue runs.
    pub fn is_running(&self) -> bool {
        let name = std::fs::read_to_string(format!("/proc/{}/cmdline", self.pid())).unwrap_or_default();
        name.contains("top")
    }

    /// Returns mqueue's processor time.
    pub fn processor_time(&self) -> Duration {
        super::mqueue::processor_time(self.pid() as u32)
    }

    fn run(&self, words: &[&str]) -> String {
        let socket = self.folder.path().join("tmux");
        let output = Command::new("tmux").arg("-S").arg(socket).args(words).output().expect("has_tmux was asked");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys by tmux's names of them: `j`, `Enter`, `C-c`.
    pub fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Runs `mqueue top` with these arguments as a job of an interactive shell.
    pub fn shell(args: &str, (width, height): (u16, u16)) -> Self {
        let tmux = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let (width, height) = (width.to_string(), height.to_string());
        let shell = "env -i PATH=\"$PATH\" TERM=\"$TERM\" LANG=C.UTF-8 XDG_CONFIG_HOME=/nonexistent bash --norc -i";
        tmux.run(&["-f", "/dev/null", "-u", "new-session", "-d", "-x", &width, "-y", &height, shell]);
        tmux.press(&[&format!("{} top {args}", program().display()), "Enter"]);
        tmux
    }

    /// Runs a shell command.
    pub fn command(command: &str, (width, height): (u16, u16)) -> Self {
        let tmux = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let (width, height) = (width.to_string(), height.to_string());
        tmux.run(&["-f", "/dev/null", "-u", "new-session", "-d", "-x", &width, "-y", &height, command]);
        tmux
    }

    /// Returns the screen's lines.
    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Returns the screen with its colours, as escape sequences.
    pub fn coloured_screen(&self) -> String {
        self.run(&["capture-pane", "-p", "-e"])
    }

    /// Returns a value of tmux's formats, such as `alternate_on`.
    pub fn value(&self, name: &str) -> String {
        self.run(&["display-message", "-p", &format!("#{{{name}}}")]).trim().to_owned()
    }

    /// Changes the terminal's size.
    pub fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Closes the terminal, as the end of an ssh does.
    pub fn close(&self) {
        self.run(&["kill-server"]);
    }

    /// Waits until the screen has this text.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait_for_screen(text, |screen| screen.contains(text));
    }

    /// Waits until the screen is as it should be.
    #[track_caller]
    pub fn wait_for_screen(&self, what: &str, is_there: impl Fn(&str) -> bool) {
        let size = || self.value("pane_width") + "x" + &self.value("pane_height");
        let failure = || format!("no {what:?} on the screen of {}:\n{}", size(), self.screen());
        wait_or_tell(PATIENCE, failure, || is_there(&self.screen()));
    }

    /// Returns the row of this group.
    #[track_caller]
    pub fn row(&self, group: &str) -> String {
        let begin = format!(" {group} ");
        let mut row = None;
        wait_until(&format!("the row of {group}"), || {
            row = self.screen().lines().find(|line| line.starts_with(&begin)).map(str::to_owned);
            row.is_some()
        });
        row.expect("waited for")
    }

    /// Asserts that the program has ended with this exit code, and that the terminal is as it was:
    /// the shell's screen, a cursor, echo and lines.
    #[track_caller]
    pub fn is_given_back(&self, code: u8) {
        self.wait_for(&format!("ENDED {code}"));
        let values = ["alternate_on", "cursor_flag"].map(|name| self.value(name));
        assert_eq!(values, ["0", "1"], "{}", self.screen());
        let terminal = self.value("pane_tty");
        let modes = Command::new("stty").args(["-a", "-F", &terminal]).output().expect("stty is there");
        let modes = String::from_utf8_lossy(&modes.stdout).into_owned();
        for mode in ["icanon", "echo", "isig", "opost"] {
            assert!(modes.split_whitespace().any(|word| word == mode), "no {mode} in {modes}");
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.close();
    }
}
