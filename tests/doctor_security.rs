//! `mqueue doctor` and `mqueue wakeup` on brokers with TLS and AUTH: what they see, and the commands that they print.

use std::os::unix::net::UnixListener;

use crate::support::doctor::{doctor, findings, folder, paste};
use crate::support::{Certificates, Lookupd, Nsqd, mqueue, needs, wait_until};

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
    let of_here = |fix: &String| fix.contains(&format!("'{}/channel/create", here.https()));
    let fix = found.into_iter().map(|(.., fix)| fix).find(of_here).expect("the stream has no group there");
    assert!(fix.contains(" --cacert '"), "{fix}");
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
    assert!(command.contains(" --cacert '") && command.contains(&there.https()), "{command}");
    assert_eq!(paste(command, "").code, Some(0), "{command}");
    assert!(ears.accept().is_ok(), "it is woken: {said:?}");
    let said = wake();
    assert!(!said.stderr.contains("missing"), "{said:?}");
}
