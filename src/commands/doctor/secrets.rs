//! Checks of secrets: files that others may read, and AUTH that nsqd refuses.

use std::path::PathBuf;

use super::finding::{CheckId, Finding};
use super::observed::{Observed, TcpFailure};
use mqueue::client::Address;
use mqueue::plural::count;
use mqueue::proto::AuthReply;
use mqueue::wake::shell_commands::shell;

/// The permissions of those who are neither the owner nor in the group.
const OTHERS: u32 = 0o007;

/// A file with a secret or a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretFile {
    pub(super) path: PathBuf,
    /// The unit whose settings name the file; `None` for a flag.
    pub(super) unit: Option<String>,
    /// The group that the unit needs the file to have, if it reads the file as one of the others.
    pub(super) group: Option<String>,
    /// The permission bits, or the reason why they are unknown.
    pub(super) mode: Result<u32, String>,
}

/// The result of connecting as a unit would, with its TLS and its secret.
#[derive(Debug)]
pub(super) struct UnitConnection {
    pub(super) unit: String,
    /// The nsqd; `None` if the settings cannot be used.
    pub(super) address: Option<Address>,
    pub(super) secret: Option<PathBuf>,
    pub(super) answer: Result<Option<AuthReply>, TcpFailure>,
}

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let files = observed.secrets.iter().filter_map(file);
    let own = observed.tcp.iter().filter_map(|tcp| {
        let reply = tcp.answer.as_ref().ok()?.as_ref()?;
        Some(granted(format!("nsqd {}", tcp.address), reply, "the secret of --auth-secret-file"))
    });
    files.chain(own).chain(observed.unit_connections.iter().filter_map(unit_connection)).collect()
}

/// Reports a file that others may read or write, or that does not exist.
fn file(secret: &SecretFile) -> Option<Finding> {
    let path = shell(&secret.path.display().to_string());
    let unit = secret.unit.as_ref().map(|unit| format!(" of {unit}")).unwrap_or_default();
    let subject = secret.path.display();
    match &secret.mode {
        Ok(mode) if mode & OTHERS != 0 => {
            let message = format!("this secret{unit} is open to every user (mode {:04o})", mode & 0o7777);
            Some(Finding::error(CheckId::SecretFile, subject, message, close(secret, &path)))
        }
        Ok(_) => None,
        Err(why) => Some(Finding::error(
            CheckId::SecretFile,
            subject,
            format!("this secret{unit}: {why}"),
            format!("ls -l -- {path}"),
        )),
    }
}

/// Returns the command that takes the rights of others away, and leaves the unit those that it
/// needs.
fn close(secret: &SecretFile, path: &str) -> String {
    let close = match &secret.group {
        Some(group) => format!("chgrp -- {} {path} && chmod g+r,o= -- {path}", shell(group)),
        None => format!("chmod o= -- {path}"),
    };
    format!("{close}    # then change the secret, which others may have read")
}

/// Reports an nsqd that refuses doctor's own TLS or AUTH.
pub(super) fn refused(subject: String, why: &str) -> Finding {
    let message = format!("refuses this client: {why}");
    Finding::error(CheckId::Access, subject, message, format!("mqueue doctor --help    # {}", hint(why)))
}

/// Returns the next step after a refusal.
fn hint(why: &str) -> &'static str {
    match ["E_UNAUTHORIZED", "E_AUTH_FAILED"].iter().any(|code| why.contains(code)) {
        true => "does the AUTH server answer, and still grant something to the secret of --auth-secret-file?",
        false => "its flags of TLS and AUTH, which have to fit nsqd's",
    }
}

fn granted(subject: String, reply: &AuthReply, secret: &str) -> Finding {
    match reply.permission_count {
        0 => refused(subject, "E_UNAUTHORIZED: AUTH grants nothing"),
        number => {
            let message =
                format!("AUTH accepts {secret}, as {:?}, with {}", short(&reply.identity), count(number, "grant"));
            Finding::ok(CheckId::Access, subject, message)
        }
    }
}

/// Cuts a name that an AUTH server chose.
fn short(name: &str) -> String {
    mqueue::proto::excerpt(name.chars().take(40).collect::<String>().as_bytes())
}

/// Reports a unit whose connections nsqd refuses, or whose settings cannot be used.
fn unit_connection(connection: &UnitConnection) -> Option<Finding> {
    let secret = connection.secret.as_ref().map(|path| path.display().to_string());
    let unit = &connection.unit;
    let failure = match &connection.answer {
        Ok(reply) => {
            return Some(granted(unit.clone(), reply.as_ref()?, &format!("the secret in {}", secret?)));
        }
        // an nsqd that does not answer has a finding of its own, if it is among the brokers
        Err(failure) if !failure.is_refusal => return None,
        Err(failure) => failure,
    };
    let of_nsqd = connection.address.as_ref().map(|address| format!("nsqd {address} refuses it: ")).unwrap_or_default();
    let with = secret.as_ref().map(|path| format!(" (secret in {path})")).unwrap_or_default();
    let message = format!("{of_nsqd}{}{with}", failure.why);
    let fix = format!("systemctl cat {}    # {}", shell(unit), hint(&failure.why));
    Some(Finding::error(CheckId::Access, unit, message, fix))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn reported(mode: Result<u32, String>, unit: Option<&str>) -> Vec<(Level, String, String)> {
        let path = "/it's $(a)".into();
        let secrets = vec![SecretFile { path, unit: unit.map(str::to_owned), group: None, mode }];
        let findings = check(&Observed { secrets, ..Observed::default() });
        findings.into_iter().map(|f| (f.level, f.message, f.fix.unwrap_or_default())).collect()
    }

    #[test]
    fn secrets_that_others_may_read_or_write_are_errors() {
        for mode in [0o600, 0o640, 0o660, 0o400, 0o100_600] {
            assert_eq!(reported(Ok(mode), None), [], "{mode:o}");
        }
        for mode in [0o604, 0o644, 0o602, 0o641] {
            let found = reported(Ok(mode), Some("a.service"));
            assert_eq!(found[0].0, Level::Error, "{mode:o}");
            assert!(found[0].1.starts_with("this secret of a.service is open to every user"), "{found:?}");
            assert!(found[0].2.starts_with(r"chmod o= -- '/it'\''s $(a)'    # "), "{found:?}");
        }
        let found = reported(Err("no such file or directory".to_owned()), None);
        assert_eq!((found[0].0, found[0].2.as_str()), (Level::Error, r"ls -l -- '/it'\''s $(a)'"));
    }

    #[test]
    fn a_unit_that_reads_its_secret_as_one_of_the_others_keeps_the_right() {
        let group = Some("mqueue".to_owned());
        let secret = SecretFile { path: "/s".into(), unit: Some("a.service".to_owned()), group, mode: Ok(0o604) };
        let finding = check(&Observed { secrets: vec![secret], ..Observed::default() }).remove(0);
        assert!(finding.fix.unwrap().starts_with("chgrp -- mqueue /s && chmod g+r,o= -- /s    # "));
    }

    #[test]
    fn refused_units_are_errors_and_silent_nsqds_are_left_to_their_finding() {
        let of = |answer: Result<Option<AuthReply>, TcpFailure>| {
            let connection = UnitConnection {
                unit: "a.service".to_owned(),
                address: "a:1".parse().ok(),
                secret: Some("/s".into()),
                answer,
            };
            check(&Observed { unit_connections: vec![connection], ..Observed::default() }).pop()
        };
        let refused = TcpFailure { why: "E_AUTH_FAILED".to_owned(), is_refusal: true };
        let finding = of(Err(refused)).unwrap();
        assert_eq!(finding.message, "nsqd a:1 refuses it: E_AUTH_FAILED (secret in /s)");
        assert!(finding.fix.unwrap().starts_with("systemctl cat a.service    # does the AUTH server"));
        assert_eq!(of(Err("refused".to_owned().into())), None);
        assert_eq!(of(Ok(None)), None);
        let reply = |permission_count| Some(AuthReply { identity: "me".to_owned(), permission_count });
        let finding = of(Ok(reply(1))).unwrap();
        assert_eq!(finding.to_string(), "ok: a.service: AUTH accepts the secret in /s, as \"me\", with 1 grant");
        assert_eq!(of(Ok(reply(0))).unwrap().level, Level::Error);
    }
}
