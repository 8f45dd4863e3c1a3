//! `mqueue man`: the pages are sound for man(1).

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Mqueue, mqueue, skip};

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok()
}

/// Returns man(1); images of Ubuntu have a script in its place, which only says that it is missing.
fn man() -> &'static str {
    if has("man.REAL") { "man.REAL" } else { "man" }
}

/// All pages in a folder.
fn pages() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("pages");
    let done = mqueue("man --to").arg(to.to_str().unwrap()).run();
    assert_eq!((done.code, &done.stderr[..]), (Some(0), ""), "{done:?}");
    let count = std::fs::read_dir(&to).unwrap().count();
    assert!(done.stdout.starts_with(&format!("{count} manual pages")), "{done:?}");
    folder
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder.join("pages")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn man_renders_every_page_without_a_warning() {
    if !has(man()) {
        return skip("man is missing (apt-get install man-db)");
    }
    let folder = pages();
    let mut rendered = 0;
    for page in files(folder.path()) {
        let mut man = Command::new(man());
        man.args(["--warnings=all", "-E", "UTF-8", "-l"]).arg(&page).env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8");
        let output = man.env("MANPAGER", "cat").output().unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && warnings.is_empty(), "{}: {warnings}", page.display());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("NAME") && text.contains("SEE ALSO"), "{}: {text}", page.display());
        rendered += 1;
    }
    assert!(rendered > 30, "{rendered}");
}

#[test]
fn mandoc_finds_no_fault() {
    if !has("mandoc") {
        return skip("mandoc is missing (apt-get install mandoc)");
    }
    let folder = pages();
    let output = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).args(files(folder.path())).output().unwrap();
    let faults = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && faults.is_empty(), "{faults}");
}

#[test]
fn the_consumers_page_explains_flags_codes_variables_and_examples() {
    let done = mqueue("man consumer").run();
    assert_eq!((done.code, &done.stderr[..]), (Some(0), ""), "{done:?}");
    for text in
        [".SH \"EXIT STATUS\"", "\\fBMQUEUE_HANDLER\\fR", "\\fB\\-\\-handler\\fR", ".SH \"EXAMPLES\"", "130 after"]
    {
        assert!(done.stdout.contains(text), "no {text}: {}", done.stdout);
    }
}

#[test]
fn unknown_pages_and_folders_are_one_line_of_error() {
    let unknown = mqueue("man nonsense").run();
    assert_eq!((unknown.code, unknown.stderr.lines().count()), (Some(2), 1), "{unknown:?}");
    assert!(unknown.stderr.contains("no command \"nonsense\""), "{unknown:?}");
    let full = Mqueue::new(&["man", "--to", "/dev/null/pages"]).run();
    assert_eq!((full.code, full.stderr.lines().count()), (Some(1), 1), "{full:?}");
    assert!(full.stderr.contains("cannot write the manual pages to /dev/null/pages"), "{full:?}");
}
