//! A job as a line of JSON, from `gateway` to `worker`. Its fields and their order are a promise to the scripts that read them.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use mqueue::handler::json_text;
use mqueue::proto::{Message, MessageId};

/// The header that says how often a stream has a line at least, in seconds.
pub(crate) const HEARTBEAT_HEADER: &str = "x-mqueue-heartbeat";

/// A job in the hands of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job<'a> {
    /// What it is answered with.
    pub(crate) token: Cow<'a, str>,
    id: Cow<'a, str>,
    timestamp: i64,
    attempts: u16,
    body: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Cow<'a, str>>,
}

impl<'a> Job<'a> {
    /// The job that this message is.
    pub(crate) fn new(token: String, message: &'a Message) -> Self {
        let (body, encoding) = json_text(&message.body);
        Self {
            token: Cow::Owned(token),
            id: Cow::Owned(message.id.to_string()),
            timestamp: message.timestamp,
            attempts: message.attempts,
            body,
            encoding: encoding.map(Cow::Borrowed),
        }
    }

    /// Adds its line to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("strings and numbers are JSON, and memory takes every write");
        out.push(b'\n');
    }

    /// The message that it was. Fails, with what is wrong, if it is none.
    pub(crate) fn message(&self) -> Result<Message, String> {
        let body = match self.encoding.as_deref() {
            None => Bytes::copy_from_slice(self.body.as_bytes()),
            Some("base64") => STANDARD.decode(self.body.as_bytes()).map_err(|e| format!("its body: {e}"))?.into(),
            Some(other) => return Err(format!("its encoding {other:?} is not known")),
        };
        let id = self.id.as_bytes().try_into().map_err(|_| format!("its id {:?}", self.id))?;
        Ok(Message { timestamp: self.timestamp, attempts: self.attempts, id: MessageId(id), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_reads_back_as_the_message_that_it_was() {
        for body in [&b"a \"b\"\n"[..], b"\xff\x00"] {
            let id = MessageId(*b"0123456789abcdef");
            let message = Message { timestamp: 7, attempts: 2, id, body: Bytes::copy_from_slice(body) };
            let mut line = Vec::new();
            Job::new("t".to_owned(), &message).write(&mut line);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let job: Job<'_> = serde_json::from_slice(&line).unwrap();
            assert_eq!((&*job.token, job.message().unwrap()), ("t", message));
        }
    }
}
