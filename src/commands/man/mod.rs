//! `mqueue man`: manual pages, made from the command line as `--help` is.
//!
//! ```text
//!  clap's commands ─┬─▶ page: one a command, and the program ─▶ NAME.1
//!  examples, codes ─┘
//!  the glossary of docs/README.md ─▶ concepts ───────────────▶ mqueue.7
//! ```

pub(crate) mod args;
mod concepts;
mod page;
mod roff;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use self::args::Args;
use super::cli::whole_command_line;
use super::common::exit::{Exit, Failure};
use super::common::stdout;
use mqueue::io_error::describe;

/// The day of this version, as in CHANGELOG.md.
const RELEASED: &str = "2026-11-28";

/// The word for mqueue(7) on the command line.
const CONCEPTS: &str = "concepts";

/// A manual page.
#[derive(Debug)]
pub(crate) struct ManualPage {
    /// The name of its file: `mqueue-consumer.1`.
    pub(crate) file: String,
    /// The roff text.
    pub(crate) text: String,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.to {
        Some(folder) => {
            let pages = all_pages();
            write_all(folder, &pages).map_err(|error| {
                let line = format!("cannot write the manual pages to {}: {}", folder.display(), describe(&error));
                Failure::new(Exit::Failure, line)
            })?;
            stdout::print(&format!("{} manual pages are in {}\n", pages.len(), folder.display()))?;
        }
        None => show(&find(&args.command)?.text)?,
    }
    Ok(Exit::Success)
}

/// Returns every page: the program, each command and its subcommands, and the concepts.
fn all_pages() -> Vec<ManualPage> {
    let cli = whole_command_line();
    let mut pages = page::of_all(&cli);
    pages.push(concepts::page());
    pages
}

fn write_all(folder: &Path, pages: &[ManualPage]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    pages.iter().try_for_each(|page| std::fs::write(folder.join(&page.file), &page.text))
}

/// Finds the page of a command.
///
/// # Errors
/// Fails if there is no such command.
fn find(command: &[String]) -> Result<ManualPage, Failure> {
    let file = match command {
        [word] if word == CONCEPTS => "mqueue.7".to_owned(),
        [] => "mqueue.1".to_owned(),
        words => format!("mqueue-{}.1", words.join("-")),
    };
    all_pages().into_iter().find(|page| page.file == file).ok_or_else(|| {
        let line = format!("no command {:?}: `mqueue --help` lists the commands", command.join(" "));
        Failure::new(Exit::Usage, line)
    })
}

/// Shows a page by man(1) on a terminal; prints it elsewhere, or without man.
fn show(text: &str) -> Result<(), Failure> {
    if io::stdout().is_terminal()
        && let Ok(mut man) = Command::new("man").args(["-l", "-"]).stdin(Stdio::piped()).spawn()
    {
        if let Some(mut stdin) = man.stdin.take() {
            // a reader that quits early has seen enough
            let _ = stdin.write_all(text.as_bytes());
        }
        if man.wait().is_ok_and(|status| status.success()) {
            return Ok(());
        }
    }
    stdout::print(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_every_command_is_found() {
        for (command, begin) in [
            ("", ".TH \"MQUEUE\" \"1\""),
            ("concepts", ".TH \"MQUEUE\" \"7\""),
            ("consumer", ".TH \"MQUEUE-CONSUMER\" \"1\""),
            ("context add", ".TH \"MQUEUE-CONTEXT-ADD\" \"1\""),
        ] {
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            assert!(find(&words).unwrap().text.starts_with(begin), "{command}");
        }
        assert!(find(&["nonsense".to_owned()]).is_err());
    }

    #[test]
    fn the_day_is_that_of_the_changelog() {
        let heading = format!("## {} – {RELEASED}", env!("CARGO_PKG_VERSION"));
        assert!(include_str!("../../../CHANGELOG.md").contains(&heading), "no {heading:?}");
    }
}
