//! The flags of services: those of their command lines and of the variables in their settings
//! files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The flags of a service, by name without dashes: `tls-ca-file`. A flag of the command line beats
/// a variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitFlags {
    pub(super) unit: String,
    /// The group that the service runs as; `None` for root's, or if it is unknown.
    pub(super) group: Option<String>,
    /// The folder of relative paths; `None` if it is unknown.
    folder: Option<PathBuf>,
    flags: BTreeMap<String, String>,
}

impl UnitFlags {
    /// Parses the blocks of `systemctl show` with Id, User, Group, WorkingDirectory, Environment,
    /// EnvironmentFiles and ExecStart.
    pub(super) fn parse_all(text: &str, variables_in: impl Fn(&Path) -> Vec<(String, String)>) -> Vec<Self> {
        let mut units: Vec<Self> = text.split("\n\n").filter_map(|block| Self::parse(block, &variables_in)).collect();
        units.sort_by(|a, b| a.unit.cmp(&b.unit));
        units.dedup_by(|a, b| a.unit == b.unit);
        units
    }

    /// Returns the flags that these variables set.
    pub(super) fn of_variables(unit: &str, variables: Vec<(String, String)>) -> Self {
        let mut flags = Self { unit: unit.to_owned(), ..Self::default() };
        variables.into_iter().for_each(|(name, value)| flags.set_variable(&name, value));
        flags
    }

    fn parse(block: &str, variables_in: &impl Fn(&Path) -> Vec<(String, String)>) -> Option<Self> {
        let values =
            |name: &'static str| block.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='));
        // WorkingDirectory=!/srv: a folder that may be missing; ~: the user's
        let folder = values("WorkingDirectory").next().map(|folder| folder.trim_start_matches('!'));
        let folder = folder.filter(|folder| !folder.is_empty()).unwrap_or("/");
        let folder = Some(PathBuf::from(folder)).filter(|folder| folder.is_absolute());
        let mut names = ["Group", "User"].into_iter().filter_map(|name| values(name).find(|value| !value.is_empty()));
        let group = names.next().filter(|name| *name != "root").map(str::to_owned);
        let mut unit = Self { unit: values("Id").next()?.to_owned(), group, folder, flags: BTreeMap::new() };
        for (name, value) in
            values("Environment").flat_map(str::split_whitespace).filter_map(|word| word.split_once('='))
        {
            unit.set_variable(name, value.to_owned());
        }
        // EnvironmentFiles=/etc/mqueue/billing.env (ignore_errors=yes)
        for file in values("EnvironmentFiles").filter_map(|line| Some(line.rsplit_once(" (")?.0)) {
            variables_in(Path::new(file)).into_iter().for_each(|(name, value)| unit.set_variable(&name, value));
        }
        for line in values("ExecStart") {
            unit.set_arguments(line);
        }
        Some(unit)
    }

    fn set_variable(&mut self, name: &str, value: String) {
        let flag = name.strip_prefix("MQUEUE_").unwrap_or(name).to_lowercase().replace('_', "-");
        self.flags.insert(flag, value);
    }

    /// Takes the flags of `{ path=… ; argv[]=/usr/bin/nsqd -tls-cert=a --tls-key b ; … }`.
    /// systemctl quotes nothing there, so values with blanks are cut.
    fn set_arguments(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once("argv[]=") else { return };
        let mut words = rest.split(" ; ").next().unwrap_or_default().split_whitespace().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else { continue };
            let flag = flag.trim_start_matches('-');
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value),
                None => (flag, words.next_if(|next| !next.starts_with('-')).unwrap_or("true")),
            };
            self.flags.insert(name.to_owned(), value.to_owned());
        }
    }

    pub(super) fn get(&self, flag: &str) -> Option<&str> {
        self.flags.get(flag).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns true for a flag without a value that is set.
    pub(super) fn is_set(&self, flag: &str) -> bool {
        self.get(flag).is_some_and(|value| matches!(value, "true" | "1"))
    }

    /// Returns a file that a flag names; `None` if its folder is unknown.
    pub(super) fn file(&self, flag: &str) -> Option<PathBuf> {
        let path = Path::new(self.get(flag)?);
        if path.is_absolute() { Some(path.to_owned()) } else { Some(self.folder.as_ref()?.join(path)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_from_environment_settings_and_command_line() {
        let text = "Id=nsqd.service\nExecStart={ path=/usr/bin/nsqd ; argv[]=/usr/bin/nsqd -tls-cert=/c.pem --tls-key k.pem \
            -verbose --lookupd-tcp-address l:4160 ; ignore_errors=no ; pid=0 }\nEnvironment=\n\n\
            Id=a.service\nEnvironment=GROUP=a MQUEUE_TLS=true MQUEUE_TLS_CA_FILE=/old.pem\n\
            EnvironmentFiles=/etc/a.env (ignore_errors=yes)\nEnvironmentFiles=/etc/b.env (ignore_errors=no)\n\
            ExecStart={ path=/m ; argv[]=/m consumer --tls-key-file=/k ; ignore_errors=no }\n\nId=a.service\n\n";
        let file = |path: &Path| match path.to_str() {
            Some("/etc/a.env") => vec![("MQUEUE_TLS_CA_FILE".to_owned(), "/new.pem".to_owned())],
            Some("/etc/b.env") => vec![("NSQD_TCP_ADDRESS".to_owned(), "n:1".to_owned())],
            other => panic!("{other:?}"),
        };
        let units = UnitFlags::parse_all(text, file);
        assert_eq!(units.iter().map(|unit| unit.unit.as_str()).collect::<Vec<_>>(), ["a.service", "nsqd.service"]);
        let (a, nsqd) = (&units[0], &units[1]);
        assert!(a.is_set("tls") && !a.is_set("snappy") && nsqd.is_set("verbose"));
        let values = ["tls-ca-file", "nsqd-tcp-address", "tls-key-file", "group"].map(|flag| a.get(flag));
        assert_eq!(values, [Some("/new.pem"), Some("n:1"), Some("/k"), Some("a")]);
        assert_eq!((nsqd.file("tls-cert"), nsqd.file("tls-key")), (Some("/c.pem".into()), Some("/k.pem".into())));
        assert_eq!(nsqd.get("lookupd-tcp-address"), Some("l:4160"));
        let file = |text: &str| UnitFlags::parse_all(text, |_| Vec::new())[0].file("tls-cert");
        assert_eq!(file("Id=a\nWorkingDirectory=!/srv\nEnvironment=MQUEUE_TLS_CERT=c.pem"), Some("/srv/c.pem".into()));
        assert_eq!(file("Id=a\nWorkingDirectory=~\nEnvironment=MQUEUE_TLS_CERT=c.pem"), None);
    }
}
