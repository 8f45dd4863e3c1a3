//! The fuzz targets' checks as a short test: mutated valid encodings from numbered seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use fastrand::Rng;

use crate::proto::check::{self, encoded};
use crate::proto::{ChannelName, Command, Frame, Message, MessageId, Response, TopicName, WireError, WriteBuffer};

const INPUTS: u64 = 20_000;
/// Edge cases of sizes, counts and lines.
const EDGES: [&[u8]; 9] =
    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01", b" ", b"\r\n", b"\n", b"9", b"#ephemeral"];

#[test]
fn mutated_commands_keep_the_rules() {
    run(check::commands, |rng, out| command(rng).encode(out));
}

#[test]
fn mutated_frames_keep_the_rules() {
    run(check::frames, |rng, out| frame(rng).encode(out));
}

/// Runs `check` on mutated output of `write`; a failure names its seed.
fn run(check: fn(&[u8]), write: fn(&mut Rng, &mut WriteBuffer)) {
    for seed in 0..INPUTS {
        let mut rng = Rng::with_seed(seed);
        let input = input(&mut rng, write);
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            panic!("seed {seed}, input {}", input.escape_ascii());
        }
    }
}

fn input(rng: &mut Rng, write: fn(&mut Rng, &mut WriteBuffer)) -> Vec<u8> {
    let count = rng.usize(1..5);
    let mut bytes = encoded(|out| (0..count).for_each(|_| write(rng, out))).to_vec();
    for _ in 0..rng.usize(0..4) {
        mutate(rng, &mut bytes);
    }
    let sizes: Vec<u8> = (0..rng.usize(0..8)).map(|_| rng.u8(..)).collect();
    [&[sizes.len() as u8], &sizes[..], &bytes[..]].concat()
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.usize(0..=bytes.len());
    let end = (at + rng.usize(0..20)).min(bytes.len());
    match rng.u8(0..6) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.extend_from_within(at..end),
        3 => drop(bytes.splice(at..at, EDGES[rng.usize(..EDGES.len())].iter().copied())),
        4 => {
            let edge = EDGES[rng.usize(..EDGES.len())];
            let end = (at + edge.len()).min(bytes.len());
            drop(bytes.splice(at..end, edge.iter().copied()));
        }
        _ => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << rng.u8(0..8)),
    }
}

fn body(rng: &mut Rng) -> Bytes {
    (0..rng.usize(1..60)).map(|_| rng.u8(..)).collect()
}

fn id(rng: &mut Rng) -> MessageId {
    MessageId(std::array::from_fn(|_| rng.digit(16) as u8))
}

fn command(rng: &mut Rng) -> Command {
    let topic = TopicName::new(["t", "topic.with-all_1", "t#ephemeral"][rng.usize(..3)]).unwrap();
    match rng.u8(0..12) {
        0 => Command::Identify(body(rng)),
        1 => Command::Auth(body(rng)),
        2 => Command::Sub { topic, channel: ChannelName::new("c").unwrap() },
        3 => Command::Rdy(rng.u64(..)),
        4 => Command::Fin(id(rng)),
        5 => Command::Req { id: id(rng), delay: rng.u64(0..1000) },
        6 => Command::Touch(id(rng)),
        7 => Command::Cls,
        8 => Command::Nop,
        9 => Command::Pub { topic, body: body(rng) },
        10 => Command::Dpub { topic, delay: rng.u64(0..1000), body: body(rng) },
        _ => Command::Mpub { topic, bodies: (0..rng.usize(1..6)).map(|_| body(rng)).collect() },
    }
}

fn frame(rng: &mut Rng) -> Frame {
    match rng.u8(0..5) {
        0 => Frame::Response(Response::Ok),
        1 => Frame::Response(Response::Heartbeat),
        2 => Frame::Response(Response::CloseWait),
        3 => Frame::Error(WireError::parse(Bytes::from_static(b"E_FIN_FAILED FIN x failed ID not in flight"))),
        _ => Frame::Message(Message { timestamp: rng.i64(..), attempts: rng.u16(..), id: id(rng), body: body(rng) }),
    }
}
