//! Finds a wakeup that was started without a unit: it pokes the sockets just as well.

use std::path::Path;

/// Returns true if a continuous `mqueue wakeup` runs here.
pub(super) fn is_running() -> bool {
    let Ok(processes) = Path::new("/proc").read_dir() else { return false };
    let is_one =
        |process: std::fs::DirEntry| std::fs::read(process.path().join("cmdline")).is_ok_and(|line| is_wakeup(&line));
    processes.filter_map(Result::ok).any(is_one)
}

/// Parses `/proc/PID/cmdline`: words that end with NUL.
fn is_wakeup(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program =
        words.next().is_some_and(|program| Path::new(&*program).file_name().is_some_and(|name| name == "mqueue"));
    let mut words = words.peekable();
    // flags before the command
    while let Some(flag) = words.next_if(|word| word.starts_with('-')) {
        if flag == "--log" {
            words.next();
        }
    }
    let command = words.next();
    let passes_by = words.any(|word| word == "--once" || word == "--dry-run" || word == "--help" || word == "-h");
    program && command.is_some_and(|command| command == "wakeup") && !passes_by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakeups_are_recognized_by_their_command_line() {
        let is = |line: &str| is_wakeup(line.replace(' ', "\0").as_bytes());
        for yes in [
            "mqueue wakeup",
            "target/release/mqueue --log debug wakeup --socket /x",
            "/usr/bin/mqueue --log=info wakeup",
        ] {
            assert!(is(yes), "{yes}");
        }
        for no in [
            "",
            "mqueue",
            "mqueue consumer --stream wakeup",
            "bash wakeup",
            "mqueue wakeup --once",
            "mqueue --log wakeup doctor",
        ] {
            assert!(!is(no), "{no}");
        }
    }
}
