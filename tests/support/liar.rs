//! An HTTP server that sends the test's bytes, endless ones too, in answer to every request.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The continuation of an answer after its beginning.
#[derive(Debug, Clone, Copy)]
pub enum Rest {
    /// The answer ends.
    Nothing,
    /// These bytes again and again, as fast as they are read.
    Endless(&'static [u8]),
    /// One byte every 10 ms.
    Drips(u8),
}

/// An HTTP server that answers everything in the same way.
#[derive(Debug)]
pub struct Liar {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl Liar {
    /// Answers with these bytes, head and body, and with what follows them.
    pub fn saying(beginning: String, rest: Rest) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, beginning) = (asked.clone(), Arc::new(beginning));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, beginning) = (count.clone(), beginning.clone());
                thread::spawn(move || lie(stream, &count, &beginning, rest));
            }
        });
        Self { address, asked }
    }

    /// Answers with this body.
    pub fn answering(body: &str) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        Self::saying(head + body, Rest::Nothing)
    }

    /// Returns `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the number of requests.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn lie(mut stream: TcpStream, asked: &AtomicUsize, beginning: &str, rest: Rest) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reading).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    asked.fetch_add(1, Ordering::Relaxed);
    let mut says = |bytes: &[u8]| stream.write_all(bytes).is_ok();
    let mut goes_on = says(beginning.as_bytes());
    while goes_on {
        goes_on = match rest {
            Rest::Nothing => return,
            Rest::Endless(bytes) => says(bytes),
            Rest::Drips(byte) => {
                thread::sleep(Duration::from_millis(10));
                says(&[byte])
            }
        };
    }
}
