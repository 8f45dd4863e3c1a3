//! Contexts: the settings of a cluster under a name, so that addresses are typed once.
//!
//! One TOML file, `mqueue/contexts.toml` in `$XDG_CONFIG_HOME` or `~/.config`, holds all of them:
//! ```toml
//! current = "prod"
//!
//! [contexts.prod]
//! lookupd_http_address = ["lookup1:4161", "lookup2:4161"]
//! tls = true
//! auth_secret_file = "/home/me/nsq-secret"
//! ```
//! The file names secrets' files and holds no secret; it is private all the same (0600).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::broker_args;
use super::exit::{Exit, Failure};
use mqueue::client::{Lookupd, Nsqd};
use mqueue::io_error::describe;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The name of a context: letters, digits, `.`, `_` and `-`, at most 64.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ContextName(String);

impl FromStr for ContextName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match !name.is_empty() && name.len() <= 64 && !name.starts_with('-') && name.chars().all(is_allowed) {
            true => Ok(Self(name.to_owned())),
            false => Err("use letters, digits, '.', '_' and '-', at most 64".to_owned()),
        }
    }
}

impl TryFrom<String> for ContextName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<ContextName> for String {
    fn from(name: ContextName) -> Self {
        name.0
    }
}

impl std::fmt::Display for ContextName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings of a cluster, named like the flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClusterSettings {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nsqd_tcp_address: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nsqd_http_address: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lookupd_http_address: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ca_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_insecure_skip_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_secret_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deflate: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    snappy: bool,
}

impl ClusterSettings {
    /// Takes the settings of a command line. Paths become absolute.
    ///
    /// # Errors
    /// Fails if no address is named, or a path is not UTF-8.
    pub(crate) fn of(args: &broker_args::Args) -> Result<Self, Failure> {
        let path = |path: &Option<PathBuf>| -> Result<Option<String>, Failure> {
            let Some(path) = path else { return Ok(None) };
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let text = absolute.into_os_string().into_string();
            text.map(Some)
                .map_err(|path| Failure::new(Exit::Usage, format!("{path:?} cannot be kept: it is not UTF-8")))
        };
        let security = &args.security;
        let settings = Self {
            nsqd_tcp_address: args.nsqd_tcp_address.iter().map(ToString::to_string).collect(),
            nsqd_http_address: args.nsqd_http_address.iter().map(ToString::to_string).collect(),
            lookupd_http_address: args.lookupd_http_address.iter().map(ToString::to_string).collect(),
            tls: security.tls,
            tls_ca_file: path(&security.certificates.tls_ca_file)?,
            tls_cert_file: path(&security.certificates.tls_cert_file)?,
            tls_key_file: path(&security.certificates.tls_key_file)?,
            tls_server_name: security.certificates.tls_server_name.clone(),
            tls_insecure_skip_verify: security.certificates.tls_insecure_skip_verify,
            auth_secret_file: path(&security.auth_secret_file)?,
            deflate: security.deflate,
            snappy: security.snappy,
        };
        match settings.has_address() {
            true => Ok(settings),
            false => {
                let line =
                    "a context needs an address: --lookupd-http-address, --nsqd-tcp-address or --nsqd-http-address";
                Err(Failure::new(Exit::Usage, line))
            }
        }
    }

    fn has_address(&self) -> bool {
        [&self.nsqd_tcp_address, &self.nsqd_http_address, &self.lookupd_http_address].iter().any(|it| !it.is_empty())
    }

    /// Sets what the command line leaves open. The addresses are one setting: with one of them
    /// named, none comes from here.
    fn fill(&self, args: &mut broker_args::Args) -> Result<(), String> {
        fn all<T: FromStr<Err: std::fmt::Display>>(texts: &[String]) -> Result<Vec<T>, String> {
            texts.iter().map(|text| text.parse().map_err(|e| format!("{text:?}: {e}"))).collect()
        }
        if !is_named(args) {
            args.nsqd_tcp_address = all(&self.nsqd_tcp_address)?;
            args.nsqd_http_address = all::<Nsqd>(&self.nsqd_http_address)?;
            args.lookupd_http_address = all::<Lookupd>(&self.lookupd_http_address)?;
        }
        let kept = |path: &Option<String>| path.as_ref().map(PathBuf::from);
        let security = &mut args.security;
        security.tls |= self.tls;
        security.auth_secret_file = security.auth_secret_file.take().or_else(|| kept(&self.auth_secret_file));
        // flags that exclude each other, or need each other, are one setting, too
        let own = &mut security.certificates;
        if own.tls_ca_file.is_none() && !own.tls_insecure_skip_verify {
            own.tls_ca_file = kept(&self.tls_ca_file);
            own.tls_insecure_skip_verify = self.tls_insecure_skip_verify;
        }
        if own.tls_cert_file.is_none() {
            (own.tls_cert_file, own.tls_key_file) = (kept(&self.tls_cert_file), kept(&self.tls_key_file));
        }
        own.tls_server_name = own.tls_server_name.take().or_else(|| self.tls_server_name.clone());
        if security.deflate.is_none() && !security.snappy {
            (security.deflate, security.snappy) = (self.deflate, self.snappy);
        }
        Ok(())
    }
}

/// True if a command line, or its environment, names an nsqd or nsqlookupd.
fn is_named(args: &broker_args::Args) -> bool {
    args.is_named() || !args.nsqd_http_address.is_empty()
}

/// All contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ContextFile {
    /// The context that commands use if they name neither a context nor an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<ContextName>,
    pub(crate) contexts: BTreeMap<ContextName, ClusterSettings>,
}

impl ContextFile {
    /// Returns the path of the file; `None` without a home folder.
    pub(crate) fn path() -> Option<PathBuf> {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
        Some(config.join("mqueue/contexts.toml"))
    }

    /// Reads the file; one that does not exist, or is in another user's folder, has no contexts.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not valid.
    pub(crate) fn load() -> Result<Self, Failure> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        let failure = |why: &str| {
            let line = format!("cannot use the contexts in {}: {}", path.display(), why.trim_end().replace('\n', " "));
            Failure::new(Exit::Usage, line)
        };
        let length = match std::fs::metadata(&path) {
            // without the right to look into it, the home folder is another user's
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                return Ok(Self::default());
            }
            about => about.map_err(|e| failure(&describe(&e)))?.len(),
        };
        if length > MAX_FILE {
            return Err(failure("it is longer than 1 MiB"));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| failure(&describe(&e)))?;
        toml::from_str(&text).map_err(|e| failure(e.message()))
    }

    /// Replaces the file at once; its folder is created if missing.
    ///
    /// # Errors
    /// Fails if the file cannot be written, and leaves the old one.
    pub(crate) fn save(&self) -> Result<PathBuf, Failure> {
        let Some(path) = Self::path() else {
            return Err(Failure::new(Exit::Usage, "there is no place for contexts: set HOME or XDG_CONFIG_HOME"));
        };
        let text = toml::to_string(self).expect("names and texts");
        write_private(&path, &text).map_err(|e| {
            Failure::new(Exit::Failure, format!("cannot write the contexts to {}: {}", path.display(), describe(&e)))
        })?;
        Ok(path)
    }

    /// Returns a context.
    ///
    /// # Errors
    /// Fails with the names that exist.
    pub(crate) fn get(&self, name: &ContextName) -> Result<&ClusterSettings, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<String> = self.contexts.keys().map(ToString::to_string).collect();
            let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
            Failure::new(Exit::Usage, format!("no context {name}: {known} (`mqueue context add` makes one)"))
        })
    }
}

/// Writes beside the file and renames, so that a full disk or a kill leaves the old one.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = path.with_extension(format!("toml.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let replaced = written.and_then(|()| std::fs::rename(&beside, path));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    replaced
}

/// Applies the context that is named, or else the current one if no address is named. A command
/// that starts a broker of its own, or puts load on one, takes only a named context.
///
/// # Errors
/// Fails if there is no such context, or the file cannot be used although it is needed.
pub(crate) fn apply(
    args: &mut broker_args::Args,
    named: Option<&ContextName>,
    takes_current: bool,
) -> Result<(), Failure> {
    if named.is_none() && (is_named(args) || !takes_current) {
        return Ok(());
    }
    let file = ContextFile::load()?;
    let Some(name) = named.or(file.current.as_ref()) else { return Ok(()) };
    let settings = file.get(name)?;
    settings.fill(args).map_err(|why| Failure::new(Exit::Usage, format!("context {name} cannot be used: {why}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        broker: broker_args::Args,
    }

    fn parsed(flags: &str) -> broker_args::Args {
        Line::try_parse_from(format!("test {flags}").split_whitespace()).unwrap().broker
    }

    #[test]
    fn settings_survive_the_file() {
        let flags = "--lookupd-http-address https://l:4161 --nsqd-http-address a:1,b:2 --tls --tls-ca-file /ca.pem \
                     --auth-secret-file /secret --deflate=3";
        let settings = ClusterSettings::of(&parsed(flags)).unwrap();
        let name: ContextName = "prod".parse().unwrap();
        let file = ContextFile { current: Some(name.clone()), contexts: BTreeMap::from([(name, settings.clone())]) };
        let text = toml::to_string(&file).unwrap();
        assert_eq!(toml::from_str::<ContextFile>(&text).unwrap(), file, "{text}");
        let mut empty = parsed("");
        settings.fill(&mut empty).unwrap();
        assert_eq!(ClusterSettings::of(&empty).unwrap(), settings);
        assert!(empty.lookupd_http_address[0].is_https());
    }

    #[test]
    fn a_flag_beats_the_context_and_addresses_are_one_setting() {
        let settings =
            ClusterSettings::of(&parsed("--lookupd-http-address l:4161 --nsqd-tcp-address a:1 --snappy")).unwrap();
        let mut args = parsed("--nsqd-tcp-address b:2 --deflate=1");
        settings.fill(&mut args).unwrap();
        assert_eq!((args.nsqd_tcp_address[0].to_string(), args.nsqd_tcp_address.len()), ("b:2".to_owned(), 1));
        assert!(args.lookupd_http_address.is_empty() && !args.security.snappy);
        assert_eq!(args.security.deflate, Some(1));
    }

    #[test]
    fn a_named_authority_beats_the_contexts_lack_of_checks() {
        let of = |flags: &str| ClusterSettings::of(&parsed(&format!("--nsqd-tcp-address a:1 --tls {flags}"))).unwrap();
        let filled = |settings: &ClusterSettings, flags: &str| {
            let mut args = parsed(flags);
            settings.fill(&mut args).unwrap();
            args.security.certificates
        };
        let unchecked = filled(&of("--tls-insecure-skip-verify"), "--tls-ca-file /ca.pem");
        assert_eq!((unchecked.tls_insecure_skip_verify, unchecked.tls_ca_file), (false, Some("/ca.pem".into())));
        let checked = filled(&of("--tls-ca-file /ca.pem"), "--tls-insecure-skip-verify");
        assert_eq!((checked.tls_insecure_skip_verify, checked.tls_ca_file), (true, None));
        let client =
            filled(&of("--tls-cert-file /a --tls-key-file /a.key"), "--tls-cert-file /b --tls-key-file /b.key");
        assert_eq!((client.tls_cert_file, client.tls_key_file), (Some("/b".into()), Some("/b.key".into())));
        let kept = filled(&of("--tls-cert-file /a --tls-key-file /a.key"), "");
        assert_eq!((kept.tls_cert_file, kept.tls_key_file), (Some("/a".into()), Some("/a.key".into())));
    }

    #[test]
    fn a_path_that_toml_cannot_hold_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let mut args = parsed("--nsqd-tcp-address a:1");
        args.security.auth_secret_file = Some(std::ffi::OsString::from_vec(b"/a\xff".to_vec()).into());
        assert!(ClusterSettings::of(&args).unwrap_err().to_string().contains("it is not UTF-8"));
    }

    #[test]
    fn odd_names_and_unknown_keys_are_refused() {
        for name in ["", "a b", "-x", "a/b", "ü", &"x".repeat(65)] {
            assert!(name.parse::<ContextName>().is_err(), "{name}");
        }
        for text in ["[contexts.a]\nnsqd_tcp_adress = []", "curent = 'a'", "[contexts.'a b']", "x"] {
            assert!(toml::from_str::<ContextFile>(text).is_err(), "{text}");
        }
        assert!(ClusterSettings::of(&parsed("--tls")).is_err(), "it has no address");
    }
}
