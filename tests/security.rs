//! TLS, compression and AUTH between the library and nsqd: every combination, and what an
//! eavesdropper sees.

use mqueue::client::{
    Address, AuthSecret, ConnectConfig, Consumer, ConsumerConfig, Error, Publisher, PublisherConfig, Security, identify,
};
use mqueue::net::tls::{ClientAuth, TlsClient, TlsClientSettings, TlsServer, TlsServerSettings, TlsVersion};
use mqueue::net::transport::Compression;
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::support::{
    AuthServer, Certificates, Eavesdropper, Mode, Nsqd, PATIENCE, SECRET, Tls, mqueue, needs, wait_until,
};

/// Part of each body; it compresses well.
const BODY: &str = "a body that nobody on the line may read, again and again and again and again and again";

fn connect_config(security: Security) -> ConnectConfig {
    ConnectConfig::default().with_security(security)
}

/// Publishes and consumes some messages over `line`, some of them longer than a chunk of any
/// compression.
fn publish_and_consume(line: &Eavesdropper, security: Security) {
    let address: Address = line.address().parse().unwrap();
    let topic: mqueue::proto::TopicName = "secured".parse().unwrap();
    Runtime::new().unwrap().block_on(async {
        let bodies: Vec<String> =
            [1, 10, 1_000, 3_000].iter().enumerate().map(|(n, times)| format!("{n} {}", BODY.repeat(*times))).collect();
        let config = PublisherConfig::default().with_connect(connect_config(security.clone()));
        let publisher = Publisher::connect(std::slice::from_ref(&address), config).await.unwrap();
        publisher.publish(&topic, bodies[0].clone()).await.unwrap();
        publisher.publish_many(&topic, bodies[1..].iter().map(|body| body.clone().into()).collect()).await.unwrap();
        publisher.close().await;

        let mut config = ConsumerConfig::new(topic, "ch".parse().unwrap());
        config.nsqd = vec![address];
        config.connect = connect_config(security);
        let mut consumer = Consumer::connect(config).await.unwrap();
        let mut received = Vec::new();
        while received.len() < bodies.len() {
            let delivery = timeout(PATIENCE, consumer.recv()).await.expect("in time").expect("a message");
            received.push(String::from_utf8(delivery.message().body.to_vec()).unwrap());
            delivery.finish();
        }
        consumer.stop();
        assert!(consumer.recv().await.is_none());
        received.sort();
        assert!(received == bodies, "other bodies were received");
    });
}

/// Plays each mode with this TLS.
fn matrix(tls: Tls) {
    let certificates = Certificates::new();
    let of_tls: Vec<_> = Mode::all().into_iter().filter(|mode| mode.tls == tls).collect();
    for modes in of_tls.chunk_by(|a, b| a.auth == b.auth) {
        let server = modes[0].serve(&certificates, Nsqd::with);
        for mode in modes {
            let line = Eavesdropper::start(server.nsqd.tcp());
            publish_and_consume(&line, mode.security(&certificates));
            // the upgrade is seen on the wire: nothing has fallen back
            let clear = line.times_seen(BODY.as_bytes());
            match (tls, mode.compression) {
                (Tls::Off, None) => assert!(clear > 8_000, "{clear} times, {mode:?}"),
                (Tls::Off, Some(_)) => assert!(clear < 10, "{clear} times, {mode:?}"),
                (Tls::On | Tls::Mutual, _) => assert_eq!(clear, 0, "{mode:?}"),
            }
            if mode.compression.is_some() {
                assert!(line.total() < 200_000, "{} bytes, {mode:?}", line.total());
            }
            if tls != Tls::Off {
                assert_eq!(line.times_seen(SECRET.as_bytes()), 0, "{mode:?}");
            }
        }
        let (asked, auth) = (server.asked(), modes[0].auth);
        assert_eq!(!asked.is_empty(), auth);
        let mutual = asked.iter().all(|query| query.contains("common_name=client"));
        assert_eq!(mutual, !auth || tls == Tls::Mutual, "{asked:?}");
    }
}

#[test]
fn messages_pass_without_tls_in_every_compression_and_with_auth() {
    needs!("nsqd");
    matrix(Tls::Off);
}

#[test]
fn messages_pass_over_tls_in_every_compression_and_with_auth() {
    needs!("nsqd");
    matrix(Tls::On);
}

#[test]
fn messages_pass_over_mutual_tls_in_every_compression_and_with_auth() {
    needs!("nsqd");
    matrix(Tls::Mutual);
}

/// The error of connecting with these wishes.
fn refusal(nsqd: &Nsqd, security: Security) -> String {
    let address = nsqd.tcp().parse().unwrap();
    let error: Error =
        Runtime::new().unwrap().block_on(identify(&address, &connect_config(security))).expect_err("it is refused");
    error.to_string().replace(&nsqd.tcp(), "ADDRESS")
}

#[test]
fn refused_wishes_are_errors_that_name_the_flag() {
    needs!("nsqd");
    let certificates = Certificates::new();
    let plain = Nsqd::with(&["--snappy=false", "--deflate=false"]);
    let wish = |compression| Security::default().with_compression(compression);
    assert_eq!(
        refusal(&plain, Security::default().with_tls(certificates.client(false))),
        "nsqd at ADDRESS does not offer TLS: it needs --tls-cert and --tls-key"
    );
    assert_eq!(refusal(&plain, wish(Compression::Snappy)), "nsqd at ADDRESS does not offer snappy (--snappy=false)");
    assert_eq!(
        refusal(&plain, wish(Compression::Deflate(6))),
        "nsqd at ADDRESS does not offer deflate (--deflate=false)"
    );
    assert_eq!(
        refusal(&plain, Security::default().with_auth_secret(AuthSecret::new(SECRET))),
        "nsqd at ADDRESS does not use AUTH (--auth-http-address): leave the secret out"
    );
    let server = AuthServer::start(SECRET);
    let auth = Nsqd::with(&[&format!("--auth-http-address={}", server.address())]);
    assert_eq!(
        refusal(&auth, Security::default()),
        "nsqd at ADDRESS wants AUTH: give its secret with --auth-secret-file"
    );
    let wrong = refusal(&auth, Security::default().with_auth_secret(AuthSecret::new("wrong")));
    assert!(wrong.contains("E_UNAUTHORIZED") && !wrong.contains("wrong"), "{wrong}");
}

#[test]
fn certificates_that_are_not_trusted_are_one_clear_line() {
    needs!("nsqd");
    let certificates = Certificates::new();
    let secured = |server: &str, more: &[&str]| {
        let mut flags = certificates.flags(server);
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        Nsqd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let client = |settings: TlsClientSettings| Security::default().with_tls(TlsClient::new(&settings).unwrap());
    let trusting =
        |ca: &str| TlsClientSettings { ca_file: Some(certificates.file(ca)), ..TlsClientSettings::default() };
    let good = secured("server", &[]);
    assert_eq!(
        refusal(&good, client(trusting("other-ca.pem"))),
        "no TLS with nsqd at ADDRESS: its certificate is from an unknown authority: name that one's file with --tls-ca-file"
    );
    assert_eq!(
        refusal(&secured("expired", &[]), client(trusting("ca.pem"))),
        "no TLS with nsqd at ADDRESS: its certificate has expired"
    );
    let own = secured("own", &[]);
    let runtime = Runtime::new().unwrap();
    let trusted = connect_config(client(trusting("own.pem")));
    runtime.block_on(identify(&own.tcp().parse().unwrap(), &trusted)).expect("it is its own authority");
    let renamed = TlsClientSettings { server_name: Some("elsewhere.example".to_owned()), ..trusting("own.pem") };
    assert!(refusal(&own, client(renamed)).contains("is for another name"));
    let elsewhere = secured("elsewhere", &[]);
    assert_eq!(
        refusal(&elsewhere, client(trusting("ca.pem"))),
        "no TLS with nsqd at ADDRESS: its certificate is for another name: give that one with --tls-server-name"
    );
    let named = TlsClientSettings { server_name: Some("elsewhere.example".to_owned()), ..trusting("ca.pem") };
    let address: Address = elsewhere.tcp().parse().unwrap();
    runtime.block_on(identify(&address, &connect_config(client(named)))).unwrap();
    let anybody = TlsClientSettings { insecure_skip_verify: true, ..TlsClientSettings::default() };
    runtime.block_on(identify(&address, &connect_config(client(anybody)))).unwrap();

    let mutual = secured("server", &["--tls-client-auth-policy=require-verify"]);
    let foreign = TlsClientSettings {
        cert_file: Some(certificates.file("foreign.pem")),
        key_file: Some(certificates.file("foreign.key")),
        ..trusting("ca.pem")
    };
    for (name, settings) in [("none", trusting("ca.pem")), ("foreign", foreign)] {
        let error = refusal(&mutual, client(settings));
        assert!(error.contains("--tls-cert-file"), "{name}: {error}");
    }
}

#[test]
fn a_clients_certificate_may_be_its_own_authority() {
    needs!("nsqd");
    let certificates = Certificates::new();
    for (name, is_taken) in [("own", true), ("own-server", false)] {
        let file = |ending: &str| certificates.file(&format!("{name}.{ending}"));
        let mut flags = certificates.flags("server");
        flags.retain(|flag| !flag.starts_with("--tls-root-ca-file"));
        flags.push(format!("--tls-root-ca-file={}", file("pem").display()));
        flags.push("--tls-client-auth-policy=require-verify".to_owned());
        let nsqd = Nsqd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        let client = |cert: std::path::PathBuf, key: std::path::PathBuf| {
            let settings = TlsClientSettings {
                ca_file: Some(certificates.file("ca.pem")),
                cert_file: Some(cert),
                key_file: Some(key),
                ..TlsClientSettings::default()
            };
            Security::default().with_tls(TlsClient::new(&settings).unwrap())
        };
        let own = connect_config(client(file("pem"), file("key")));
        let granted = Runtime::new().unwrap().block_on(identify(&nsqd.tcp().parse().unwrap(), &own));
        assert_eq!(granted.is_ok(), is_taken, "{name}: {granted:?}");
        let refused = refusal(&nsqd, client(certificates.file("client.pem"), certificates.file("client.key")));
        assert!(refused.contains("--tls-cert-file"), "{name}: {refused}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let certificates = Certificates::new();
    let error = |settings: TlsClientSettings| {
        let text = TlsClient::new(&settings).expect_err("it cannot be used").to_string();
        text.replace(&certificates.path().display().to_string(), "DIR")
    };
    let file = |name: &str| Some(certificates.file(name));
    let default = TlsClientSettings::default;
    assert_eq!(
        error(TlsClientSettings { ca_file: file("none.pem"), ..default() }),
        "cannot read DIR/none.pem: no such file or directory"
    );
    assert_eq!(
        error(TlsClientSettings { ca_file: file("server.key"), ..default() }),
        "no certificate in DIR/server.key: a PEM file is needed"
    );
    assert_eq!(
        error(TlsClientSettings { ca_file: file("ca.pem"), cert_file: file("client.pem"), ..default() }),
        "a certificate needs its key, and a key its certificate: name both files"
    );
    let swapped = TlsClientSettings {
        ca_file: file("ca.pem"),
        cert_file: file("client.pem"),
        key_file: file("server.key"),
        ..default()
    };
    assert!(error(swapped).starts_with("cannot use DIR/client.pem: "));
    assert_eq!(
        error(TlsClientSettings { ca_file: file("ca.pem"), server_name: Some("a b".to_owned()), ..default() }),
        "invalid server name \"a b\": use a host's name or an IP address"
    );
}

#[test]
fn commands_use_tls_compression_and_auth() {
    needs!("nsqd");
    let certificates = Certificates::new();
    let server = AuthServer::start(SECRET);
    let mut flags = certificates.flags("server");
    flags.extend(["--tls-required=true".to_owned(), format!("--auth-http-address={}", server.address())]);
    let nsqd = Nsqd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let line = Eavesdropper::start(nsqd.tcp());
    let secret = certificates.file("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let common = format!(
        "--nsqd-tcp-address {} --tls --tls-ca-file {} --auth-secret-file {}",
        line.address(),
        certificates.file("ca.pem").display(),
        secret.display()
    );
    let lines = certificates.file("lines");
    std::fs::write(&lines, format!("{BODY}\n{BODY}\n")).unwrap();
    let published = mqueue(&format!("producer --stream foo --snappy {common} {}", lines.display())).run();
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    let consumed =
        mqueue(&format!("consumer --stream foo --group 1 --output body --count 2 --deflate 3 {common}")).run();
    assert_eq!(consumed.code, Some(0), "{}", consumed.stderr);
    assert_eq!(consumed.stdout, format!("{BODY}\n{BODY}\n"));
    assert_eq!((line.times_seen(BODY.as_bytes()), line.times_seen(SECRET.as_bytes())), (0, 0));
    for run in [&published, &consumed] {
        assert!(!run.stderr.contains(SECRET), "{}", run.stderr);
    }
    let plain = mqueue(&format!("consumer --stream foo --group 1 --count 1 --nsqd-tcp-address {}", nsqd.tcp())).run();
    assert_ne!(plain.code, Some(0));
    assert!(plain.stderr.contains("--auth-secret-file"), "{}", plain.stderr);
    let missing =
        mqueue(&format!("consumer --stream foo --group 1 --auth-secret-file /nope --nsqd-tcp-address {}", nsqd.tcp()))
            .run();
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
    assert!(missing.stderr.contains("cannot use the AUTH secret in /nope: no such file"), "{}", missing.stderr);
}

/// Starts a broker with TLS, and gives the flags of a client that trusts it.
fn with_tls(certificates: &Certificates, more: &[&str]) -> (Nsqd, String) {
    let mut flags = certificates.flags("server");
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    let nsqd = Nsqd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    (nsqd, format!("--tls --tls-ca-file {}", certificates.file("ca.pem").display()))
}

#[test]
fn the_http_api_is_called_over_https_with_the_same_files() {
    needs!("nsqd");
    let certificates = Certificates::new();
    let (nsqd, tls) = with_tls(&certificates, &["--tls-required=true"]);
    // the TCP address is what /info tells over https
    let producer = |more: &str| mqueue(&format!("producer --stream foo --count 2 --interval 0 {more}")).run();
    let published = producer(&format!("--nsqd-http-address {} {tls}", nsqd.https()));
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    let reported = mqueue(&format!("doctor --json --nsqd-http-address {} {tls}", nsqd.https())).run();
    assert!(reported.stdout.contains("foo"), "{reported:?}");
    // an authority that is not trusted
    let other = format!("--tls --tls-ca-file {}", certificates.file("other-ca.pem").display());
    let refused = producer(&format!("--nsqd-http-address {} {other}", nsqd.https()));
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(69), 1), "{refused:?}");
    assert!(refused.stderr.contains("its certificate is from an unknown authority"), "{refused:?}");
    let plain = mqueue(&format!("doctor --nsqd-http-address {}", nsqd.http())).run();
    assert!(plain.stdout.contains("answers HTTP with TLS only"), "{plain:?}");
    // without TLS the HTTP port tells the one with it
    let answer = crate::support::get(&nsqd.http(), "/ping");
    let port = nsqd.https().rsplit(':').next().unwrap().to_owned();
    assert_eq!(answer, format!("{{\"message\": \"TLS_REQUIRED\", \"https_port\": {port}}}"));
}

#[test]
fn a_pipeline_connects_all_its_parts_with_tls() {
    needs!("nsqd");
    let certificates = Certificates::new();
    let (nsqd, tls) = with_tls(&certificates, &["--tls-required=tcp-https"]);
    let addresses = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let ran = mqueue(&format!("pipeline --count 200 --rate 500 --stages 1 --work 1ms {addresses} {tls}")).run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn statistics_show_tls_compression_and_the_identity() {
    needs!("nsqd");
    let certificates = Certificates::new();
    let server = AuthServer::start(SECRET);
    let auth = format!("--auth-http-address={}", server.address());
    let (nsqd, tls) = with_tls(&certificates, &[&auth]);
    let secret = certificates.file("secret");
    std::fs::write(&secret, SECRET).unwrap();
    nsqd.create("foo", "1");
    let common = format!("--nsqd-tcp-address {} {tls} --auth-secret-file {}", nsqd.tcp(), secret.display());
    let consumer = mqueue(&format!("consumer --stream foo --group 1 --snappy {common}")).start();
    let clients = || nsqd.channel("foo", "1").clients;
    wait_until("the consumer", || clients().len() == 1);
    let client = clients().into_iter().next().unwrap();
    assert!(client.tls && client.snappy && !client.deflate && client.authed, "{client:?}");
    assert_eq!((client.auth_identity.as_str(), client.tls_version.as_str()), ("me", "TLS1.3"));
    drop(consumer);
}

#[test]
fn certificates_are_read_again_on_sighup() {
    let certificates = Certificates::new();
    let (cert, key) = (certificates.file("live.pem"), certificates.file("live.key"));
    let install = |name: &str| {
        std::fs::copy(certificates.file(&format!("{name}.pem")), &cert).unwrap();
        std::fs::copy(certificates.file(&format!("{name}.key")), &key).unwrap();
    };
    install("expired");
    let flags = [format!("--tls-cert={}", cert.display()), format!("--tls-key={}", key.display())];
    let broker = Nsqd::embedded(&[&flags[0], &flags[1], "--https-address=127.0.0.1:0"]);
    let security = || Security::default().with_tls(certificates.client(false));
    assert!(refusal(&broker, security()).contains("has expired"));
    install("server");
    broker.signal(Signal::SIGHUP);
    let address: Address = broker.tcp().parse().unwrap();
    let runtime = Runtime::new().unwrap();
    let connects = || runtime.block_on(identify(&address, &connect_config(security()))).is_ok();
    wait_until("the new certificate", connects);
}

#[test]
fn a_certificate_that_cannot_be_used_leaves_the_one_before() {
    let certificates = Certificates::new();
    let settings = TlsServerSettings {
        cert_file: certificates.file("server.pem"),
        key_file: certificates.file("server.key"),
        client_auth: ClientAuth::None,
        root_ca_file: None,
        min_version: TlsVersion::V1_2,
    };
    let server = TlsServer::new(settings).unwrap();
    std::fs::write(certificates.file("server.pem"), "no certificate").unwrap();
    assert!(server.reload().unwrap_err().to_string().starts_with("no certificate in "));
    let client = certificates.client(false);
    let (near, far) = tokio::io::duplex(16_384);
    let (accepted, connected) =
        Runtime::new().unwrap().block_on(async { tokio::join!(server.accept(far), client.connect("127.0.0.1", near)) });
    assert!(accepted.is_ok() && connected.is_ok());
}

#[test]
fn grants_that_end_are_asked_for_again_and_those_that_are_gone_end_publishing() {
    needs!("nsqd");
    let server = AuthServer::start(SECRET);
    server.grant(r#"{"ttl":1,"authorizations":[{"topic":"^mine$","channels":[".*"],"permissions":["publish"]}]}"#);
    let nsqd = Nsqd::with(&[&format!("--auth-http-address={}", server.address())]);
    let security = Security::default().with_auth_secret(AuthSecret::new(SECRET));
    let address: Address = nsqd.tcp().parse().unwrap();
    Runtime::new().unwrap().block_on(async {
        let config = PublisherConfig::default().with_connect(connect_config(security)).with_timeout(PATIENCE / 30);
        let publisher = Publisher::connect(std::slice::from_ref(&address), config).await.unwrap();
        let (mine, other) = ("mine".parse().unwrap(), "other".parse().unwrap());
        publisher.publish(&mine, "1").await.unwrap();
        let refused = publisher.publish(&other, "2").await.unwrap_err().to_string();
        assert!(refused.contains("E_UNAUTHORIZED"), "{refused}");
        let asked = server.asked().len();
        let renewed = async {
            while server.asked().len() == asked {
                publisher.publish(&mine, "3").await.unwrap();
            }
        };
        timeout(PATIENCE, renewed).await.expect("the grants are asked for again");
        server.grant(r#"{"ttl":1,"authorizations":[]}"#);
        let ended = async { while publisher.publish(&mine, "4").await.is_ok() {} };
        timeout(PATIENCE, ended).await.expect("publishing ends with its grants");
    });
}

#[test]
fn an_auth_server_that_is_away_lies_or_never_ends_refuses_the_client() {
    needs!("nsqd");
    let lies = [
        r#"{"ttl":0,"authorizations":[]}"#,
        r#"{"ttl":60,"authorizations":[{"topic":"(","channels":[".*"],"permissions":["publish"]}]}"#,
        r#"{"ttl":60,"authorizations":[{"topic":".*","channels":[".*"],"permissions":["everything"]}]}"#,
        "[]",
    ];
    let server = AuthServer::start(SECRET);
    let nsqd = Nsqd::with(&[&format!("--auth-http-address={}", server.address())]);
    let security = || Security::default().with_auth_secret(AuthSecret::new(SECRET));
    for lie in lies {
        server.grant(lie);
        let said = refusal(&nsqd, security());
        assert!(said.contains("E_AUTH_FAILED"), "{lie}: {said}");
    }
    let away = Nsqd::with(&["--auth-http-address=127.0.0.1:1"]);
    assert!(refusal(&away, security()).contains("E_AUTH_FAILED"));
}
