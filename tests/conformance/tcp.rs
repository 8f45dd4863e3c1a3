//! The TCP protocol: commands, and each frame of the response.

use super::compare;
use crate::support::secured::{self, block_on};
use crate::support::{Nsqd, needs};

/// Plays a script on a connection of its own.
fn play(broker: &Nsqd, script: &[u8]) -> String {
    block_on(async { secured::play(&mut secured::connect_plain(&broker.tcp()).await, script).await })
}

/// A command with a body that its size precedes, after the magic.
fn sized(line: &str, body: &[u8]) -> Vec<u8> {
    [b"  V2", &secured::sized(line, body)[..]].concat()
}

/// Commands, alone and in turn, right and wrong.
pub(super) fn commands() -> Vec<Vec<u8>> {
    let lines = [
        "NOP\n",
        "nop\n",
        "\n",
        " \n",
        "NOPE\n",
        "SUB\n",
        "SUB a\n",
        "SUB a b\nSUB a b\n",
        "SUB a$ b\n",
        "SUB a b$\n",
        "SUB  a b\n",
        "SUB a b\r\n",
        "SUB a b\nRDY\n",
        "SUB a b\nRDY 0\n",
        "SUB a b\nRDY 2500\n",
        "SUB a b\nRDY 2501\n",
        "SUB a b\nRDY x\n",
        "SUB a b\nRDY -1\n",
        "RDY 1\n",
        "CLS\n",
        "SUB a b\nCLS\n",
        "SUB a b\nCLS\nCLS\n",
        "SUB a b\nCLS\nRDY 1\n",
        "FIN\n",
        "FIN 0123456789abcdef\n",
        "SUB a b\nFIN\n",
        "SUB a b\nFIN short\n",
        "SUB a b\nFIN 0123456789abcdef\nNOP\n",
        "SUB a b\nFIN 0123456789abcdef\nCLS\n",
        "SUB a b\nREQ 0123456789abcdef\n",
        "SUB a b\nREQ 0123456789abcdef x\n",
        "SUB a b\nREQ 0123456789abcdef 0\nCLS\n",
        "SUB a b\nREQ 0123456789abcdef -1\nCLS\n",
        "SUB a b\nREQ 0123456789abcdef 99999999\nCLS\n",
        "REQ a 1\n",
        "TOUCH a\n",
        "SUB a b\nTOUCH\n",
        "SUB a b\nTOUCH x\n",
        "SUB a b\nTOUCH 0123456789abcdef\nCLS\n",
        "SUB a b\nCLS\nFIN 0123456789abcdef\n",
        "PUB\n",
        "PUB a$\n",
        "MPUB\n",
        "MPUB a$\n",
        "DPUB\n",
        "DPUB a\n",
        "AUTH\n",
        "AUTH x\n",
        "IDENTIFY\n",
        "SUB a b\nIDENTIFY\n",
        "SUB a#ephemeral b#ephemeral\nCLS\n",
        // the state is looked at before the parameters
        "SUB a b\nSUB\n",
        "SUB a b\nAUTH x\n",
        "RDY x\n",
        "REQ\n",
        "TOUCH\n",
        "SUB a b\nCLS\nRDY x\nFIN 0123456789abcdef\nNOP\n",
        "SUB a b\nCLS\nSUB\n",
        // ended within a line, or a body
        "FIN",
        "PUB a",
        "PUB a\n",
        "PUB a\nab",
        "DPUB a 1\n",
        "MPUB a\n",
        "MPUB a\nabc",
    ];
    let mut scripts: Vec<Vec<u8>> = lines.iter().map(|line| [b"  V2", line.as_bytes()].concat()).collect();
    scripts.extend([b"  V1NOP\n".to_vec(), b"V2".to_vec()]);
    for line in
        ["PUB a", "PUB a b", "PUB  a", "DPUB a 10", "DPUB a 0", "DPUB a -1", "DPUB a x", "DPUB a 3600001", "AUTH"]
    {
        scripts.extend([sized(line, b"body"), sized(line, b"")]);
    }
    for size in [-1_i32, 0, 1 << 20 | 1, i32::MAX, i32::MIN] {
        for line in ["PUB a", "MPUB a", "DPUB a 1", "IDENTIFY", "AUTH"] {
            scripts.push([b"  V2", line.as_bytes(), b"\n", &size.to_be_bytes()].concat());
        }
    }
    for line in ["PUB a", "DPUB a 1", "IDENTIFY", "AUTH"] {
        scripts.push([b"  V2", line.as_bytes(), b"\n\0\0\0\x05abcd"].concat());
    }
    scripts.push(b"  V2MPUB a\n\0\0\0\x10\0\0\0\x02\0\0\0\x01x\0\0".to_vec());
    // a line has at most 16 KiB
    for length in [16 * 1024 - 2, 16 * 1024 - 1, 16 * 1024, 64 * 1024] {
        scripts.push([b"  V2", vec![b'x'; length].as_slice(), b"\n"].concat());
        scripts.push([b"  V2PUB a ", vec![b'x'; length - 6].as_slice(), b"\n\0\0\0\x01a"].concat());
    }
    for (count, size) in [(0_i32, 0_i32), (-1, 1), (1, 0), (1, -1), (1, 9), (1, 1), (2, 1), (i32::MAX, 1)] {
        scripts.push(sized("MPUB a", &[&count.to_be_bytes()[..], &size.to_be_bytes(), b"x"].concat()));
    }
    scripts
}

#[test]
fn tcp_commands_are_answered_like_nsqd() {
    needs!("nsqd");
    let scripts = commands();
    compare(&scripts, |script| script.escape_ascii().to_string(), |broker, script| play(broker, script));
}

/// IDENTIFY without negotiation, right and wrong.
pub(super) fn identifies() -> Vec<Vec<u8>> {
    let bodies = [
        "",
        "x",
        "[]",
        "null",
        "{}",
        r#"{"unknown":1}"#,
        r#"{"client_id":1}"#,
        r#"{"client_id":null}"#,
        r#"{"heartbeat_interval":-2}"#,
        r#"{"heartbeat_interval":-1}"#,
        r#"{"heartbeat_interval":0}"#,
        r#"{"heartbeat_interval":999}"#,
        r#"{"heartbeat_interval":60001}"#,
        r#"{"output_buffer_size":-1}"#,
        r#"{"output_buffer_size":63}"#,
        r#"{"output_buffer_size":65537}"#,
        r#"{"output_buffer_timeout":-1}"#,
        r#"{"output_buffer_timeout":30001}"#,
        r#"{"sample_rate":-1}"#,
        r#"{"sample_rate":99}"#,
        r#"{"sample_rate":100}"#,
        r#"{"msg_timeout":-1}"#,
        r#"{"msg_timeout":999}"#,
        r#"{"msg_timeout":1000}"#,
        r#"{"msg_timeout":900001}"#,
        r#"{"msg_timeout":"1"}"#,
        r#"{"feature_negotiation":1}"#,
        r#"{"tls_v1":true}"#,
        r#"{"HEARTBEAT_INTERVAL":-2}"#,
        r#"{"snappy":true,"deflate":true}"#,
        r#"{"heartbeat_interval":1.5}"#,
    ];
    let mut scripts: Vec<Vec<u8>> = bodies.iter().map(|body| sized("IDENTIFY", body.as_bytes())).collect();
    scripts.push([&sized("IDENTIFY", b"{}")[..], &sized("IDENTIFY", b"{}")[4..]].concat());
    scripts.push([sized("IDENTIFY", br#"{"heartbeat_interval":-1}"#), b"SUB a b\n".to_vec()].concat());
    scripts
}

#[test]
fn identify_is_refused_like_nsqd() {
    needs!("nsqd");
    let scripts = identifies();
    compare(&scripts, |script| script.escape_ascii().to_string(), |broker, script| play(broker, script));
}
