//! What goes wrong, at random.

use super::super::Event;
use super::node::Node;
use super::nsqd::Command;
use super::world::{Arrives, Kind, NODES, World};

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
