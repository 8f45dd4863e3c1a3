//! A TCP proxy that keeps the bytes that pass, as somebody on the line sees them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Listens until the test ends.
pub struct Eavesdropper {
    address: String,
    seen: Arc<Mutex<Vec<Direction>>>,
}

/// The bytes so far of one direction of a connection.
type Direction = Arc<Mutex<Vec<u8>>>;

impl Eavesdropper {
    /// In front of `to`.
    pub fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let seen = Arc::new(Mutex::new(Vec::<Direction>::new()));
        let all = seen.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&to) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let direction = Direction::default();
                    all.lock().expect("no panic").push(direction.clone());
                    std::thread::spawn(move || pass_on(from, to, &direction));
                }
            }
        });
        Self { address, seen }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many bytes passed so far.
    pub fn total(&self) -> usize {
        self.sum(Vec::len)
    }

    /// How often these bytes passed so far, in the clear.
    pub fn times_seen(&self, bytes: &[u8]) -> usize {
        self.sum(|seen| seen.windows(bytes.len()).filter(|window| *window == bytes).count())
    }

    fn sum(&self, of: impl Fn(&Vec<u8>) -> usize) -> usize {
        self.seen.lock().expect("no panic").iter().map(|seen| of(&seen.lock().expect("no panic"))).sum()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        seen.lock().expect("no panic").extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
