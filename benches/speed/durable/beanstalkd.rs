//! beanstalkd with its write-ahead log, by a bare socket with commands in pipelines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::Entry;
use crate::support::{peer, wait_until};

/// A server with a folder of its own.
pub struct Beanstalkd {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Beanstalkd {
    /// Returns an entry; `None` if beanstalkd is missing.
    pub fn entry(name: &'static str, sync: &'static str, measure: fn(&Self) -> f64) -> Option<Entry> {
        peer("beanstalkd")?;
        Some((name, Box::new(move || measure(&Self::start(sync)))))
    }

    fn start(sync: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(peer("beanstalkd").expect("it was found"));
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), sync, "-b"]).arg(folder.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("beanstalkd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, _folder: folder }
    }

    fn client(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        BufReader::with_capacity(1 << 18, stream)
    }

    /// The rate of put, with `depth` under way.
    pub fn put(&self, depth: usize, count: usize) -> f64 {
        let mut client = self.client();
        let puts = [&b"put 1 0 60 200\r\n"[..], &[b'x'; 200], b"\r\n"].concat().repeat(depth);
        let begun = Instant::now();
        for _ in 0..count / depth {
            client.get_mut().write_all(&puts).unwrap();
            for _ in 0..depth {
                answer(&mut client, "INSERTED ");
            }
        }
        count as f64 / begun.elapsed().as_secs_f64()
    }

    /// The rate of reserve and delete, with `depth` under way.
    pub fn delete(&self, depth: usize, count: usize) -> f64 {
        let mut client = self.client();
        let reserves = b"reserve\r\n".repeat(depth);
        let mut body = [0; 202];
        let begun = Instant::now();
        for _ in 0..count / depth {
            client.get_mut().write_all(&reserves).unwrap();
            let mut deletes = Vec::new();
            for _ in 0..depth {
                let words = answer(&mut client, "RESERVED ");
                client.read_exact(&mut body).unwrap();
                write!(deletes, "delete {}\r\n", words.split(' ').next().unwrap()).unwrap();
            }
            client.get_mut().write_all(&deletes).unwrap();
            for _ in 0..depth {
                answer(&mut client, "DELETED");
            }
        }
        count as f64 / begun.elapsed().as_secs_f64()
    }
}

impl Drop for Beanstalkd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a line that begins with `word`, and returns the rest.
fn answer(client: &mut BufReader<TcpStream>, word: &str) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line.strip_prefix(word).unwrap_or_else(|| panic!("beanstalkd said {line:?}")).trim_end().to_owned()
}
