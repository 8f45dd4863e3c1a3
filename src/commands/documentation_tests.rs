//! Checks that the command lines of the documentation are valid.

use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use super::broker::command_line;
use super::cli::Cli;

/// Words that may precede a command.
const BEFORE: [&str; 8] = ["sudo", "exec", "until", "while", "do", "then", "time", "!"];

/// The commands of a shell's line, as words without quotes.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let (mut quote, mut is_redirected) = (None, false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '#') if word.is_none() => break,
            // two terminals side by side
            (None, '$') if word.is_none() && characters.peek() == Some(&' ') => all.push(std::mem::take(&mut words)),
            (None, ' ' | '|' | ';' | '&' | '(' | ')' | '<' | '>' | '\n') => {
                // the number of a redirected descriptor is no argument
                let taken = word.take().filter(|word| !(character == '>' && word.chars().all(|c| c.is_ascii_digit())));
                if let Some(word) = taken
                    && !std::mem::take(&mut is_redirected)
                {
                    words.push(word);
                }
                // <( ) is a command, not a file
                is_redirected &= character != '(';
                if "|;&()\n".contains(character) && !is_redirected {
                    all.push(std::mem::take(&mut words));
                }
                is_redirected |= "<>".contains(character);
            }
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word.filter(|_| !is_redirected));
    all.push(words);
    all
}

/// Returns the words of a command that runs mqueue.
fn of_mqueue(words: &[String]) -> Option<&[String]> {
    let is_before = |word: &String| BEFORE.contains(&word.as_str()) || (word.contains('=') && !word.starts_with('-'));
    let first = words.iter().position(|word| !is_before(word))?;
    (words[first] == "mqueue").then_some(&words[first..])
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The command lines of a page's console blocks, with their continuations.
fn console_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut is_console, mut continues) = (false, false);
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            is_console = line == "```console";
            continues = false;
        } else if let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")).filter(|_| is_console)
        {
            lines.push(command.trim_end_matches('\\').to_owned());
            continues = command.ends_with('\\');
        } else if continues && let Some(last) = lines.last_mut() {
            last.push_str(line.trim_end_matches('\\'));
            continues = line.ends_with('\\');
        }
    }
    lines
}

#[test]
fn every_command_of_the_documentation_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md"), root.join("SECURITY.md")];
    pages(&root.join("docs"), &mut found);
    let (mut checked, mut refused) = (0, Vec::new());
    for page in found {
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        // a quote that goes on in the next line, and an ellipsis, are no whole commands
        let whole = |line: &&String| !line.contains('…') && line.matches('\'').count().is_multiple_of(2);
        for line in console_lines(&text).iter().filter(whole) {
            for words in commands(line).iter().filter_map(|words| of_mqueue(words)) {
                let words = command_line::in_our_spelling(words.iter().map(Into::into).collect());
                let error = Cli::try_parse_from(&words).err();
                let error =
                    error.filter(|error| !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion));
                // variables of the caller's shell may stand for what is missing
                if let Some(error) = error.filter(|error| error.kind() != ErrorKind::MissingRequiredArgument) {
                    refused.push(format!("{}: {line}\n  {error}", page.display()));
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 80 && refused.is_empty(), "{checked} commands; refused:\n{}", refused.join("\n"));
}

#[test]
fn lines_are_split_into_commands() {
    let split = |line: &str| {
        let all = commands(line);
        all.iter().filter_map(|words| of_mqueue(words)).map(|words| words.join("|")).collect::<Vec<_>>()
    };
    assert_eq!(split("printf 'a\\n' | mqueue producer --stream foo 2>/dev/null &"), ["mqueue|producer|--stream|foo"]);
    assert_eq!(
        split("A=1 sudo mqueue ls 'a b' >out; until mqueue ls; do sleep 1; done # mqueue x"),
        ["mqueue|ls|a b", "mqueue|ls"]
    );
    assert_eq!(split("source <(mqueue completions bash)"), ["mqueue|completions|bash"]);
}
