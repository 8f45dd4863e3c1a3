//! What goes wrong, at random.

use super::super::seal::seal_of;
use super::super::{Beat, Charter, EPOCHS, EPOCHS_AHEAD, Event, Role, Token};
use super::node::{Node, charter};
use super::nsqd::Command;
use super::world::{Arrives, Kind, NODES, World};
use mqueue::proto::MessageId;

impl World {
    pub(super) fn fault(&mut self) {
        let node = self.rng.usize(..NODES);
        match self.rng.u8(..14) {
            0..4 => {
                let pause = self.rng.u64(..5000);
                self.nodes[node].paused_until = self.now + pause;
            }
            4 => {
                self.tell(node, Event::Stop);
                self.after(1000, Arrives::Restart(node));
            }
            5 | 6 => self.restart(node),
            7 | 8 => {
                let connection = if self.rng.bool() { self.nodes[node].token } else { self.nodes[node].ears };
                connection.into_iter().for_each(|connection| self.closed(connection));
            }
            9 => self.nsqd.ahead += self.rng.u64(..5000),
            10 if self.trouble.back => self.nsqd.ahead -= self.rng.u64(..5000),
            10 => {}
            11 => self.end_nsqd(),
            // as if somebody had found none, long ago
            12.. if !self.trouble.lossy && self.nsqd.is_up => {
                self.surplus += u64::from(self.nsqd.tokens() > 0);
                let said = self.nsqd.execute(0, Command::Mint, self.wall(), &mut self.rng);
                self.say(said);
            }
            12.. => {}
        }
    }

    /// Somebody who reads all beats publishes some that no node has sent.
    pub(super) fn forge(&mut self) {
        let heard = self.nsqd.beats.len();
        if !self.nsqd.is_up || heard == 0 {
            return;
        }
        let real = self.nsqd.beats[self.rng.usize(..heard)].clone();
        let (token, wall) = (real.token().unwrap(), self.wall());
        let id = self.rng.choice([*b"0000000000000000", *b"ffffffffffffffff"]).unwrap();
        let other = Token { id: MessageId(id), delivery: self.rng.u16(..) };
        let later = Token { delivery: token.delivery.wrapping_add(self.rng.u16(1..9)), ..token };
        let role = self.rng.choice([Role::Claiming, Role::Leading, Role::Released]).unwrap();
        let foreign = Charter { lease_ms: self.rng.u64(..), ..charter() };
        let epoch = self.rng.choice([EPOCHS - 1, wall + EPOCHS_AHEAD, wall + EPOCHS_AHEAD + 1_000_000]).unwrap();
        let (name, number) = (format!("forger-{}", self.rng.u8(..)), self.rng.u64(..));
        let beat = |token, role, epoch, charter: &Charter| Beat::new(&name, number, token, role, epoch, charter);
        let mimic = |seal: &str, key: &str| {
            let beat = |role, seal: &str| beat(token, role, real.epoch, &charter()).sealed(String::new(), seal.into());
            let mut run = vec![beat(Role::Leading, seal); 9];
            run.push(beat(Role::Released, key));
            run
        };
        let forged = match self.rng.u8(..10) {
            0 => vec![beat(other, role, real.epoch, &foreign)],
            1 => vec![beat(token, role, real.epoch, &foreign)],
            2 | 3 => vec![beat(other, role, real.epoch, &charter())],
            4 => vec![beat(later, role, real.epoch, &charter())],
            5 => vec![beat(token, role, epoch, &charter())],
            6 => mimic(&seal_of("key"), "key"),
            7 => mimic(&real.seal, "key"),
            8 => vec![real.clone(); 3],
            _ => {
                let mut own = real.clone();
                own.number += self.rng.u64(..3);
                vec![own]
            }
        };
        for beat in forged {
            self.forged += 1;
            let said = self.nsqd.publish(&beat, wall);
            self.say(said);
        }
    }

    pub(super) fn restart(&mut self, node: usize) {
        let run = self.nodes[node].run + 1;
        self.leave(node, Kind::Token);
        self.leave(node, Kind::Ears);
        let pace = self.nodes[node].pace;
        self.nodes[node] = Node { pace, ..Node::new(node, run, &mut self.rng) };
    }

    fn end_nsqd(&mut self) {
        let killed = self.rng.bool();
        self.nsqd.end(killed);
        let connections: Vec<_> = self.nodes.iter().flat_map(|node| [node.token, node.ears]).flatten().collect();
        for connection in connections {
            self.send(connection, false, Arrives::Closed(connection));
        }
        let down = self.rng.u64(1..3000);
        self.after(down, Arrives::Start);
    }
}
