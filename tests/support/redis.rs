//! A real redis-server, with everything synced before a reply.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{peer, skip, wait_until};

/// A server with a data folder of its own.
pub struct Redis {
    child: Option<Child>,
    port: u16,
    flags: Vec<String>,
    folder: tempfile::TempDir,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisValue {
    Text(Vec<u8>),
    Number(i64),
    Nothing,
    List(Vec<RedisValue>),
    Error(String),
}

impl Redis {
    /// Starts the server; `None`, and the test is skipped, if there is none.
    pub fn start(flags: &[&str]) -> Option<Self> {
        if peer("redis-server").is_none() {
            skip("redis-server is missing (apt-get install redis-server)");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut redis = Self { child: None, port: 0, flags, folder };
        // another program may take the port first
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            redis.port = free.local_addr().expect("bound").port();
            drop(free);
            if redis.run() {
                return Some(redis);
            }
        }
        panic!("redis-server does not start");
    }

    fn run(&mut self) -> bool {
        let mut child = Command::new(peer("redis-server").expect("it was there"))
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(self.folder.path())
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is a program");
        let mut has_ended = false;
        wait_until("redis-server", || {
            has_ended = child.try_wait().expect("it was started").is_some();
            has_ended || self.is_ready()
        });
        if has_ended {
            return false;
        }
        self.child = Some(child);
        true
    }

    fn is_ready(&self) -> bool {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let reply = RedisClient::of(stream).try_ask(&[b"PING"]);
        reply.is_some_and(|reply| match reply {
            RedisValue::Text(text) => text == b"PONG",
            RedisValue::Error(error) => error.starts_with("NOAUTH"),
            _ => false,
        })
    }

    /// Kills the server, and starts it again.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "its port is free");
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Returns the address of a list.
    pub fn list(&self, key: &str) -> String {
        format!("redis://127.0.0.1:{}/{key}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns a connection.
    pub fn client(&self) -> RedisClient {
        RedisClient::of(TcpStream::connect(("127.0.0.1", self.port)).expect("it runs"))
    }

    /// Runs one command, split at blanks.
    #[track_caller]
    pub fn ask(&self, command: &str) -> RedisValue {
        self.client().ask(&command.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    /// Returns the length of a list.
    #[track_caller]
    pub fn length(&self, key: &str) -> i64 {
        match self.ask(&format!("LLEN {key}")) {
            RedisValue::Number(length) => length,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the entries of a list.
    #[track_caller]
    pub fn entries(&self, key: &str) -> Vec<Vec<u8>> {
        let RedisValue::List(list) = self.ask(&format!("LRANGE {key} 0 -1")) else { panic!("{key} is no list") };
        let text = |value| match value {
            RedisValue::Text(text) => text,
            other => panic!("{other:?}"),
        };
        list.into_iter().map(text).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A connection.
pub struct RedisClient(BufReader<TcpStream>);

impl RedisClient {
    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a valid timeout");
        stream.set_nodelay(true).expect("TCP");
        Self(BufReader::with_capacity(1 << 18, stream))
    }

    /// Runs one command.
    #[track_caller]
    pub fn ask(&mut self, command: &[&[u8]]) -> RedisValue {
        self.try_ask(command).expect("a reply")
    }

    fn try_ask(&mut self, command: &[&[u8]]) -> Option<RedisValue> {
        self.send(&[command]).ok()?;
        self.reply()
    }

    /// Writes commands together.
    pub fn send(&mut self, commands: &[&[&[u8]]]) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len())?;
            for part in *command {
                write!(bytes, "${}\r\n", part.len())?;
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.0.get_mut().write_all(&bytes)
    }

    /// Reads one reply; `None` if the connection has ended.
    pub fn reply(&mut self) -> Option<RedisValue> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).ok().filter(|length| *length > 2)?;
        let text = str::from_utf8(&line[1..line.len() - 2]).ok()?;
        let number = || text.parse::<i64>().ok();
        Some(match line[0] {
            b'+' => RedisValue::Text(text.as_bytes().to_vec()),
            b'-' => RedisValue::Error(text.to_owned()),
            b':' => RedisValue::Number(number()?),
            b'*' => RedisValue::List((0..number()?).map(|_| self.reply()).collect::<Option<_>>()?),
            _ => match usize::try_from(number()?) {
                Err(_) => RedisValue::Nothing,
                Ok(length) => {
                    let mut text = vec![0; length + 2];
                    self.0.read_exact(&mut text).ok()?;
                    text.truncate(length);
                    RedisValue::Text(text)
                }
            },
        })
    }
}
