//! Checks of certificates: those that end soon, of servers and in files.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::finding::{CheckId, Finding};
use super::observed::Observed;
use mqueue::net::tls::CertificateInfo;
use mqueue::plural::count;
use mqueue::wake::shell_commands::shell;

/// The remaining time below which a certificate is reported.
const SOON: Duration = Duration::from_secs(14 * DAY);
const DAY: u64 = 86_400;
/// The largest number of findings about one file or server: a file of authorities may have
/// hundreds.
const MAX_FINDINGS: usize = 4;

/// Where certificates were found, and what they are; or the reason why there are none.
#[derive(Debug)]
pub(super) struct CertificateSource {
    pub(super) place: CertificatePlace,
    pub(super) found: Result<Vec<CertificateInfo>, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CertificatePlace {
    /// A file, and the unit whose settings name it; `None` for a flag.
    File { path: PathBuf, unit: Option<String> },
    /// nsqd's TCP port.
    Tcp { address: String },
    /// The HTTPS port of nsqd or nsqlookupd.
    Https { address: String },
}

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let Some(now) = observed.now else { return Vec::new() };
    let mut findings = Vec::new();
    let mut seen: Vec<&CertificateInfo> = Vec::new();
    for source in &observed.certificates {
        match &source.found {
            Ok(found) => {
                // one certificate may be in a file, and shown at both ports
                let new = found.iter().enumerate().filter(|(_, info)| !seen.contains(info)).collect::<Vec<_>>();
                let ending =
                    new.iter().filter_map(|(index, info)| ending(source, *index, info, now, &observed.security.flags));
                findings.extend(ending.take(MAX_FINDINGS));
                seen.extend(new.into_iter().map(|(_, info)| info));
            }
            Err(why) => findings.extend(unusable(source, why)),
        }
    }
    let first = seen.iter().map(|info| info.ends).min();
    if let (true, Some(first)) = (findings.is_empty(), first) {
        let message = format!("{}, the first ends {}", count(seen.len() as u64, "certificate"), when(first, now));
        findings.push(Finding::ok(CheckId::Certificate, "certificates", message));
    }
    findings
}

/// Reports a certificate that has ended, or ends soon.
fn ending(
    source: &CertificateSource,
    index: usize,
    info: &CertificateInfo,
    now: SystemTime,
    flags: &str,
) -> Option<Finding> {
    let message = |verb: &str| format!("the certificate {:?} {verb} {}", info.subject, when(info.ends, now));
    let (subject, fix) = (source.place.subject(), source.place.fix(index, flags));
    match info.ends.duration_since(now) {
        Err(_) => Some(Finding::error(CheckId::Certificate, subject, message("ended"), fix)),
        Ok(left) if left < SOON => Some(Finding::warning(CheckId::Certificate, subject, message("ends"), fix)),
        Ok(_) => None,
    }
}

/// Reports a file that a unit names and that has no certificate, and a server that shows none.
fn unusable(source: &CertificateSource, why: &str) -> Option<Finding> {
    let fix = match &source.place {
        CertificatePlace::File { path, .. } => format!("ls -l -- {}", shell(&path.display().to_string())),
        // the finding of the server has the reason
        CertificatePlace::Tcp { .. } | CertificatePlace::Https { .. } => return None,
    };
    let message = format!("has no certificate that can be used: {why}");
    Some(Finding::error(CheckId::Certificate, source.place.subject(), message, fix))
}

/// Formats an end: `2026-12-02 (in 5 days)`, `2021-01-01 (2156 days ago)`.
fn when(ends: SystemTime, now: SystemTime) -> String {
    let date = humantime::format_rfc3339_seconds(ends).to_string();
    let date = date.split('T').next().unwrap_or_default();
    let days = |span: Duration| count(span.as_secs() / DAY, "day");
    match ends.duration_since(now) {
        Ok(left) => format!("{date} (in {})", days(left)),
        Err(past) => format!("{date} ({} ago)", days(past.duration())),
    }
}

impl CertificatePlace {
    fn subject(&self) -> String {
        match self {
            Self::File { path, unit: None } => path.display().to_string(),
            Self::File { path, unit: Some(unit) } => format!("{unit}: {}", path.display()),
            Self::Tcp { address } => format!("nsqd {address}"),
            Self::Https { address } => address.clone(),
        }
    }

    /// Returns the command that shows the end of the certificate, which is the one at this place of
    /// its file or chain; `flags` are doctor's own of TLS and AUTH. Who issues the next one is not
    /// guessed.
    fn fix(&self, index: usize, flags: &str) -> String {
        let then = "renew it; programs read it when they start, and mqueue broker on SIGHUP, too";
        match self {
            Self::File { path, .. } if index == 0 => {
                format!("openssl x509 -noout -enddate -in {}    # {then}", shell(&path.display().to_string()))
            }
            Self::File { path, .. } => {
                let path = shell(&path.display().to_string());
                format!("openssl storeutl -noout -text -certs {path} | grep -E 'Subject:|Not After'    # {then}")
            }
            Self::Https { address } => {
                let address = shell(address.strip_prefix("https://").unwrap_or(address));
                format!(
                    "timeout 10 openssl s_client -connect {address} -showcerts </dev/null 2>/dev/null \
                     | openssl x509 -noout -enddate    # {then}"
                )
            }
            // TLS begins after nsqd's own protocol there, which openssl does not speak
            Self::Tcp { address } => {
                let address = shell(address);
                format!("mqueue doctor --nsqd-tcp-address {address}{flags}    # the file of its --tls-cert: {then}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::finding::Level;
    use super::*;

    const NOW: u64 = 1_800_000_000;

    /// Reports certificates that end this many seconds from now, all at one place.
    fn reported(place: &CertificatePlace, ends: &[i64]) -> Vec<(Level, String, String)> {
        let info = |end: &i64| {
            CertificateInfo::new(
                &format!("CN={end}"),
                UNIX_EPOCH + Duration::from_secs(NOW.saturating_add_signed(*end)),
            )
        };
        let source = || CertificateSource { place: place.clone(), found: Ok(ends.iter().map(info).collect()) };
        let now = Some(UNIX_EPOCH + Duration::from_secs(NOW));
        // the same certificates at two places are one finding each
        let observed = Observed { now, certificates: vec![source(), source()], ..Observed::default() };
        check(&observed).into_iter().map(|f| (f.level, f.message, f.fix.unwrap_or_default())).collect()
    }

    fn file(path: &str) -> CertificatePlace {
        CertificatePlace::File { path: path.into(), unit: None }
    }

    #[test]
    fn certificates_that_end_within_two_weeks_are_reported_once() {
        let day = DAY.cast_signed();
        let levels =
            |ends: &[i64]| reported(&file("/a"), ends).into_iter().map(|(level, ..)| level).collect::<Vec<_>>();
        assert_eq!(levels(&[14 * day]), [Level::Ok]);
        assert_eq!(levels(&[14 * day - 1]), [Level::Warning]);
        assert_eq!(levels(&[0]), [Level::Warning], "its last second");
        assert_eq!(levels(&[-1]), [Level::Error]);
        assert_eq!(levels(&[-1, 30 * day, 3 * day]), [Level::Error, Level::Warning]);
        assert_eq!(levels(&(1..400).collect::<Vec<_>>()).len(), MAX_FINDINGS, "a file of authorities");
        assert_eq!(levels(&[]), []);
    }

    #[test]
    fn a_finding_has_the_subject_the_date_and_a_command_that_shows_it() {
        let day = DAY.cast_signed();
        let path = "/it's $(a).pem";
        let found = reported(&file(path), &[90 * day, 5 * day + 60, -2 * day]);
        assert_eq!(found[0].1, "the certificate \"CN=432060\" ends 2027-01-20 (in 5 days)");
        assert!(found[0].2.starts_with(r"openssl storeutl -noout -text -certs '/it'\''s $(a).pem' | "), "{found:?}");
        assert!(found[1].1.ends_with("ended 2027-01-13 (2 days ago)"), "{found:?}");
        let found = reported(&file(path), &[day]);
        assert!(found[0].1.ends_with("(in 1 day)"), "{found:?}");
        assert!(found[0].2.starts_with(r"openssl x509 -noout -enddate -in '/it'\''s $(a).pem'    # "), "{found:?}");
        let https = CertificatePlace::Https { address: "https://[::1]:4152".to_owned() };
        let found = reported(&https, &[day]);
        assert!(found[0].2.starts_with("timeout 10 openssl s_client -connect '[::1]:4152' "), "{found:?}");
        assert_eq!(https.subject(), "https://[::1]:4152");
    }

    #[test]
    fn subjects_are_data() {
        let info = CertificateInfo::new(&format!("CN=\n\u{1b}[2J{}", "x".repeat(10_000)), UNIX_EPOCH);
        let source = CertificateSource { place: file("/a"), found: Ok(vec![info]) };
        let observed = Observed {
            now: Some(UNIX_EPOCH + Duration::from_secs(NOW)),
            certificates: vec![source],
            ..Observed::default()
        };
        let line = check(&observed)[0].to_string();
        assert!(line.len() < 1_000 && !line.contains(['\n', '\u{1b}']), "{line}");
    }
}
