//! `mqueue doctor` and `mqueue wakeup` on brokers with TLS and AUTH: what they see, and the
//! commands that they print.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::support::doctor::{doctor, findings, folder, on, paste, the_one};
use crate::support::{AuthServer, Certificates, Lookupd, Nsqd, mqueue, needs, wait_until};

const SECRET: &str = "open-sesame";

/// A folder whose name a shell would misread.
fn odd_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("it's $(touch pwned) `x`").tempdir().expect("a temporary folder")
}

/// Starts a broker with this server certificate and more flags.
fn with_tls(certificates: &Certificates, server: &str, more: &[&str]) -> Nsqd {
    let mut flags = certificates.flags(server);
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    Nsqd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn nsqds_that_nsqlookupd_lists_are_called_with_tls_and_so_are_printed_commands() {
    needs!("nsqd", "nsqlookupd");
    let (certificates, odd, sockets, lookupd) = (Certificates::new(), odd_folder(), folder(), Lookupd::start());
    let ca = odd.path().join("ca.pem");
    std::fs::copy(certificates.file("ca.pem"), &ca).unwrap();
    let register = format!("--lookupd-tcp-address={}", lookupd.tcp());
    let start = || with_tls(&certificates, "server", &["--tls-required=true", &register]);
    let (here, there) = (start(), start());
    let with_files = |command: &str| mqueue(command).arg("--tls").arg("--tls-ca-file").arg(&ca.display().to_string());
    // before the group exists: a new topic gets the groups that nsqlookupd knows
    for nsqd in [&here, &there] {
        let producer = format!("producer --stream foo --count 2 --interval 0 --nsqd-tcp-address {}", nsqd.tcp());
        let published = with_files(&producer).run();
        assert_eq!(published.code, Some(0), "{published:?}");
    }
    let listed = format!("--lookupd-http-address {}", lookupd.http());
    let examine = || {
        doctor(&sockets, &format!("--json --watch 0 {listed}"))
            .arg("--tls")
            .arg("--tls-ca-file")
            .arg(&ca.display().to_string())
            .run()
    };
    wait_until("both nsqds at nsqlookupd", || {
        let said = examine().stdout;
        said.contains(&here.https()) && said.contains(&there.https())
    });
    let found = findings(&examine());
    assert_eq!(found.len(), 2, "{found:?}");
    let of_here = |fix: &String| fix.contains(&format!("mqueue create --nsqd-http-address={} ", here.https()));
    let fix = found.into_iter().map(|(.., fix)| fix).find(of_here).expect("the stream has no group there");
    assert!(fix.contains("--tls-ca-file="), "{fix}");
    assert_eq!(paste(&fix, "-g\n").code, Some(0), "{fix}");

    // wakeup, for the messages on the other nsqd
    let ears = UnixListener::bind(sockets.path().join("-g.sock")).unwrap();
    ears.set_nonblocking(true).unwrap();
    let wake = || {
        let wakeup = with_files(&format!("wakeup --once {listed}"));
        wakeup.arg("--socket-dir").arg(&sockets.path().display().to_string()).run()
    };
    let said = wake();
    let rest = said.stderr.split_once("where group -g is missing: ").unwrap_or_else(|| panic!("{said:?}")).1;
    let command = rest.split(" creates it").next().unwrap();
    assert!(command.contains("--tls-ca-file=") && command.contains(&there.https()), "{command}");
    assert_eq!(paste(command, "").code, Some(0), "{command}");
    assert!(ears.accept().is_ok(), "it is woken: {said:?}");
    let said = wake();
    assert!(!said.stderr.contains("missing"), "{said:?}");
}

/// Returns the findings of these checks, as level, check and fix.
fn of_checks(found: Vec<(String, String, String)>, checks: &[&str]) -> Vec<(String, String, String)> {
    found.into_iter().filter(|(_, check, _)| checks.contains(&check.as_str())).collect()
}

#[test]
fn certificates_that_end_soon_are_reported_at_each_place() {
    needs!("nsqd");
    let (certificates, odd, sockets) = (Certificates::new(), odd_folder(), folder());
    let nsqd = with_tls(&certificates, "expiring", &["--tls-required=tcp-https"]);
    let by_tcp = format!("--json --watch 0 --nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let ca = certificates.file("ca.pem").display().to_string();
    let finished = doctor(&sockets, &by_tcp).arg("--tls").arg("--tls-ca-file").arg(&ca).run();
    let found = of_checks(findings(&finished), &["certificate", "access", "nsqd"]);
    assert_eq!(found.len(), 1, "{finished:?}");
    assert_eq!((found[0].0.as_str(), found[0].1.as_str()), ("warning", "certificate"));
    assert!(finished.stdout.contains("CN=expiring") && finished.stdout.contains("(in 5 days)"), "{finished:?}");
    let shown = paste(&found[0].2, "");
    assert!(shown.code == Some(3) && shown.stdout.contains("CN=expiring"), "{shown:?} {found:?}");

    // over https, and without the authority that would be needed to trust it
    let by_https = format!("--json --watch 0 --nsqd-http-address {}", nsqd.https());
    let finished = doctor(&sockets, &by_https).arg("--tls").run();
    let found = of_checks(findings(&finished), &["certificate"]);
    assert_eq!(found.len(), 1, "{finished:?}");
    let shown = paste(&found[0].2, "");
    assert!(shown.code == Some(0) && shown.stdout.starts_with("notAfter="), "{shown:?} {found:?}");

    // a file
    let file = odd.path().join("client.pem");
    std::fs::copy(certificates.file("expired.pem"), &file).unwrap();
    let (key, file) = (certificates.file("expired.key").display().to_string(), file.display().to_string());
    let good = with_tls(&certificates, "server", &[]);
    let by_tcp = format!("--json --watch 0 --nsqd-tcp-address {} --nsqd-http-address {}", good.tcp(), good.http());
    let with_file = doctor(&sockets, &by_tcp).arg("--tls").arg("--tls-ca-file").arg(&ca);
    let finished = with_file.arg("--tls-cert-file").arg(&file).arg("--tls-key-file").arg(&key).run();
    let found = of_checks(findings(&finished), &["certificate"]);
    assert_eq!((found.len(), found[0].0.as_str()), (1, "error"), "{finished:?}");
    assert!(finished.stdout.contains("ended 2021-01-01 ("), "{finished:?}");
    let shown = paste(&found[0].2, "");
    assert_eq!((shown.code, shown.stdout.trim()), (Some(0), "notAfter=Jan  1 00:00:00 2021 GMT"), "{found:?}");
}

#[test]
fn secrets_that_others_may_read_and_refused_ones_are_errors_and_never_shown() {
    needs!("nsqd");
    let (server, odd, sockets) = (AuthServer::start(SECRET), odd_folder(), folder());
    let nsqd = Nsqd::with(&[&format!("--auth-http-address={}", server.address())]);
    let secret = odd.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let mode = |mode| std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
    let path = secret.display().to_string();
    let examine = || {
        let finished =
            doctor(&sockets, &format!("--json --watch 0 {}", on(&nsqd))).arg("--auth-secret-file").arg(&path).run();
        assert!(!finished.stdout.contains(SECRET) && !finished.stderr.contains(SECRET), "{finished:?}");
        finished
    };
    mode(0o644);
    let command = the_one(&examine(), "error", "secret-file");
    assert_eq!(paste(&command, "").code, Some(0), "{command}");
    assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let finished = examine();
    assert!(findings(&finished).is_empty() && finished.stdout.contains("with 1 grant"), "{finished:?}");
    // its grants end
    server.grant(r#"{"ttl":60,"authorizations":[]}"#);
    let finished = examine();
    let command = the_one(&finished, "error", "access");
    assert!(finished.stdout.contains("E_UNAUTHORIZED"), "{finished:?}");
    assert_eq!(paste(&command, "").code, Some(0), "{command}");
    // and without a secret
    let finished = doctor(&sockets, &format!("--json --watch 0 {}", on(&nsqd))).run();
    the_one(&finished, "error", "access");
}

#[test]
fn the_files_and_grants_of_units_are_examined_with_the_settings_of_each() {
    needs!("nsqd");
    let (certificates, server, sockets) = (Certificates::new(), AuthServer::start(SECRET), folder());
    let nsqd = with_tls(&certificates, "server", &[&format!("--auth-http-address={}", server.address())]);
    let at = |name: &str| certificates.file(name).display().to_string();
    for (name, secret, mode) in [("good", SECRET, 0o640), ("bad", "wrong-secret", 0o604)] {
        let secret_file = certificates.file(&format!("{name}-secret"));
        std::fs::write(&secret_file, secret).unwrap();
        std::fs::set_permissions(&secret_file, std::fs::Permissions::from_mode(mode)).unwrap();
        let settings = format!(
            "MQUEUE_TLS=true\nMQUEUE_TLS_CA_FILE={}\nMQUEUE_AUTH_SECRET_FILE=\"{}\"\nNSQD_TCP_ADDRESS={}\n",
            at("ca.pem"),
            secret_file.display(),
            nsqd.tcp()
        );
        std::fs::write(certificates.file(&format!("{name}.env")), settings).unwrap();
    }
    // a systemd that knows three services
    let unit = |name: &str| {
        format!(
            "Id=mqueue-consumer@{name}.service\nEnvironmentFiles={} (ignore_errors=yes)\n",
            at(&format!("{name}.env"))
        )
    };
    let broker = format!(
        "Id=nsqd.service\nExecStart={{ path=/n ; argv[]=/n -tls-cert={} ; ignore_errors=no }}\n",
        at("expiring.pem")
    );
    std::fs::write(sockets.path().join("units"), [unit("good"), unit("bad"), broker].join("\n")).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *EnvironmentFiles*) while read -r line; do echo \"$line\"; done <{};; esac\n",
        sockets.path().join("units").display()
    );
    std::fs::write(sockets.path().join("systemctl"), script).unwrap();
    std::fs::set_permissions(sockets.path().join("systemctl"), std::fs::Permissions::from_mode(0o755)).unwrap();

    let secret = certificates.file("good-secret").display().to_string();
    let doctor = doctor(&sockets, &format!("--json --watch 0 {}", on(&nsqd)))
        .arg("--tls")
        .arg("--tls-ca-file")
        .arg(&at("ca.pem"));
    let finished = doctor.arg("--auth-secret-file").arg(&secret).run();
    for text in [SECRET, "wrong-secret"] {
        assert!(!finished.stdout.contains(text) && !finished.stderr.contains(text), "{finished:?}");
    }
    let found = of_checks(findings(&finished), &["certificate", "access", "secret-file"]);
    let levels: Vec<(&str, &str)> = found.iter().map(|(level, check, _)| (level.as_str(), check.as_str())).collect();
    assert_eq!(levels, [("error", "secret-file"), ("error", "access"), ("warning", "certificate")], "{finished:?}");
    assert!(found[0].2.contains("bad-secret") && found[1].2.contains("mqueue-consumer@bad.service"), "{found:?}");
    assert!(finished.stdout.contains("nsqd.service: ") && finished.stdout.contains("E_UNAUTHORIZED"), "{finished:?}");
}

#[test]
fn a_given_socket_that_is_not_there_is_an_error() {
    needs!("nsqd");
    let (nsqd, sockets, odd) = (Nsqd::start(), folder(), odd_folder());
    let gone = odd.path().join("gone.sock").display().to_string();
    let finished = doctor(&sockets, &format!("--json --watch 0 {}", on(&nsqd))).arg("--socket").arg(&gone).run();
    let command = the_one(&finished, "error", "socket");
    assert_eq!(paste(&command, "").code, Some(0), "{command}");
    let ended = mqueue(&format!("wakeup --once {}", on(&nsqd))).arg("--socket").arg(&gone).run();
    assert!(ended.code != Some(0) && ended.stderr.contains("there is no socket "), "{ended:?}");
}
