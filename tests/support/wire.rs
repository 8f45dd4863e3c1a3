//! A TCP proxy between two programs that can be cut without either noticing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// Forwards TCP connections to an address until it is cut.
pub struct Wire {
    address: String,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    is_cut: Mutex<bool>,
    mended: Condvar,
}

impl Gate {
    fn wait(&self) {
        let cut = self.is_cut.lock().expect("no holder panics");
        drop(self.mended.wait_while(cut, |cut| *cut).expect("no holder panics"));
    }
}

impl Wire {
    /// Forwards to `target` from a port of the system's choice.
    pub fn to(target: String) -> Self {
        Self::from("127.0.0.1", target)
    }

    /// Forwards to `target` from a port of the system's choice on this address.
    pub fn from(near: &str, target: String) -> Self {
        let listener = TcpListener::bind((near, 0)).expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let gate = Arc::new(Gate::default());
        let shared = gate.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                shared.wait();
                let Ok(far) = TcpStream::connect(&target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let ends = from.try_clone().and_then(|from| Ok((from, to.try_clone()?)));
                    let Ok((from, to)) = ends else { continue };
                    let gate = shared.clone();
                    std::thread::spawn(move || carry(from, to, &gate));
                }
            }
        });
        Self { address, gate }
    }

    /// Returns the near end: `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Stops forwarding in both directions, the ends of connections included.
    pub fn cut(&self) {
        *self.gate.is_cut.lock().expect("no holder panics") = true;
    }

    /// Forwards again, first the data that has gathered.
    pub fn mend(&self) {
        *self.gate.is_cut.lock().expect("no holder panics") = false;
        self.gate.mended.notify_all();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes);
        gate.wait();
        match read {
            Ok(count @ 1..) if to.write_all(&bytes[..count]).is_ok() => {}
            Ok(_) | Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
