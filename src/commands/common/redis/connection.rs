//! A connection to Redis: pipelines of commands, each read with a deadline.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::list::RedisList;
use super::resp::{MalformedReply, RedisReply, add_command, take_reply};
use crate::commands::common::exit::{Exit, Failure};
use mqueue::io_error::describe;
use mqueue::net::tls::TlsClient;
use mqueue::proto::HostPort;

/// Time to connect, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Time without a byte in one direction after which the connection is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Nodes of a cluster that are asked for the one that has the list.
const MAX_MOVES: usize = 5;
/// Longest file with user and password.
const MAX_SECRET: u64 = 64 << 10;

/// Failure of Redis.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedisError {
    #[error("cannot connect to Redis at {server}: {}", describe(.error))]
    Unreachable { server: HostPort, error: io::Error },
    #[error("connection to Redis at {server} lost: {}", describe(.error))]
    Lost { server: HostPort, error: io::Error },
    #[error("{server}: {error}")]
    Malformed { server: HostPort, error: MalformedReply },
    #[error("{list}: {remedy} ({reply})")]
    Refused { list: RedisList, reply: String, remedy: &'static str },
}

/// User and password for AUTH.
#[derive(Clone)]
pub(crate) struct RedisSecret {
    user: Option<String>,
    password: String,
}

/// The way to connect.
#[derive(Debug, Clone)]
pub(crate) struct RedisServer {
    pub(crate) list: RedisList,
    pub(crate) tls: Option<TlsClient>,
    pub(crate) secret: Option<RedisSecret>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection.
pub(crate) struct RedisConnection {
    server: HostPort,
    list: RedisList,
    stream: Box<dyn Stream>,
    written: Vec<u8>,
    unanswered: usize,
    read: BytesMut,
}

impl RedisSecret {
    /// Reads a file: one line, `PASSWORD` or `USER PASSWORD`.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let failure = |why: &str| Failure::new(Exit::Usage, format!("cannot use the password in {shown}: {why}"));
        let length = std::fs::metadata(path).map_err(|e| failure(&describe(&e)))?.len();
        if length > MAX_SECRET {
            return Err(failure("it is longer than 64 KiB"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| failure(&describe(&e)))?;
        let words: Vec<&str> = text.trim_end_matches(['\r', '\n']).split(' ').collect();
        match words[..] {
            [password] if !password.is_empty() => Ok(Self { user: None, password: password.to_owned() }),
            [user, password] if !user.is_empty() && !password.is_empty() => {
                Ok(Self { user: Some(user.to_owned()), password: password.to_owned() })
            }
            _ => Err(failure("it needs one line, PASSWORD or USER PASSWORD")),
        }
    }
}

impl std::fmt::Debug for RedisSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisSecret")
    }
}

impl RedisServer {
    /// Makes the way to the server of `list`, with the secret in `secret_file`; `tls` is used if the
    /// address asks for it.
    ///
    /// # Errors
    /// The address has a secret in it, or the file cannot be used.
    pub(crate) fn new(list: &RedisList, secret_file: Option<&Path>, tls: Option<&TlsClient>) -> Result<Self, Failure> {
        if list.has_secret {
            let line = format!(
                "{list}: no user and no password in an address, which others see: put them into a file, and name it with --redis-auth-file"
            );
            return Err(Failure::new(Exit::Usage, line));
        }
        let secret = secret_file.map(RedisSecret::read).transpose()?;
        Ok(Self { list: list.clone(), tls: tls.filter(|_| list.tls).cloned(), secret })
    }

    /// Connects, for the first time.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), with the exit code of the program.
    pub(crate) async fn connect_first(&self) -> Result<RedisConnection, Failure> {
        self.connect().await.map_err(|error| {
            let exit = if matches!(error, RedisError::Unreachable { .. }) { Exit::Unavailable } else { Exit::Failure };
            Failure::new(exit, error)
        })
    }

    /// Connects, authenticates, and finds the node of a cluster that has the list.
    ///
    /// # Errors
    /// Redis is unreachable, refuses the secret, or has something else under the list's name.
    pub(crate) async fn connect(&self) -> Result<RedisConnection, RedisError> {
        let mut server = self.list.server.clone();
        for _ in 0..MAX_MOVES {
            let mut connection = self.connect_to(&server).await?;
            match connection.ask(&[b"TYPE", self.list.key.as_bytes()]).await? {
                RedisReply::Error(error) if error.starts_with("MOVED ") => {
                    let next = error.rsplit(' ').next().and_then(|next| next.parse().ok());
                    server = next.ok_or_else(|| connection.refused(error))?;
                }
                RedisReply::Status(kind) if kind == "list" || kind == "none" => return Ok(connection),
                RedisReply::Status(kind) => {
                    let error = format!("WRONGTYPE it is a {kind}");
                    return Err(connection.refused(error));
                }
                RedisReply::Error(error) => return Err(connection.refused(error)),
                _ => return Err(connection.malformed()),
            }
        }
        let error = format!("MOVED {MAX_MOVES} times");
        Err(RedisError::Refused { list: self.list.clone(), remedy: remedy(&error), reply: error })
    }

    async fn connect_to(&self, server: &HostPort) -> Result<RedisConnection, RedisError> {
        let unreachable = |error| RedisError::Unreachable { server: server.clone(), error };
        let connecting = async {
            let stream = mqueue::net::connect(server.host_to_reach(), server.port(), CONNECT_WITHIN).await?;
            Ok::<Box<dyn Stream>, io::Error>(match &self.tls {
                Some(tls) => Box::new(tls.connect(server.host_to_reach(), stream).await?),
                None => Box::new(stream),
            })
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let stream = timeout(CONNECT_WITHIN, connecting).await.map_err(|_| late()).flatten().map_err(unreachable)?;
        let (server, list) = (server.clone(), self.list.clone());
        let (written, read) = (Vec::new(), BytesMut::new());
        let mut connection = RedisConnection { server, list, stream, written, unanswered: 0, read };
        if let Some(RedisSecret { user, password }) = &self.secret {
            let mut command: Vec<&[u8]> = vec![b"AUTH"];
            command.extend(user.iter().map(String::as_bytes));
            command.push(password.as_bytes());
            connection.ask_ok(&command).await?;
        }
        if self.list.database > 0 {
            connection.ask_ok(&[b"SELECT", self.list.database.to_string().as_bytes()]).await?;
        }
        Ok(connection)
    }
}

impl RedisConnection {
    /// Adds a command to the next pipeline.
    pub(crate) fn add(&mut self, command: &[&[u8]]) {
        add_command(command, &mut self.written);
        self.unanswered += 1;
    }

    /// Sends the pipeline; returns the replies.
    ///
    /// # Errors
    /// The connection is lost. Some of the commands may have been executed.
    pub(crate) async fn run(&mut self) -> Result<Vec<RedisReply>, RedisError> {
        self.write().await?;
        let mut replies = Vec::with_capacity(self.unanswered);
        while self.unanswered > 0 {
            match take_reply(&mut self.read) {
                Ok(Some(reply)) => {
                    replies.push(reply);
                    self.unanswered -= 1;
                }
                Ok(None) => self.read_more().await?,
                Err(_) => return Err(self.malformed()),
            }
        }
        Ok(replies)
    }

    async fn write(&mut self) -> Result<(), RedisError> {
        let mut written = Bytes::from(std::mem::take(&mut self.written));
        while !written.is_empty() {
            let wrote = timeout(SILENCE, self.stream.write(&written)).await.unwrap_or_else(|_| Err(silent()));
            let _ = written.split_to(wrote.map_err(|error| self.lost(error))?);
        }
        timeout(SILENCE, self.stream.flush()).await.unwrap_or_else(|_| Err(silent())).map_err(|e| self.lost(e))
    }

    /// Waits for something that Redis sends unasked, on a connection that subscribes. After `quiet`
    /// without a byte Redis is asked to answer, and after the same time again the connection is lost.
    pub(crate) async fn next_pushed(&mut self, quiet: Duration) -> Result<RedisReply, RedisError> {
        let mut is_asked = false;
        loop {
            match take_reply(&mut self.read) {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(_) => return Err(self.malformed()),
            }
            self.read.reserve(READ_BYTES / 16);
            match timeout(quiet, self.stream.read_buf(&mut self.read)).await {
                Ok(Ok(0)) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(self.lost(error)),
                Err(_) if is_asked => return Err(self.lost(io::ErrorKind::TimedOut.into())),
                Err(_) => {
                    is_asked = true;
                    add_command(&[b"PING"], &mut self.written);
                    self.write().await?;
                }
            }
        }
    }

    async fn read_more(&mut self) -> Result<(), RedisError> {
        // a string of 10 MB is not copied for each piece of it
        self.read.reserve(READ_BYTES.max(self.read.len() / 2));
        let read = timeout(SILENCE, self.stream.read_buf(&mut self.read)).await.unwrap_or_else(|_| Err(silent()));
        match read.map_err(|error| self.lost(error))? {
            0 => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// Runs one command.
    pub(crate) async fn ask(&mut self, command: &[&[u8]]) -> Result<RedisReply, RedisError> {
        self.add(command);
        let mut replies = self.run().await?;
        replies.pop().ok_or_else(|| self.malformed())
    }

    /// Runs one command.
    ///
    /// # Errors
    /// Also if Redis replies with an error.
    pub(crate) async fn ask_for(&mut self, command: &[&[u8]]) -> Result<RedisReply, RedisError> {
        match self.ask(command).await? {
            RedisReply::Error(error) => Err(self.refused(error)),
            reply => Ok(reply),
        }
    }

    /// Adds a script to the next pipeline.
    pub(crate) fn add_script(&mut self, script: &str, keys: &[&str], arguments: &[&[u8]]) {
        let number = keys.len().to_string();
        let mut command: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), number.as_bytes()];
        command.extend(keys.iter().map(|key| key.as_bytes()));
        command.extend(arguments);
        self.add(&command);
    }

    async fn ask_ok(&mut self, command: &[&[u8]]) -> Result<(), RedisError> {
        self.ask_for(command).await.map(drop)
    }

    /// Makes the failure for an error that Redis replied.
    pub(crate) fn refused(&self, reply: String) -> RedisError {
        RedisError::Refused { list: self.list.clone(), remedy: remedy(&reply), reply }
    }

    /// Makes the failure for an error that Redis replied, about another key.
    pub(crate) fn refused_key(&self, key: &str, reply: String) -> RedisError {
        let list = RedisList { key: key.to_owned(), ..self.list.clone() };
        RedisError::Refused { list, remedy: remedy(&reply), reply }
    }

    /// Makes the failure for a reply of the wrong kind.
    pub(crate) fn malformed(&self) -> RedisError {
        RedisError::Malformed { server: self.server.clone(), error: MalformedReply }
    }

    fn lost(&self, error: io::Error) -> RedisError {
        RedisError::Lost { server: self.server.clone(), error }
    }
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConnection").field("server", &self.server).finish_non_exhaustive()
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("silent for {SILENCE:?}"))
}

/// Returns what to do about an error of Redis.
fn remedy(reply: &str) -> &'static str {
    const REMEDIES: [(&str, &str); 9] = [
        ("WRONGTYPE", "this key is no list: name another"),
        ("WRONGPASS", "wrong user or password: see --redis-auth-file"),
        ("NOAUTH", "Redis asks for a password: name a file with --redis-auth-file"),
        (
            "NOPERM",
            "this user lacks a permission: it needs scripts, sets and lists, on this key and on those beside it",
        ),
        ("READONLY", "this is a replica: name the master"),
        ("OOM", "Redis is full (maxmemory): nothing is lost, entries wait until there is room"),
        ("MOVED", "the cluster has not settled: try again"),
        ("CROSSSLOT", "the list's name has no usable {tag} for a cluster: name another"),
        ("LOADING", "Redis is starting"),
    ];
    if reply.contains("unknown command") && reply.contains("TYPE") {
        return "this server has no lists: name Redis itself, not its Sentinel";
    }
    let known = REMEDIES.iter().find(|(code, _)| reply.split_whitespace().any(|word| word.trim_matches(':') == *code));
    known.map_or("Redis refuses this", |(_, remedy)| remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_redis_come_with_a_remedy() {
        for (reply, words) in [
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value script: 77, on @user_script:2.",
                "no list",
            ),
            ("ERR Error running script (call to f_77): @user_script:2: OOM command not allowed", "full"),
            ("READONLY You can't write against a read only replica.", "master"),
            ("ERR unknown command", "refuses"),
            ("ERR unknown command 'TYPE', with args beginning with: 'jobs' ", "not its Sentinel"),
        ] {
            assert!(remedy(reply).contains(words), "{reply}: {}", remedy(reply));
        }
    }

    #[test]
    fn a_secret_is_one_line_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            RedisSecret::read(&path).map(|RedisSecret { user, password }| (user, password))
        };
        assert_eq!(read("pass\n").unwrap(), (None, "pass".to_owned()));
        assert_eq!(read("user pass\r\n").unwrap(), (Some("user".to_owned()), "pass".to_owned()));
        for wrong in ["", "\n", "a b c", " pass", "user "] {
            assert!(read(wrong).is_err_and(|error| !error.line.contains("pass\n")), "{wrong:?}");
        }
    }
}
