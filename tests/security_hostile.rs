//! Malicious and broken peers of TLS, compression and AUTH, on both sides: deadlines, one clear
//! line, bounded memory, and others are served.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use flate2::write::DeflateEncoder;
use mqueue::client::{Address, AuthSecret, ConnectConfig, Security, identify};
use mqueue::net::transport::Compression;
use tempfile::TempDir;

use crate::support::fake_nsqd::{FakeNsqd, encoded, ok};
use crate::support::secured::{block_on, connect, frame, send, sized};
use crate::support::{Certificates, Mode, Mqueue, Nsqd, PATIENCE, SECRET, Tls, get, mqueue, needs, wait_until};

const MEGABYTE: usize = 1 << 20;
const SNAPPY: Mode = Mode { compression: Some(Compression::Snappy), ..Mode::PLAIN };
const DEFLATE: Mode = Mode { compression: Some(Compression::Deflate(6)), ..Mode::PLAIN };

/// Starts a broker whose log and memory the test looks at; returns its TCP address, too.
fn broker(flags: &[String]) -> (Mqueue, String, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = format!("--data-path={}", folder.path().display());
    let mut args = vec!["broker", "--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0", &path];
    args.extend(flags.iter().map(String::as_str));
    let broker = Mqueue::new(&args).start();
    let address = broker.listens("TCP");
    (broker, address, folder)
}

/// Connects on a bare socket, and has IDENTIFY with these wishes answered.
fn identified(address: &str, wishes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    let wishes = format!(r#"{{"feature_negotiation":true,{wishes}}}"#);
    stream.write_all(&[b"  V2", &sized("IDENTIFY", wishes.as_bytes())[..]].concat()).expect("it reads");
    let mut size = [0; 4];
    stream.read_exact(&mut size).expect("an answer");
    stream.read_exact(&mut vec![0; u32::from_be_bytes(size) as usize]).expect("an answer");
    stream
}

/// Bytes up to the end of the connection.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is closed");
    }
    rest
}

/// A ClientHello of TLS 1.2 or before. Its only extension, without which rustls looks no further,
/// are the signature algorithms: ecdsa_secp256r1_sha256.
fn client_hello(version: u16, suite: u16) -> Vec<u8> {
    let mut hello = version.to_be_bytes().to_vec();
    hello.extend([7; 32]);
    hello.extend([0, 0, 2]);
    hello.extend(suite.to_be_bytes());
    hello.extend([1, 0]);
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let length = hello.len() as u8;
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat()
}

const ECDHE_ECDSA_AES_128_GCM: u16 = 0xc02b;

#[test]
fn unknown_ciphers_and_old_versions_are_refused_with_an_alert() {
    needs!("nsqd");
    let certificates = Certificates::new();
    // the alert's codes are handshake_failure and protocol_version
    for (min_version, version, suite, code) in [
        ("tls1.2", 0x0303, 0x1399, 40),
        ("tls1.2", 0x0302, ECDHE_ECDSA_AES_128_GCM, 70),
        ("tls1.3", 0x0303, ECDHE_ECDSA_AES_128_GCM, 70),
    ] {
        let mut flags = certificates.flags("server");
        flags.push(format!("--tls-min-version={min_version}"));
        let nsqd = Nsqd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        let mut stream = identified(&nsqd.tcp(), r#""tls_v1":true"#);
        stream.write_all(&client_hello(version, suite)).unwrap();
        let alert = rest(&mut stream);
        assert_eq!((alert[0], &alert[3..7]), (21, &[0, 2, 2, code][..]), "{min_version}, {version:x}, {suite:x}");
        assert_eq!(get(&nsqd.http(), "/ping"), "OK");
    }
}

#[test]
fn handshakes_that_stop_half_way_end_after_their_time_and_others_are_served() {
    let certificates = Certificates::new();
    let (broker, address, _folder) = broker(&certificates.flags("server"));
    let hello = client_hello(0x0303, ECDHE_ECDSA_AES_128_GCM);
    let half = &hello[..hello.len() / 2];
    let before = broker.rss();
    let mut stopped: Vec<_> = (0..40).map(|_| identified(&address, r#""tls_v1":true"#)).collect();
    stopped.iter_mut().step_by(2).for_each(|stream| stream.write_all(half).unwrap());
    // one that leaves
    let mut leaves = identified(&address, r#""tls_v1":true"#);
    leaves.write_all(half).unwrap();
    drop(leaves);
    broker.wait_to_say("the connection was closed during the TLS handshake");
    block_on(connect(&address, Mode { tls: Tls::On, ..Mode::PLAIN }, &certificates));
    assert_eq!(broker.times_said("TLS handshake failed"), 1, "the others have their time");
    for stream in &mut stopped {
        assert!(rest(stream).is_empty());
    }
    wait_until("a line for each", || broker.times_said("TLS handshake failed") == 41);
    assert!(broker.rss() < before + 8 * 1024, "{} KiB, then {} KiB", before, broker.rss());
}

#[test]
fn a_server_that_stops_within_its_handshake_is_one_clear_line() {
    let certificates = Certificates::new();
    let server_hello = [&[22, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3][..], &[7; 20]].concat();
    let reply = r#"{"max_rdy_count":2500,"max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":true}"#;
    for (bytes, stays, expected) in [
        (&server_hello[..], true, "nsqd at ADDRESS did not answer for 1 s"),
        (&server_hello[..], false, "no TLS with nsqd at ADDRESS: the connection was closed during the TLS handshake"),
        (b"E_INVALID, and so on", true, "no TLS with nsqd at ADDRESS: it does not speak TLS here"),
    ] {
        let fake = FakeNsqd::start();
        let address = fake.tcp();
        let mut config = ConnectConfig::default().with_connect_timeout(Duration::from_secs(1));
        config.security = Security::default().with_tls(certificates.client(false));
        let error = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let address: Address = address.parse().unwrap();
                block_on(identify(&address, &config)).expect_err("no handshake").to_string()
            });
            let mut peer = fake.accept();
            peer.grants(reply);
            peer.wait_for_bytes();
            peer.send_raw(bytes);
            let kept = stays.then_some(peer);
            let error = connecting.join().unwrap();
            drop(kept);
            error
        });
        assert_eq!(error.replace(&address, "ADDRESS"), expected);
    }
}

#[test]
fn upgrades_are_negotiated_once() {
    let certificates = Certificates::new();
    let (_broker, address, _folder) = broker(&certificates.flags("server"));
    let tls = Mode { tls: Tls::On, ..Mode::PLAIN };
    for (mode, wishes) in [
        (tls, r#""tls_v1":true"#),
        (tls, r#""snappy":true"#),
        (SNAPPY, r#""snappy":true"#),
        (DEFLATE, r#""tls_v1":true"#),
    ] {
        let wishes = format!(r#"{{"feature_negotiation":true,{wishes}}}"#);
        block_on(async {
            let mut stream = connect(&address, mode, &certificates).await;
            send(&mut stream, &sized("IDENTIFY", wishes.as_bytes())).await;
            let refused = "1 E_IDENTIFY_FAILED IDENTIFY failed: TLS and compression are negotiated once";
            assert_eq!(frame(&mut stream).await.as_deref(), Some(refused), "{mode:?}, {wishes}");
            assert_eq!(frame(&mut stream).await, None);
        });
    }
}

#[test]
fn a_slow_auth_server_delays_only_its_client_and_not_for_longer_than_its_time() {
    needs!("nsqd");
    let listen = || {
        let slow = TcpListener::bind("127.0.0.1:0").unwrap();
        let flag = format!("--auth-http-address={}", slow.local_addr().unwrap());
        (slow, flag)
    };
    let asks = |address: String| {
        std::thread::spawn(move || {
            let security = Security::default().with_auth_secret(AuthSecret::new(SECRET));
            let config = ConnectConfig::default().with_connect_timeout(PATIENCE).with_security(security);
            block_on(identify(&address.parse().unwrap(), &config)).expect_err("no grants").to_string()
        })
    };
    let (slow, auth) = listen();
    let nsqd = Nsqd::with(&[&auth, "--http-client-request-timeout=60s"]);
    let asking = asks(nsqd.tcp());
    let (request, _) = slow.accept().unwrap();
    // the other clients
    identified(&nsqd.tcp(), r#""client_id":"x""#);
    nsqd.publish("foo", b"x");
    assert!(!asking.is_finished());
    drop((request, slow));
    let said = asking.join().unwrap();
    assert!(said.contains("E_AUTH_FAILED"), "{said}");
    let (_slow, auth) = listen();
    let nsqd = Nsqd::with(&[&auth, "--http-client-request-timeout=100ms"]);
    let said = asks(nsqd.tcp()).join().unwrap();
    assert!(said.contains("E_AUTH_FAILED"), "{said}");
}

#[test]
fn bombs_and_damaged_chunks_end_a_client_without_growth_or_loss() {
    let (broker, address, _folder) = broker(&[]);
    let certificates = Certificates::new();
    let publish = sized("PUB foo", b"kept");
    for mode in [DEFLATE, SNAPPY] {
        block_on(async {
            let mut stream = connect(&address, mode, &certificates).await;
            send(&mut stream, &publish).await;
            assert_eq!(frame(&mut stream).await.as_deref(), Some("0 OK"));
        });
    }
    let before = broker.peak();
    // commands that compress well: all are executed
    let blank = sized("IDENTIFY", &[b"{}", &b" ".repeat(MEGABYTE)[..]].concat());
    for mode in [DEFLATE, SNAPPY] {
        block_on(async {
            let mut stream = connect(&address, mode, &certificates).await;
            for _ in 0..12 {
                send(&mut stream, &blank).await;
                assert_eq!(frame(&mut stream).await.as_deref(), Some("0 OK"));
            }
            // no command at all
            let zeros = vec![0; 12 * MEGABYTE];
            send(&mut stream, &zeros).await;
            assert_eq!(frame(&mut stream).await, None, "{mode:?}");
        });
    }
    let damaged: [(&str, &[u8]); 3] = [
        ("snappy", b"\xff\x06\0\0sNaPpY\x01\x08\0\0\x01\x02\x03\x04NOP\n"), // a wrong checksum
        ("snappy", b"\xff\x06\0\0sNaPpY\x01\xff\xff\xff"),                  // a chunk of 16 MiB
        ("deflate", &[0xff; 64]),
    ];
    let lines = || broker.times_said("connection closed: its bytes cannot be read");
    for (compression, bytes) in damaged {
        let said = lines();
        for _ in 0..10 {
            let mut stream = identified(&address, &format!(r#""{compression}":true"#));
            stream.write_all(bytes).unwrap();
            rest(&mut stream);
        }
        wait_until("a line for each", || lines() == said + 10);
    }
    assert!(broker.peak() < before + 8 * 1024, "{before} KiB, then {} KiB", broker.peak());
    let consumed = mqueue(&format!(
        "consumer --stream foo --group 1 --output body --count 2 --snappy --nsqd-tcp-address {address}"
    ));
    assert_eq!(consumed.run().stdout, "kept\nkept\n");
}

#[test]
fn an_nsqd_that_sends_a_bomb_cannot_make_a_consumer_grow() {
    let fake = FakeNsqd::start();
    let consumer =
        mqueue(&format!("consumer --stream foo --group 1 --deflate --nsqd-tcp-address {}", fake.tcp())).start();
    let mut peer = fake.accept();
    peer.grants(
        r#"{"max_rdy_count":2500,"max_msg_timeout":900000,"msg_timeout":60000,"deflate":true,"deflate_level":6}"#,
    );
    let before = consumer.peak();
    let mut bomb = DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    // the OKs of the upgrade and of SUB, and heartbeats without end
    bomb.write_all(&encoded([ok(), ok()])).unwrap();
    let heartbeats = b"\0\0\0\x0f\0\0\0\0_heartbeat_".repeat(10_000);
    (0..20).for_each(|_| bomb.write_all(&heartbeats).unwrap());
    // no frame at all
    bomb.write_all(&[0xff; 1000]).unwrap();
    peer.send_raw(&bomb.finish().unwrap());
    consumer.wait_to_say("connection lost");
    assert!(consumer.peak() < before + 8 * 1024, "{before} KiB, then {} KiB", consumer.peak());
    assert_eq!(consumer.times_said("connection lost"), 1, "{}", consumer.stderr());
}
