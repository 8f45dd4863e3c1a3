//! An NSQ client on a bare socket, controlled by the test.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Nsqd;

/// The fields of a message that tests check.
#[derive(Debug)]
pub struct Message {
    pub id: String,
    pub attempts: u16,
    pub body: String,
}

pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and identifies; returns the answer, too.
    pub fn identified(broker: &Nsqd, wishes: &str) -> (Self, String) {
        let stream = TcpStream::connect(broker.tcp()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
        let mut client = Self { stream };
        client.say("  V2IDENTIFY\n");
        client.stream.write_all(&u32::try_from(wishes.len()).expect("short").to_be_bytes()).expect("it reads");
        client.say(wishes);
        let answer = client.frame();
        (client, answer)
    }

    pub fn subscribed(broker: &Nsqd, topic: &str, channel: &str, wishes: &str) -> Self {
        let (mut client, answer) = Self::identified(broker, wishes);
        assert_eq!(answer, "0 OK");
        client.say(&format!("SUB {topic} {channel}\n"));
        assert_eq!(client.frame(), "0 OK");
        client
    }

    pub fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("it reads");
    }

    /// Reads the next frame: its type and data; `closed` at the end.
    pub fn frame(&mut self) -> String {
        match self.read() {
            Some((kind, data)) => format!("{kind} {}", String::from_utf8_lossy(&data)),
            None => "closed".to_owned(),
        }
    }

    /// Reads the next frame, without the message id.
    pub fn frame_without(&mut self, id: &str) -> String {
        self.frame().replace(id, "ID")
    }

    /// Reads `count` messages.
    pub fn messages(&mut self, count: usize) -> Vec<Message> {
        (0..count)
            .map(|_| {
                let (kind, data) = self.read().expect("a message");
                assert_eq!(kind, 2, "{}", String::from_utf8_lossy(&data));
                Message {
                    id: String::from_utf8_lossy(&data[10..26]).into_owned(),
                    attempts: u16::from_be_bytes([data[8], data[9]]),
                    body: String::from_utf8_lossy(&data[26..]).into_owned(),
                }
            })
            .collect()
    }

    /// Reads `count` messages; returns their bodies, sorted: a broker may deliver in any order.
    pub fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut bodies: Vec<_> = self.messages(count).into_iter().map(|message| message.body).collect();
        bodies.sort();
        bodies
    }

    fn read(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 8];
        if let Err(e) = self.stream.read_exact(&mut header) {
            assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "the broker neither answers nor closes");
            return None;
        }
        let [size, kind] = [0, 4].map(|at| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes")));
        let mut data = vec![0; size as usize - 4];
        self.stream.read_exact(&mut data).expect("a whole frame");
        Some((kind, data))
    }
}
