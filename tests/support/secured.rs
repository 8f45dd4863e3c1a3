//! An NSQ client on a stream with TLS, compression and AUTH, controlled by the test.

use bytes::BytesMut;
use mqueue::net::transport::{Compressed, Compression, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Certificates, Mode, PATIENCE, SECRET, Tls};

/// A stream to a server.
pub type Stream = Transport<TcpStream>;

/// Runs a client to its end.
pub fn block_on<T>(client: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(client)
}

/// Connects, and sends nothing.
pub async fn connect_plain(address: &str) -> Stream {
    Stream::Plain(TcpStream::connect(address).await.expect("it listens"))
}

/// Connects in a mode, with IDENTIFY and AUTH.
pub async fn connect(address: &str, mode: Mode, certificates: &Certificates) -> Stream {
    let mut stream = connect_plain(address).await;
    send(&mut stream, b"  V2").await;
    let mut wishes = serde_json::json!({ "feature_negotiation": true, "tls_v1": mode.tls != Tls::Off });
    match mode.compression {
        Some(Compression::Deflate(level)) => {
            wishes["deflate"] = true.into();
            wishes["deflate_level"] = level.into();
        }
        Some(Compression::Snappy) => wishes["snappy"] = true.into(),
        None => {}
    }
    send(&mut stream, &sized("IDENTIFY", wishes.to_string().as_bytes())).await;
    let granted = frame(&mut stream).await.expect("a reply");
    assert!(granted.starts_with("0 {"), "{granted}");
    if mode.tls != Tls::Off {
        let Stream::Plain(socket) = stream else { unreachable!("it was just made") };
        let tls = certificates.client(mode.tls == Tls::Mutual).connect("127.0.0.1", socket).await.expect("TLS");
        stream = Stream::Tls(Box::new(tls.into()));
        assert_eq!(frame(&mut stream).await.as_deref(), Some("0 OK"));
    }
    if let Some(compression) = mode.compression {
        stream = Stream::Compressed(Box::new(Compressed::new(stream, compression, BytesMut::new())));
        assert_eq!(frame(&mut stream).await.as_deref(), Some("0 OK"));
    }
    if mode.auth {
        send(&mut stream, &sized("AUTH", SECRET.as_bytes())).await;
        let granted = frame(&mut stream).await.expect("a reply");
        assert!(granted.starts_with("0 {"), "{granted}");
    }
    stream
}

/// A command with a body that its size precedes.
pub fn sized(line: &str, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).expect("a short body").to_be_bytes();
    [line.as_bytes(), b"\n", &size, body].concat()
}

/// Sends bytes. A server that refused what came before may have closed already.
pub async fn send(stream: &mut Stream, bytes: &[u8]) {
    if stream.write_all(bytes).await.is_ok() {
        let _ = stream.flush().await;
    }
}

/// Reads the next frame as text; `None` at the end of the connection.
pub async fn frame(stream: &mut Stream) -> Option<String> {
    let reading = async {
        let (size, kind) = (stream.read_u32().await.ok()?, stream.read_u32().await.ok()?);
        let mut body = vec![0; size as usize - 4];
        stream.read_exact(&mut body).await.expect("a whole frame");
        Some(format!("{kind} {}", String::from_utf8_lossy(&body)))
    };
    timeout(PATIENCE / 3, reading).await.expect("the server neither answers nor closes")
}

/// Sends a script at once, closes the sending side, and records every frame until the server
/// closes.
pub async fn play(stream: &mut Stream, script: &[u8]) -> String {
    send(stream, script).await;
    let _ = stream.shutdown().await;
    let mut frames = Vec::new();
    while let Some(frame) = frame(stream).await {
        frames.push(frame);
    }
    frames.push("closed".to_owned());
    frames.join(" | ")
}
