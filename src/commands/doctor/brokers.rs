//! Checks of brokers: reachability, version, health, and clock.

use std::time::Duration;

use super::finding::{CheckId, Finding};
use super::observed::{
    ClockSkew, LookupdEntry, NsqdReport, Observed, ProbedHttp, ProbedLookupd, ProbedTcp, TcpFailure,
};
use super::{log, secrets};
use mqueue::client::Address;
use mqueue::plural::count;
use mqueue::wake::shell_commands::{ApiCommands, shell};

/// The minimum clock skew to report, beyond the fraction of a second and the round trip.
const MIN_SKEW: Duration = Duration::from_secs(2);
/// The oldest version that mqueue is tested with.
const OLDEST_VERSION: (u64, u64) = (1, 2);

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let lookupds = observed.lookupds.iter().flat_map(|seen| lookupd(observed.commands(), seen));
    let http = observed.http.iter().flat_map(|seen| http(seen, observed));
    lookupds.chain(http).chain(observed.tcp.iter().flat_map(|seen| tcp(seen, observed))).collect()
}

fn lookupd(commands: &ApiCommands, seen: &ProbedLookupd) -> Vec<Finding> {
    let subject = format!("nsqlookupd {}", seen.address);
    let version = match &seen.answer {
        Ok(version) => version,
        Err(why) => {
            let fix = find_listener("nsqlookupd", &seen.address);
            return vec![Finding::error(
                CheckId::Nsqlookupd,
                subject,
                format!("does not answer over HTTP: {why}"),
                fix,
            )];
        }
    };
    match old_version(commands, "nsqlookupd", &seen.address, &subject, version) {
        Some(finding) => vec![finding],
        None if seen.nsqds == 0 => {
            let message = "lists no nsqd: clients find no stream through it";
            let tcp = seen.address.parse().map(|http| format!("={}", neighbour_port(&http, -1))).unwrap_or_default();
            let fix =
                list_nodes(commands, &seen.address, &format!("start the nsqds again with --lookupd-tcp-address{tcp}"));
            vec![Finding::warning(CheckId::Nsqlookupd, subject, message, fix)]
        }
        None => {
            vec![Finding::ok(CheckId::Nsqlookupd, subject, format!("{version}, {}", count(seen.nsqds as u64, "nsqd")))]
        }
    }
}

fn http(seen: &ProbedHttp, observed: &Observed) -> Vec<Finding> {
    let subject = format!("nsqd {}", seen.address);
    let answer = match &seen.answer {
        Ok(answer) => answer,
        Err(why) => {
            let (message, fix) = unreachable(observed.commands(), "HTTP", &seen.address, seen.listed.as_ref(), why);
            return vec![Finding::error(CheckId::Nsqd, subject, message, fix)];
        }
    };
    let mut findings = Vec::new();
    findings.extend(old_version(observed.commands(), "nsqd", &seen.address, &subject, &answer.version));
    if answer.stats.health != "OK" {
        let message = format!("is not healthy: {}", answer.stats.health);
        let fix = match answer.stats.index_bytes {
            Some(_) => {
                format!(
                    "{}    # whose messages are these? Their consumers free space; or add space to its --data-path",
                    observed.commands().list(&seen.address, None)
                )
            }
            None => "df -h    # then give its --data-path space or permissions".to_owned(),
        };
        findings.push(Finding::error(CheckId::Health, &subject, message, fix));
    }
    findings.extend(skewed(&subject, answer.skew));
    // a silent TCP port gets its own finding
    let stopped_though_wanted = |tcp: &ProbedTcp| Some(&tcp.address) == answer.tcp.as_ref() && tcp.answer.is_err();
    if findings.is_empty() && !observed.tcp.iter().any(stopped_though_wanted) {
        findings.push(Finding::ok(CheckId::Nsqd, &subject, in_order(answer)));
    }
    findings.extend(log::check(observed.commands(), &subject, &seen.address, &answer.stats));
    findings
}

fn in_order(answer: &NsqdReport) -> String {
    let tcp = answer.tcp.as_ref().map(|tcp| format!(", TCP {tcp}")).unwrap_or_default();
    let clock = match answer.skew {
        ClockSkew::Unknown => "clock unknown",
        ClockSkew::None | ClockSkew::Ahead(_) | ClockSkew::Behind(_) => "clock in sync",
    };
    format!("{}{tcp}, {clock}", answer.version)
}

fn tcp(seen: &ProbedTcp, observed: &Observed) -> Vec<Finding> {
    let subject = format!("nsqd {}", seen.address);
    match &seen.answer {
        Err(TcpFailure { why, is_refusal: true }) => vec![secrets::refused(subject, why)],
        Err(TcpFailure { why, .. }) => {
            let (message, fix) =
                unreachable(observed.commands(), "TCP", &seen.address.to_string(), seen.listed.as_ref(), why);
            vec![Finding::error(CheckId::Nsqd, subject, message, fix)]
        }
        // the finding of the HTTP API covers its TCP port
        Ok(_) if observed.answers().any(|(_, answer)| answer.tcp.as_ref() == Some(&seen.address)) => Vec::new(),
        Ok(_) if observed.http.iter().any(|http| http.answer.is_err()) => Vec::new(),
        Ok(_) => {
            let message = "accepts connections, but its queues cannot be checked without its HTTP address";
            let fix = format!("mqueue doctor{}", observed.with_http(&neighbour_port(&seen.address, 1)));
            vec![Finding::warning(CheckId::Nsqd, subject, message, fix)]
        }
    }
}

/// Returns the address `by` ports away: by default HTTP is one port above TCP, in nsqd and
/// nsqlookupd.
fn neighbour_port(address: &Address, by: i16) -> String {
    let text = address.to_string();
    let host = text.rsplit_once(':').map_or("", |(host, _)| host);
    format!("{host}:{}", address.port().saturating_add_signed(by))
}

fn old_version(commands: &ApiCommands, program: &str, address: &str, subject: &str, version: &str) -> Option<Finding> {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().ok());
    let number = numbers.next().flatten().zip(numbers.next().flatten());
    let (message, then) = match number {
        Some(number) if number >= OLDEST_VERSION => return None,
        Some(_) => {
            let then = format!("install {program} 1.3.0, and start that on the same data");
            (format!("its version {version} is older than {}.{}", OLDEST_VERSION.0, OLDEST_VERSION.1), then)
        }
        None => {
            (format!("its version {version:?} is unknown: is it {program}?"), format!("name the address of {program}"))
        }
    };
    let fix = format!("{}    # {then}", commands.get(address, "info"));
    Some(Finding::warning(CheckId::Version, subject, message, fix))
}

fn skewed(subject: &str, skew: ClockSkew) -> Option<Finding> {
    let (by, how) = match skew {
        ClockSkew::Unknown | ClockSkew::None => return None,
        ClockSkew::Ahead(by) => (by, "ahead of"),
        ClockSkew::Behind(by) => (by, "behind"),
    };
    let message = format!("its clock is {} s {how} this machine's: ages and deferred messages are off", by.as_secs());
    let fix = "timedatectl    # on both machines: which is not synchronized? There: timedatectl set-ntp true; with chrony: chronyc makestep";
    (by >= MIN_SKEW).then(|| Finding::warning(CheckId::Clock, subject, message, fix))
}

/// Returns message and fix for an address that does not answer.
fn unreachable(
    commands: &ApiCommands,
    protocol: &str,
    address: &str,
    listed: Option<&LookupdEntry>,
    why: &str,
) -> (String, String) {
    match listed {
        _ if why.contains("TLS_REQUIRED") => (
            "answers HTTP with TLS only (--tls-required)".to_owned(),
            "mqueue doctor --help    # name its address with TLS: --nsqd-http-address https://HOST:PORT --tls"
                .to_owned(),
        ),
        Some(LookupdEntry { lookupd, from, answers_there: true }) => (
            format!("nsqlookupd {lookupd} sends clients there, but it answers only at {from}: {why}"),
            list_nodes(
                commands,
                lookupd,
                &format!("start the nsqd again with --broadcast-address={}, and its other flags", shell(from)),
            ),
        ),
        Some(LookupdEntry { lookupd, from, .. }) => (
            format!(
                "nsqlookupd {lookupd} (which it told from {from}) sends clients there, but it does not answer over {protocol}: {why}"
            ),
            find_listener("nsqd", address),
        ),
        None => (format!("does not answer over {protocol}: {why}"), find_listener("nsqd", address)),
    }
}

/// Returns the command that shows the nsqds of an nsqlookupd.
fn list_nodes(commands: &ApiCommands, lookupd: &str, then: &str) -> String {
    format!("{}    # {then}", commands.get(lookupd, "nodes"))
}

/// Returns the command that shows the listener of an address. Only its owner knows the flags of a
/// broker, above all its data path: one started without them would take its place with empty
/// queues.
fn find_listener(program: &str, address: &str) -> String {
    let address = address.strip_prefix("https://").unwrap_or(address);
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let is_here = matches!(host, "localhost" | "[::1]") || host.starts_with("127.");
    let data = if program == "nsqd" { ", on the same --data-path" } else { "" };
    let then = format!("if there is no listener, start {program} again as it was started{data}");
    match is_here {
        true => format!("ss -ltnp {}    # {then}", shell(&format!("sport = :{port}"))),
        false => format!("nc -vz -w 3 {} {}    # {then}", shell(host.trim_matches(['[', ']'])), shell(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use mqueue::proto::stats::Stats;

    fn answer(version: &str, health: &str, skew: ClockSkew) -> NsqdReport {
        let stats = Stats { health: health.to_owned(), ..Stats::default() };
        NsqdReport { version: version.to_owned(), skew, tcp: "127.0.0.1:4150".parse().ok(), stats }
    }

    fn nsqd(
        http: Result<NsqdReport, String>,
        tcp: Result<(), String>,
        listed: Option<LookupdEntry>,
    ) -> Vec<(Level, CheckId, String)> {
        let tcp = ProbedTcp {
            address: "127.0.0.1:4150".parse().unwrap(),
            listed: listed.clone(),
            answer: tcp.map(|()| None).map_err(Into::into),
        };
        let http = ProbedHttp { address: "127.0.0.1:4151".to_owned(), listed, answer: http };
        let findings = check(&Observed { http: vec![http], tcp: vec![tcp], ..Observed::default() });
        findings.into_iter().map(|f| (f.level, f.check, format!("{f}"))).collect()
    }

    #[test]
    fn an_nsqd_in_order_is_one_line() {
        let seen = nsqd(Ok(answer("1.3.0", "OK", ClockSkew::None)), Ok(()), None);
        let line = "ok: nsqd 127.0.0.1:4151: 1.3.0, TCP 127.0.0.1:4150, clock in sync";
        assert_eq!(seen, [(Level::Ok, CheckId::Nsqd, line.to_owned())]);
    }

    #[test]
    fn old_versions_full_disks_and_skewed_clocks_are_reported() {
        let one = |answer| match &nsqd(Ok(answer), Ok(()), None)[..] {
            [(level, check, _)] => (*level, *check),
            other => panic!("{other:?}"),
        };
        for version in ["1.1.0", "0.3.8", "", "nginx"] {
            assert_eq!(one(answer(version, "OK", ClockSkew::None)), (Level::Warning, CheckId::Version), "{version:?}");
        }
        assert_eq!(one(answer("1.2.1-alpha", "OK", ClockSkew::None)), (Level::Ok, CheckId::Nsqd));
        assert_eq!(one(answer("1.3.0", "NOK - no space left", ClockSkew::None)), (Level::Error, CheckId::Health));
        let second = Duration::from_secs(1);
        assert_eq!(one(answer("1.3.0", "OK", ClockSkew::Ahead(2 * second))), (Level::Warning, CheckId::Clock));
        assert_eq!(one(answer("1.3.0", "OK", ClockSkew::Behind(3 * second))), (Level::Warning, CheckId::Clock));
        assert_eq!(one(answer("1.3.0", "OK", ClockSkew::Behind(second))), (Level::Ok, CheckId::Nsqd));
    }

    #[test]
    fn each_silent_port_is_an_error() {
        let refused = || "connection refused".to_owned();
        let seen = nsqd(Err(refused()), Err(refused()), None);
        assert_eq!(seen.iter().map(|(level, ..)| *level).collect::<Vec<_>>(), [Level::Error, Level::Error]);
        assert!(
            seen[0].2.contains("→ ss -ltnp 'sport = :4151'    # if there is no listener, start nsqd again as it"),
            "{seen:?}"
        );
        let seen = nsqd(Ok(answer("1.3.0", "OK", ClockSkew::None)), Err(refused()), None);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].2.starts_with("error: nsqd 127.0.0.1:4150: does not answer over TCP"), "{seen:?}");
    }

    #[test]
    fn wrong_broadcast_addresses_are_reported_with_the_working_one() {
        let listed = LookupdEntry { lookupd: "l:4161".to_owned(), from: "10.0.0.7".to_owned(), answers_there: true };
        let seen = nsqd(Err("no such host".to_owned()), Err("no such host".to_owned()), Some(listed));
        assert!(
            seen[0].2.contains(
                "→ curl -fsS http://l:4161/nodes    # start the nsqd again with --broadcast-address=10.0.0.7"
            ),
            "{seen:?}"
        );
    }

    #[test]
    fn nsqlookupds_must_answer_and_list_an_nsqd() {
        let level = |answer: Result<&str, &str>, nsqds| {
            let answer = answer.map(str::to_owned).map_err(str::to_owned);
            let seen = lookupd(
                &ApiCommands::default(),
                &ProbedLookupd { address: "lookup.example:4161".to_owned(), answer, nsqds },
            );
            (seen[0].level, seen[0].fix.clone().unwrap_or_default())
        };
        assert_eq!(level(Ok("1.3.0"), 1), (Level::Ok, String::new()));
        let (found, fix) = level(Ok("1.3.0"), 0);
        assert_eq!(found, Level::Warning);
        let list_nodes =
            "curl -fsS http://lookup.example:4161/nodes    # start the nsqds again with --lookupd-tcp-address=";
        assert_eq!(fix, format!("{list_nodes}lookup.example:4160"));
        assert_eq!(level(Ok("1.0.0"), 1).0, Level::Warning);
        let (found, fix) = level(Err("refused"), 0);
        assert_eq!((found, &fix[..30]), (Level::Error, "nc -vz -w 3 lookup.example 416"));
    }
}
