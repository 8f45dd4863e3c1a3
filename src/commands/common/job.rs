//! A job as a line of JSON, from `gateway` to `worker`. Its fields and their order are a promise to
//! the scripts that read them.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use mqueue::proto::{Message, MessageId, json_body};

/// Name of the header with the longest time between two lines of a stream, in seconds.
pub(crate) const HEARTBEAT_HEADER: &str = "x-mqueue-heartbeat";

/// A job handed to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JobLine<'a> {
    /// Token that the worker answers with.
    pub(crate) token: Cow<'a, str>,
    id: Cow<'a, str>,
    timestamp: i64,
    attempts: u16,
    body: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Cow<'a, str>>,
}

impl<'a> JobLine<'a> {
    /// Makes a job from a message.
    pub(crate) fn new(token: String, message: &'a Message) -> Self {
        let (body, encoding) = json_body::text(&message.body);
        Self {
            token: Cow::Owned(token),
            id: Cow::Owned(message.id.to_string()),
            timestamp: message.timestamp,
            attempts: message.attempts,
            body,
            encoding: encoding.map(|encoding| Cow::Borrowed(encoding.as_str())),
        }
    }

    /// Appends the job's line to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("strings and numbers are JSON, and memory takes every write");
        out.push(b'\n');
    }

    /// Converts the job back to its message. Fails with a description of the invalid field.
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
    fn a_job_line_reads_back_as_its_message() {
        for body in [&b"a \"b\"\n"[..], b"\xff\x00"] {
            let id = MessageId(*b"0123456789abcdef");
            let message = Message { timestamp: 7, attempts: 2, id, body: Bytes::copy_from_slice(body) };
            let mut line = Vec::new();
            JobLine::new("t".to_owned(), &message).write(&mut line);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let job: JobLine<'_> = serde_json::from_slice(&line).unwrap();
            assert_eq!((&*job.token, job.message().unwrap()), ("t", message));
        }
    }
}
