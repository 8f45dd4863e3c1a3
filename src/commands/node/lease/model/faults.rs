//! Random faults.

use super::super::seal::seal_of;
use super::super::{EPOCH_LIMIT, FleetConfig, Heartbeat, LeaseEvent, LeaseToken, MAX_EPOCH_AHEAD_MS, Role};
use super::node::{Node, fleet_config};
use super::nsqd::Command;
use super::world::{ConnectionKind, ModelEvent, NODES, World};
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
                self.tell(node, LeaseEvent::Stop);
                self.after(1000, ModelEvent::Restart(node));
            }
            5 | 6 => self.restart(node),
            7 | 8 => {
                let connection = if self.rng.bool() { self.nodes[node].token } else { self.nodes[node].monitor };
                connection.into_iter().for_each(|connection| self.closed(connection));
            }
            9 => self.nsqd.ahead += self.rng.u64(..5000),
            10 if self.fault_config.clock_steps_back => self.nsqd.ahead -= self.rng.u64(..5000),
            10 => {}
            11 => self.end_nsqd(),
            // as if a node had counted no token long ago
            12.. if !self.fault_config.lossy && self.nsqd.is_up => {
                self.surplus += u64::from(self.nsqd.tokens() > 0);
                let said = self.nsqd.execute(0, Command::PublishToken, self.wall(), &mut self.rng);
                self.say(said);
            }
            12.. => {}
        }
    }

    /// Publishes forged heartbeats, made from real ones.
    pub(super) fn forge(&mut self) {
        let heard = self.nsqd.beats.len();
        if !self.nsqd.is_up || heard == 0 {
            return;
        }
        let real = self.nsqd.beats[self.rng.usize(..heard)].clone();
        let (token, wall) = (real.token().unwrap(), self.wall());
        let id = self.rng.choice([*b"0000000000000000", *b"ffffffffffffffff"]).unwrap();
        let other = LeaseToken { id: MessageId(id), delivery: self.rng.u16(..) };
        let later = LeaseToken { delivery: token.delivery.wrapping_add(self.rng.u16(1..9)), ..token };
        let role = self.rng.choice([Role::Claiming, Role::Leading, Role::Released]).unwrap();
        let foreign = FleetConfig { lease_ms: self.rng.u64(..), ..fleet_config() };
        let epoch = self
            .rng
            .choice([EPOCH_LIMIT - 1, wall + MAX_EPOCH_AHEAD_MS, wall + MAX_EPOCH_AHEAD_MS + 1_000_000])
            .unwrap();
        let (name, number) = (format!("forger-{}", self.rng.u8(..)), self.rng.u64(..));
        let beat = |token, role, epoch, fleet: &FleetConfig| Heartbeat::new(&name, number, token, role, epoch, fleet);
        let mimic = |seal: &str, key: &str| {
            let beat =
                |role, seal: &str| beat(token, role, real.epoch, &fleet_config()).sealed(String::new(), seal.into());
            let mut run = vec![beat(Role::Leading, seal); 9];
            run.push(beat(Role::Released, key));
            run
        };
        let forged = match self.rng.u8(..10) {
            0 => vec![beat(other, role, real.epoch, &foreign)],
            1 => vec![beat(token, role, real.epoch, &foreign)],
            2 | 3 => vec![beat(other, role, real.epoch, &fleet_config())],
            4 => vec![beat(later, role, real.epoch, &fleet_config())],
            5 => vec![beat(token, role, epoch, &fleet_config())],
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
        self.leave(node, ConnectionKind::Token);
        self.leave(node, ConnectionKind::Monitor);
        let pace = self.nodes[node].pace;
        self.nodes[node] = Node { pace, ..Node::new(node, run, &mut self.rng) };
    }

    fn end_nsqd(&mut self) {
        let killed = self.rng.bool();
        self.nsqd.end(killed);
        let connections: Vec<_> = self.nodes.iter().flat_map(|node| [node.token, node.monitor]).flatten().collect();
        for connection in connections {
            self.send(connection, false, ModelEvent::Closed(connection));
        }
        let down = self.rng.u64(1..3000);
        self.after(down, ModelEvent::Start);
    }
}
