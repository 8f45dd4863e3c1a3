//! `unix:/PATH`: sends bodies to a Unix socket, one line each; the receiver acknowledges them with
//! `OK`.
//!
//! Each batch has its own connection; its end requests the acknowledgement (see [`crate::net`]). A
//! line that was written and not acknowledged is sent again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::net::LineAck;
use crate::net::connect_unix;
use crate::proto::Message;

use super::{Handler, Verdict};
use crate::io_error::describe;

/// The time that a receiver's full backlog is waited for.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The maximum number of lines per connection.
const MAX_BATCH: usize = 500;

/// Sends bodies to a Unix stream socket.
#[derive(Debug)]
pub struct UnixHandler {
    path: PathBuf,
    answer_within: Duration,
}

impl UnixHandler {
    /// Creates a handler for the socket at `path`; `answer_within` is the time for a batch. Does
    /// not connect yet.
    pub fn new(path: PathBuf, answer_within: Duration) -> Self {
        Self { path, answer_within }
    }

    /// Sends these bodies together. Cancelled, some may have been taken.
    async fn pass_many(&self, bodies: Vec<Bytes>) -> Vec<Verdict> {
        let mut results = Vec::with_capacity(bodies.len());
        let mut lines = Vec::with_capacity(bodies.len());
        for body in bodies {
            let body = without_line_end(body);
            results.push(line_error(&body).map_or(Verdict::Done(None), Verdict::drop));
            if matches!(results.last(), Some(Verdict::Done(_))) {
                lines.push((results.len() - 1, body));
            }
        }
        match self.try_hand_over(&lines).await {
            Ok(answer) if answer.refused == 0 => {
                let settled = answer.settled(lines.len() as u64) as usize;
                for (at, _) in &lines[settled..] {
                    results[*at] = self.stopped();
                }
            }
            // sent alone, each line shows whether it was the refused one
            Ok(_) => {
                for (at, body) in lines {
                    results[at] = self.pass_alone(body).await;
                }
            }
            Err(unavailable) => {
                for (at, _) in lines {
                    results[at] = unavailable.clone();
                }
            }
        }
        results
    }

    async fn pass_alone(&self, body: Bytes) -> Verdict {
        match self.try_hand_over(&[(0, body)]).await {
            Ok(LineAck { refused: 1.., .. }) => Verdict::drop(format!("refused by unix:{}", self.path.display())),
            Ok(answer) if answer.settled(1) == 1 => Verdict::Done(None),
            Ok(_) => self.stopped(),
            Err(unavailable) => unavailable,
        }
    }

    /// Sends lines and reads their acknowledgement; fails with the verdict for all of them.
    async fn try_hand_over(&self, lines: &[(usize, Bytes)]) -> Result<LineAck, Verdict> {
        if lines.is_empty() {
            return Ok(LineAck { taken: None, refused: 0, unfinished: false });
        }
        let connecting = connect_unix(&self.path, CONNECT_TIME.min(self.answer_within)).await;
        let mut stream = connecting.map_err(|error| Verdict::unavailable(self.reason(&describe(&error))))?;
        let handing_over = async {
            let mut text = BytesMut::with_capacity(lines.iter().map(|(_, line)| line.len() + 1).sum());
            for (_, line) in lines {
                text.put_slice(line);
                text.put_u8(b'\n');
            }
            // a receiver that stops reading may still have answered
            let written = stream.write_all(&text).await;
            let ended = stream.shutdown().await;
            LineAck::read(stream).await.map_err(|error| written.and(ended).err().unwrap_or(error))
        };
        let handed_over = timeout(self.answer_within, handing_over).await;
        let handed_over: io::Result<LineAck> = handed_over.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        handed_over.map_err(|error| Verdict::unanswered(self.reason(&describe(&error))))
    }

    fn stopped(&self) -> Verdict {
        Verdict::unanswered(self.reason("it stopped before it had taken all lines"))
    }

    fn reason(&self, why: &str) -> String {
        format!("unix:{}: {why}", self.path.display())
    }
}

/// Removes the line end that most commands write.
fn without_line_end(mut body: Bytes) -> Bytes {
    body.truncate(body.strip_suffix(b"\n").unwrap_or(&body).len());
    body
}

/// Returns the reason why a body cannot be sent as a line.
fn line_error(body: &[u8]) -> Option<&'static str> {
    match memchr::memchr(b'\n', body) {
        _ if body.is_empty() => Some("the body is empty, which is no line for a Unix socket"),
        Some(_) => Some("the body has several lines, and a Unix socket takes one a message"),
        None => None,
    }
}

impl Handler for UnixHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let mut verdicts = self.handle_batch(vec![message]).await;
        verdicts.pop().expect("one verdict a message")
    }

    fn batch_size(&self) -> usize {
        MAX_BATCH
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let bodies = messages.into_iter().map(|message| message.body).collect();
        self.pass_many(bodies).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Returns the verdicts for these bodies, from a peer with these acknowledgements, one per
    /// connection; and the text that the peer read.
    async fn passed(bodies: &[&'static str], answers: &'static [&str]) -> (Vec<Verdict>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = thread::spawn(move || {
            let answered = answers.iter().map(|answer| {
                let (mut stream, mut text) = (listener.accept().unwrap().0, String::new());
                stream.read_to_string(&mut text).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                text
            });
            answered.collect()
        });
        let handler = UnixHandler::new(path, Duration::from_secs(20));
        let results = handler.pass_many(bodies.iter().map(|body| Bytes::from_static(body.as_bytes())).collect()).await;
        (results, peer.join().unwrap())
    }

    fn short(results: &[Verdict]) -> String {
        let letter = |result: &Verdict| match result {
            Verdict::Done(None) => 'd',
            Verdict::Drop { .. } => 'x',
            Verdict::Unanswered { .. } => 'a',
            other => panic!("{other:?}"),
        };
        results.iter().map(letter).collect()
    }

    #[tokio::test]
    async fn only_acknowledged_lines_are_done() {
        let (results, read) = passed(&["one", "", "two\n", "a\nb"], &["OK 2\n"]).await;
        assert_eq!((short(&results).as_str(), read), ("dxdx", vec!["one\ntwo\n".to_owned()]));
        assert_eq!(short(&passed(&["one", "two"], &["OK"]).await.0), "dd");
        assert_eq!(short(&passed(&["one", "two"], &["OK 1"]).await.0), "da");
        assert_eq!(short(&passed(&["one", "two"], &[""]).await.0), "aa");
        let (results, read) = passed(&["one", "two"], &["OK 1 refused 1", "OK 1", "OK 0 refused 1"]).await;
        assert_eq!((short(&results).as_str(), read.len()), ("dx", 3));
    }

    #[tokio::test]
    async fn a_missing_socket_is_unavailable_with_its_path() {
        let handler = UnixHandler::new("/nosuch/peer".into(), Duration::from_secs(1));
        let result = handler.pass_many(vec!["one".into()]).await;
        assert_eq!(result, [Verdict::unavailable("unix:/nosuch/peer: no such file or directory")]);
    }
}
