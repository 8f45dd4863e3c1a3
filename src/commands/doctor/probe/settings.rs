//! Reads the settings files of consumers, as systemd reads them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::commands::doctor::observed::UnitSettings;

/// The maximum of bytes that are read of a file.
const MAX_BYTES: u64 = 64 << 10;

/// Reads `INSTANCE.env` of this folder; files that this user may not read are left out.
pub(super) fn read(folder: &Path) -> BTreeMap<String, UnitSettings> {
    let files = folder.read_dir().into_iter().flatten().filter_map(|file| file.ok().map(|file| file.path()));
    let of_file = |path: &Path| {
        let instance = path.file_name()?.to_str()?.strip_suffix(".env")?.to_owned();
        let mut settings = UnitSettings::default();
        for (name, value) in variables(path)? {
            match name.as_str() {
                "STREAM" => settings.stream = Some(value),
                "GROUP" => settings.group = Some(value),
                _ => {}
            }
        }
        Some((instance, settings))
    };
    files.filter_map(|path| of_file(&path)).collect()
}

/// Reads the variables of a settings file, in their order; `None` if this user may not read it.
pub(super) fn variables(path: &Path) -> Option<Vec<(String, String)>> {
    // opening a pipe would wait for its writer
    path.metadata().ok()?.is_file().then_some(())?;
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let assignments = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let variable = |(name, value): (&str, &str)| {
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        (name.trim().to_owned(), quoted.unwrap_or(value).to_owned())
    };
    Some(assignments.filter_map(|line| line.split_once('=')).map(variable).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_and_group_are_read_as_systemd_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        file("mail@2.env", "# STREAM=no\n; GROUP=no\n  STREAM=\"foo\"  \nGROUP='mail'\nHANDLER=exec:STREAM=x\n");
        file("late.env", "STREAM=first\nSTREAM=last#ephemeral\n");
        file("GROUP.env.example", "STREAM=foo\n");
        nix::unistd::mkfifo(&folder.path().join("pipe.env"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let of = |stream: &str, group: Option<&str>| UnitSettings {
            stream: Some(stream.to_owned()),
            group: group.map(str::to_owned),
        };
        let expected =
            [("mail@2".to_owned(), of("foo", Some("mail"))), ("late".to_owned(), of("last#ephemeral", None))];
        assert_eq!(read(folder.path()), BTreeMap::from(expected));
        assert_eq!(read(Path::new("/nowhere/at/all")), BTreeMap::new());
    }
}
