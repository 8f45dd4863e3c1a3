//! The broker's state: each message is published, delivered, and finished.

use bytes::{Buf, BytesMut};
use mqueue::broker::log::{DiskLog, Log, LogOptions, MemoryLog, SyncMode};
use mqueue::broker::state::{BrokerState, Now, SessionSettings, StateLimits};
use mqueue::proto::{Bodies, ChannelName, Frame, TopicName, WriteBuffer};

use crate::Work;
use crate::codec::body;

pub const MESSAGES: u64 = 2000;

pub fn in_memory() -> Work {
    work(Box::new(MemoryLog), || ())
}

/// The broker with a log, which the system syncs when it likes.
pub fn with_a_log() -> Work {
    let folder = tempfile::tempdir().unwrap();
    let options = LogOptions { sync: SyncMode::Never, ..LogOptions::new(folder.path()) };
    work(Box::new(DiskLog::open(&options).unwrap().0), move || drop(folder))
}

fn work(log: Box<dyn Log>, end: impl FnOnce() + 'static) -> Work {
    let now = |n: u64| Now { at: n, unix_nanos: 1_700_000_000_000_000_000 + n as i64 * 1000 };
    let (topic, channel) = (TopicName::new("bench").unwrap(), ChannelName::new("bench").unwrap());
    let mut state = BrokerState::new(StateLimits::default(), log);
    let session = state.connect(SessionSettings::default(), String::new(), 1, now(0));
    assert!(state.subscribe(session, &topic, &channel, now(0)).is_ok());
    state.ready(session, 10, now(0));
    Box::new(move || {
        let (mut out, mut bytes, mut finished) = (WriteBuffer::new(), BytesMut::new(), 0);
        for n in 0..MESSAGES {
            state.publish(&topic, Bodies::one(body()), None, now(n)).unwrap();
            for session in state.woken().collect::<Vec<_>>() {
                state.take_output(session, &mut out, now(n));
                bytes.extend_from_slice(&out.copy_to_bytes(out.remaining()));
            }
            while let Some(Frame::Message(message)) = Frame::decode(&mut bytes, 1 << 20).unwrap() {
                assert!(state.finish(session, &message.id, now(n)).is_ok());
                finished += 1;
            }
            state.flush().unwrap();
        }
        assert_eq!(finished, MESSAGES);
        end();
    })
}
